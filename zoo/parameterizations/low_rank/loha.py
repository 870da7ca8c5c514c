"""Hadamard products of low-rank factors, W = (A1 B1) * (A2 B2), entry by entry.

It is FedPara (arXiv 2108.06098), known from LyCORIS and peft as LoHa; 2 r (m + n) parameters.
"""

import math

import torch
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.low_rank.products import add_product

FACTORS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class LoHa(WeightParameterization):
    """Two low-rank matrices multiplied entry by entry.

    W = (A1 B1) * (A2 B2), A1 and A2 (m, r), B1 and B2 (r, n), in peft's names; 2 r (m + n)
    parameters. The rank is up to r^2, the stable rank that of LoRA. The factor alpha / r of LyCORIS
    and peft is left to the layer's scale.

    W is also one product of factors of rank r^2, the products of all pairs of columns and of rows,
    which nothing has to be built for where r^2 (m + n) <= mn: r^2 (m + n) multiply-adds a row, and
    twice as many backward. Otherwise W is built of 2 r mn, and 4 r mn backward.

        >>> zoo.LoHa(8, 8, rank=2).num_trainable
        64

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, r = floor(ratio mn / (2 (m + n))); or
        coefficients: at most as many, r = floor(coefficients / (2 (m + n))); or
        lora_rank: half of this one, rounded down, so at least 2. Exactly one of the four.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        self.rank = rank_within(m, n, 2 * (m + n), min(m, n), rank, ratio, coefficients, lora_rank)
        self.hada_w1_a = nn.Parameter(torch.empty(m, self.rank))
        self.hada_w1_b = nn.Parameter(torch.empty(self.rank, n))
        self.hada_w2_a = nn.Parameter(torch.empty(m, self.rank))
        self.hada_w2_b = nn.Parameter(torch.empty(self.rank, n))
        self.reset_parameters(in_features**-0.5)

    def weight(self) -> Tensor:
        dtype = torch.promote_types(self.hada_w1_a.dtype, torch.float32)
        a1, b1, a2, b2 = (getattr(self, name).to(dtype) for name in FACTORS)
        with without_autocast(a1.device):
            return _product(a1, b1, a2, b2).to(self.hada_w1_a.dtype)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (x R^T) L^T + b with W = L R of rank r^2, where that is cheaper than W."""
        if self.builds_weight:
            return super().forward(x, bias)
        left, right = self._pairs()
        return nn.functional.linear(nn.functional.linear(x, right), left, bias)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (x R^T) L^T, where that is cheaper than W."""
        if self.builds_weight:
            return super().forward_update(x, base, bias, scale)
        return add_product(x, base, bias, *self._pairs(), scale)

    def look_up(self, index: Tensor) -> Tensor:
        """Return (A1[index] B1) * (A2[index] B2): 2 r n operations per row."""
        dtype = torch.promote_types(self.hada_w1_a.dtype, torch.float32)
        a1, b1, a2, b2 = (getattr(self, name).to(dtype) for name in FACTORS)
        rows1, rows2 = (nn.functional.embedding(index, a) for a in (a1, a2))
        with without_autocast(a1.device):
            return _product(rows1, b1, rows2, b2).to(self.hada_w1_a.dtype)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Return L (m, r^2) and R (r^2, n), L_i(kl) = A1_ik A2_il and R_(kl)j = B1_kj B2_lj."""
        left = self.hada_w1_a[:, :, None] * self.hada_w2_a[:, None, :]
        right = self.hada_w1_b[:, None, :] * self.hada_w2_b[None, :, :]
        return left.flatten(1), right.flatten(0, 1)

    @property
    def builds_weight(self) -> bool:
        """Whether r^2 (m + n) > mn."""
        m, n = self.shape
        return self.rank**2 * (m + n) > m * n

    def building(self) -> tuple[int, int]:
        """Count 2 r mn for both products, and twice as many for their factors."""
        products = 2 * self.rank * self.out_features * self.in_features
        return products, 2 * products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T r^2 (m + n), twice as many backward, r^2 (m + n) read; W0's; or those of W."""
        if self.builds_weight:
            return cost_with_weight(self, rows)
        (m, n), pairs = self.shape, self.rank**2 * (self.out_features + self.in_features)
        base = m * n if update else 0
        return Cost(rows * (pairs + base), rows * (2 * pairs + base), pairs + base)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw factors of standard deviation (std / r)^(1/4), so that E[W_ij^2] = std^2.

        Each product's entries have variance r (std / r). For std = 0, A2 = 0, A1 ~ N(0, 0.01) and
        B1, B2 ~ N(0, 1), as LyCORIS has it; peft has B2 = 0 and uniform others.
        """
        sizes = (4 * ((std / self.rank) ** 0.25,)) if std > 0 else (0.1, 1.0, 0.0, 1.0)
        for name, size in zip(FACTORS, sizes, strict=True):
            getattr(self, name).normal_(0, 1).mul_(size)
        a1, b1, a2, b2 = (size * size for size in sizes)
        self._step = self.rank * math.sqrt((a1 + b1) * a2 * b2 + a1 * b1 * (a2 + b2))

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Alternate least squares, each factor with the other three fixed, while the error falls.

        It begins at the coefficients as they are, and if they cannot become W, at the best A1 B1
        with a nearly constant A2 B2. A best approximation need not exist: as with sums of tensors,
        some targets are approached by factors that grow without end and cancel. So it stops when a
        round gains less than 1e-8 of |target|^2, or after 500, of a large weight fewer (`rounds`),
        at a point that is stationary but
        for such a growth; the four factors are then made as large as each other.
        """
        if not target.any():
            self.hada_w2_a.zero_()
            return
        t = target.to(self.hada_w1_a.device, torch.float64)
        size = t.square().sum().item()
        factors = self._improved(t, tuple(getattr(self, name).double() for name in FACTORS))
        if (t - _product(*factors)).square().sum().item() > 1e-12 * size:
            factors, last = self._near_low_rank(t), math.inf
            for _ in range(rounds(500, 4 * self.rank**2 * t.numel())):
                factors = self._improved(t, factors)
                error = (t - _product(*factors)).square().sum().item()
                if last - error <= 1e-8 * size:
                    break
                last = error
        (a1, b1), (a2, b2) = _balanced(*factors[:2]), _balanced(*factors[2:])
        gain = (a2.norm() / a1.norm()).sqrt()
        for name, factor in zip(FACTORS, (a1 * gain, b1 * gain, a2 / gain, b2 / gain), strict=True):
            getattr(self, name).copy_(factor)

    @staticmethod
    def _improved(t: Tensor, factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return each factor's least squares, the second product first, which may be 0."""
        a1, b1, a2, b2 = factors
        for _ in range(2):
            other = a1 @ b1
            a2 = _solve(t, other, b2)
            b2 = _solve(t.mT, other.mT, a2.mT).mT
            a1, b1, a2, b2 = a2, b2, a1, b1
        return a1, b1, a2, b2

    def _near_low_rank(self, t: Tensor) -> tuple[Tensor, ...]:
        """Return A1 B1 of rank r nearest to t, and A2 B2 of 1 and a tenth of what varies."""
        u, s, vh = torch.linalg.svd(t, full_matrices=False)
        r, root = self.rank, s[: self.rank].sqrt()
        a2 = torch.cat([torch.ones_like(u[:, :1]), 0.1 * len(u) ** 0.5 * u[:, : r - 1]], 1)
        b2 = torch.cat([torch.ones_like(vh[:1]), 0.1 * vh.shape[1] ** 0.5 * vh[: r - 1]])
        return u[:, :r] * root, root[:, None] * vh[:r], a2, b2

    @property
    def lr_mult(self) -> float:
        """1 / (r sqrt((a1 + b1) a2 b2 + a1 b1 (a2 + b2))), of the factors' first mean squares.

        dW is the step of either product times the other one; with entries of +-lr that of A1 B1 has
        variance lr^2 r (a1 + b1), and A2 B2 itself r a2 b2. From scratch this is 1 / (2 r a^3), a
        the standard deviation; for an update that starts at 0, 10 / r.
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def _product(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    return (a1 @ b1) * (a2 @ b2)


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product, columns of the left as long as rows of the right."""
    gain = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).sqrt()
    gain = torch.where(gain > 0, gain, 1.0)
    return left * gain, right / gain[:, None]


def _solve(t: Tensor, other: Tensor, right: Tensor) -> Tensor:
    """Return the left that fits other * (left @ right) to t; (m, n), (m, n), (r, n) to (m, r)."""
    pairs = (right[:, None, :] * right[None, :, :]).flatten(0, 1)
    among = (other.square() @ pairs.mT).unflatten(1, (len(right), len(right)))
    along = ((t * other) @ right.mT)[..., None]
    return torch.linalg.lstsq(among, along, driver="gelsd").solution[..., 0]
