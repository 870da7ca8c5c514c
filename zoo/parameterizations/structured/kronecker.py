"""Sums of Kronecker products, W = sum_t A_t (x) B_t; T (m1 n1 + m2 n2) parameters.

One term is KronA (arXiv 2212.10650), and LoKr (arXiv 2309.14859), which may have factors of low
rank. With m = m1 m2 and n = n1 n2, block (i, j) of m2 x n2 weights is sum_t A_t[i, j] B_t: T
patterns, mixed by numbers. Rearranged, with a row a block, W is a matrix of rank T (Van Loan and
Pitsianis, 1993).
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import largest_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.structured.sizes import divisors, nearest_divisors, two_factors
from zoo.parameterizations.structured.two_paths import TwoPaths, rows_of


class Kronecker(WeightParameterization):
    """A sum of Kronecker products, as KronA and LoKr have one.

    W = sum_t A_t (x) B_t, A_t (m1, n1), B_t (m2, n2), m = m1 m2, n = n1 n2; T (m1 n1 + m2 n2)
    parameters. The rank of a term is that of A times that of B: full where both are square, wide or
    tall. LoKr is `terms: 1`, with `rank` for peft's r (and `decompose_both`).

    Building W takes b = T mn multiply-adds, and 2 b backward. Without W a row of x takes

        f = T min(n m2 + m n1, n m1 + m n2)      B or A first

    forward and 2 f backward, which is done where it pays by `PRODUCTS_UP_TO`. A factor of rank r
    is built first, of T r m2 n2 (or T r m1 n1), and twice as many backward.

        >>> zoo.Kronecker(8, 8, ratio=0.5).num_trainable
        20

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        terms: T, in [1, min(m1 n1, m2 n2)]; or
        ratio: of the mn weights, as many terms as fit; or
        coefficients: at most as many, as many terms as fit; or
        lora_rank: as many terms as fit into what LoRA of this rank has, r (m + n). Exactly one of
            the four.
        factor: m1 and n1, which divide m and n; or one number for both, of which each is the
            largest divisor up to it (peft's decompose_factor). By default the smaller of the two
            most even factors of either side, as LoKr has them: 24 of 768 = 24 x 32.
        rank: r, at least 1: B = B' B'', (m2, r) and (r, n2), if r < max(m2, n2) / 2, as peft has
            it. None: B itself.
        decompose_both: whether A is of rank r too, if r < max(m1, n1) / 2.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no term, and
            for factors that do not divide; it names those next to them that do.
    """

    width_exponent: ClassVar[float] = -0.5
    """At a fixed number of terms."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        terms: int | None = None,
        factor: int | Sequence[int] | None = None,
        rank: int | None = None,
        decompose_both: bool = False,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        m1, n1 = _first_factors(m, n, factor)
        self.sizes = {"lokr_w1": (m1, n1), "lokr_w2": (m // m1, n // n1)}
        self.ranks = {
            name: rank
            for name, size in self.sizes.items()
            if rank is not None and 2 * rank < max(size) and (name == "lokr_w2" or decompose_both)
        }
        shapes: dict[str, tuple[int, int]] = {}
        for name, (p, q) in self.sizes.items():
            r = self.ranks.get(name)
            shapes |= {name: (p, q)} if r is None else {f"{name}_a": (p, r), f"{name}_b": (r, q)}
        each, most = sum(p * q for p, q in shapes.values()), min(m1 * n1, m * n // (m1 * n1))
        least = min((p * q + m // p * (n // q), p, q) for p in divisors(m) for q in divisors(n))
        hint = f" with factor [{m1}, {n1}], and the least is {least[0]} coefficients with "
        hint += f"[{least[1]}, {least[2]}]"
        self.terms = largest_within(
            *(m, n, lambda t: t * each, most, terms, ratio, coefficients, lora_rank),
            what="terms",
            hint=hint,
        )
        for part, shape in shapes.items():
            self.register_parameter(part, nn.Parameter(torch.empty(self.terms, *shape)))
        self._parts = tuple(shapes)
        m2, n2 = self.sizes["lokr_w2"]
        takes = n * m2 + m * n1, n * m1 + m * n2
        self._b_first = takes[0] <= takes[1]
        pairs = sum(self.terms * r * math.prod(self.sizes[name]) for name, r in self.ranks.items())
        build = self.terms * m * n + pairs
        self._takes = TwoPaths(
            m, n, self.num_trainable, self.terms * min(takes), build, both=pairs, small=True
        )
        self.reset_parameters(in_features**-0.5)

    @property
    def _device(self) -> torch.device:
        return getattr(self, self._parts[0]).device  # a replica has no parameters

    def _factors(self) -> list[Tensor]:
        """Return A and B of all terms."""
        with without_autocast(self._device):
            return [
                getattr(self, name)
                if name not in self.ranks
                else getattr(self, f"{name}_a") @ getattr(self, f"{name}_b")
                for name in self.sizes
            ]

    def weight(self) -> Tensor:
        (m1, n1), (m2, n2) = self.sizes.values()
        a, b = self._factors()
        with without_autocast(a.device):
            w = (a.flatten(1).mT @ b.flatten(1)).view(m1, n1, m2, n2)
            return w.transpose(1, 2).reshape(self.shape)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W where that pays."""
        if not self._takes.pay(rows_of(x), x.device):
            return super().forward(x, bias)
        y = self._product(x)
        return y if bias is None else y + bias

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s W)^T + b, without W where that pays."""
        if not self._takes.pay(rows_of(x), x.device, update=True):
            return super().forward_update(x, base, bias, scale)
        y = F.linear(x, base, bias)
        return (y + self._product(x, scale)).to(y.dtype)

    def _product(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Return s x W^T: with X = x as (n1, n2), it is sum_t A_t X B_t^T as (m1, m2)."""
        (m1, n1), (m2, n2) = self.sizes.values()
        a, b = self._factors()
        a = a if scale == 1 else scale * a
        rows = (x if autocast_dtype(x.device) is not None else x.to(a.dtype)).reshape(-1, n1, n2)
        if self._b_first:
            z = F.linear(rows, b.flatten(0, 1)).reshape(-1, n1 * self.terms, m2)
            y = a.permute(1, 2, 0).flatten(1) @ z
        else:
            z = a.transpose(0, 1).flatten(0, 1) @ rows
            y = F.linear(z.reshape(-1, m1, self.terms * n2), b.transpose(0, 1).flatten(1))
        return y.reshape(*x.shape[:-1], self.out_features)

    @property
    def builds_weight(self) -> bool:
        return self._takes.keep(self._device)

    def building(self) -> tuple[int, int]:
        """Count b, and 2 b backward."""
        return self._takes.build, 2 * self._takes.build

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what is said of the class, of `rows` rows; read is W, or the parameters and W0."""
        return self._takes.cost(rows, self._device, update)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw A and B of variance std / sqrt(T) each, so that E[W_ij^2] = std^2.

        The factors of one of low rank have variance std / sqrt(T r). For std = 0, A = 0 (or A' of A
        = A' A'') and B ~ N(0, 1 / n2): peft's start. LyCORIS has A at random and B = 0 (or B'').
        """
        n2 = self.sizes["lokr_w2"][1]
        each = math.sqrt(std) * self.terms**-0.25
        b, moves_b = self._draw("lokr_w2", each if std > 0 else n2**-0.5)
        a, moves_a = self._draw("lokr_w1", each)
        self._step = math.sqrt(self.terms * (moves_a * b**2 + a**2 * moves_b))

    def _draw(self, name: str, std: float) -> tuple[float, float]:
        """Draw A or B; return std, and the variance of a step of +-1 in each of its parameters."""
        r = self.ranks.get(name)
        if r is None:
            getattr(self, name).normal_(0, 1).mul_(std)
            return std, 1.0
        right = math.sqrt(std) * r**-0.25 if std > 0 else self.sizes[name][1] ** -0.5
        left = right if std > 0 else 0.0
        getattr(self, f"{name}_a").normal_(0, 1).mul_(left)
        getattr(self, f"{name}_b").normal_(0, 1).mul_(right)
        return std, r * (left**2 + right**2)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the T largest singular values of the rearranged target: the best fit there is.

        Factors of low rank have no closed form: one after the other is set to its best given the
        rest (a truncated decomposition), until the error stops falling, or earlier for a large
        weight (`rounds`). For a target of 0 they are as at the start of an update.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        (m1, n1), (m2, n2) = self.sizes.values()
        device = self._device
        r = (
            target.to(device, torch.float64)
            .view(m1, m2, n1, n2)
            .transpose(1, 2)
            .reshape(m1 * n1, m2 * n2)
        )
        u, s, vh = torch.linalg.svd(r, full_matrices=False)
        root = s[: self.terms].sqrt()
        a, b = u.mT[: self.terms] * root[:, None], vh[: self.terms] * root[:, None]
        if self.ranks:
            a, b = self._alternate(r, a, b)
        for (name, size), values in zip(self.sizes.items(), (a, b), strict=True):
            self._set(name, values.unflatten(1, size))

    def _alternate(self, r: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return terms with factors of low rank, from those that are given or those there are."""
        tiny = torch.finfo(r.dtype).tiny
        a = torch.stack([self._nearest("lokr_w1", each) for each in a])
        b = torch.stack([self._nearest("lokr_w2", each) for each in b])
        now = [factor.to(r, copy=True).flatten(1) for factor in self._factors()]
        if (r - now[0].mT @ now[1]).norm() < (r - a.mT @ b).norm():
            a, b = now
        last, left = math.inf, r - a.mT @ b
        for _ in range(rounds(1000, 16 * self.terms * r.numel())):
            for t in range(self.terms):
                rest = left + torch.outer(a[t], b[t])
                a[t] = self._nearest("lokr_w1", rest @ b[t] / b[t].square().sum().clamp(min=tiny))
                b[t] = self._nearest("lokr_w2", a[t] @ rest / a[t].square().sum().clamp(min=tiny))
                left = rest - torch.outer(a[t], b[t])
            left = r - a.mT @ b
            error = left.square().sum().item()
            if last - error <= 1e-12 * r.square().sum().item():
                break
            last = error
        return a, b

    def _nearest(self, name: str, values: Tensor) -> Tensor:
        """Return the numbers of A or B, as the matrix of its rank that is nearest to them."""
        r = self.ranks.get(name)
        if r is None:
            return values
        left, right = _halves(values.view(self.sizes[name]), r)
        return (left @ right).flatten()

    def _set(self, name: str, values: Tensor) -> None:
        r = self.ranks.get(name)
        if r is None:
            getattr(self, name).copy_(values)
            return
        for part, half in zip("ab", _halves(values, r), strict=True):
            getattr(self, f"{name}_{part}").copy_(half)

    @property
    def lr_mult(self) -> float:
        """1 / sqrt(T (v_A b^2 + a^2 v_B)), a and b the first root-mean-squares of A and B.

        dW = sum_t dA_t (x) B_t + A_t (x) dB_t, and entries of dA have variance v_A lr^2: 1, or
        those of A' A'' r (a'^2 + a''^2). For an update that starts at 0 that is sqrt(n2 / T).
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        (m1, n1), (m2, n2) = self.sizes.values()
        rank = "".join(f", {name} of rank {r}" for name, r in self.ranks.items())
        return f"{super().extra_repr()}, {self.terms} terms of {m1} x {n1} and {m2} x {n2}{rank}"


def _first_factors(m: int, n: int, factor: int | Sequence[int] | None) -> tuple[int, int]:
    """Return m1 and n1."""
    if factor is None or isinstance(factor, int):
        if factor is not None and factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        return two_factors(m, factor)[0], two_factors(n, factor)[0]
    if len(factor) != 2:
        raise ValueError(f"factor must be one number or two, m1 and n1, got {list(factor)}")
    for size, side, first in zip((m, n), ("rows", "columns"), factor, strict=True):
        if first < 1 or size % first:
            works = " or ".join(map(str, nearest_divisors(size, first)))
            raise ValueError(
                f"factor must divide shape {(m, n)}: {size} {side} by {works}, got {first}"
            )
    return factor[0], factor[1]


def _halves(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the two factors of the nearest matrices of a rank, (..., p, r) and (..., r, q)."""
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    root = s[..., :rank].sqrt()
    return u[..., :rank] * root[..., None, :], root[..., None] * vh[..., :rank, :]
