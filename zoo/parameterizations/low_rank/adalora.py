"""Low rank in directions with a weight each, W = B diag(e) A (AdaLoRA, arXiv 2303.10512).

r (m + n + 1) parameters, until directions are pruned (`zoo.training.callbacks.RankAllocator`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.low_rank.products import add_product


class AdaLoRA(WeightParameterization):
    """Low rank with a weight a direction, to be pruned.

    W = B diag(e) A; B (m, r), e (r, 1) and A (r, n) are trained, the paper's P, Lambda and Q;
    r (m + n + 1) parameters. A direction whose e is 0 is pruned: it adds nothing to W, and its
    column of B and row of A remain. By itself the map prunes none. The callback `RankAllocator`
    does, over all layers to one budget, and adds the gradient of `orthogonality`, by which B and A
    come to be orthonormal and e to be like singular values.

    peft multiplies by alpha / r besides, which is a layer's `scale` here.

        >>> zoo.AdaLoRA(8, 8, rank=2).num_trainable
        34

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r before anything is pruned, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four.
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
        rank = rank_within(m, n, m + n + 1, min(m, n), rank, ratio, coefficients, lora_rank)
        self.rank = rank
        self.lora_A = nn.Parameter(torch.empty(rank, n))
        self.lora_E = nn.Parameter(torch.empty(rank, 1))
        self.lora_B = nn.Parameter(torch.empty(m, rank))
        self.reset_parameters(n**-0.5)

    def weight(self) -> Tensor:
        with without_autocast(self.lora_B.device):
            return self.lora_B @ self._right()

    def _right(self) -> Tensor:
        """Return diag(e) A, (r, n)."""
        return self.lora_E * self.lora_A

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (x (diag(e) A)^T) B^T + b: r (m + n) operations per row of x instead of mn."""
        return F.linear(F.linear(x, self._right()), self.lora_B, bias)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (x (diag(e) A)^T) B^T, the last added in one pass with the sum."""
        return add_product(x, base, bias, self.lora_B, self._right(), scale)

    def look_up(self, index: Tensor) -> Tensor:
        """Return B[index] diag(e) A: r n operations per row."""
        with without_autocast(self.lora_B.device):
            return F.embedding(index, self.lora_B) @ self._right()

    # ---- Directions ------------------------------------------------------------------------------

    def directions(self) -> Tensor:
        """Say which directions are left, (r,): those whose e is not 0."""
        return self.lora_E.detach().flatten() != 0

    @torch.no_grad()
    def prune_(self, keep: Tensor) -> None:
        """Set e to 0 in all directions but those to keep, (r,).

        Training may bring a direction back, whose e has a gradient all the same.
        """
        self.lora_E.masked_fill_(~keep.to(self.lora_E.device).view_as(self.lora_E), 0.0)

    def deviations(self) -> tuple[Tensor, Tensor]:
        """Return B^T B - I and A A^T - I, (r, r) each, differentiable, in float32 at least."""
        with without_autocast(self.lora_B.device):
            wide = torch.promote_types(self.lora_B.dtype, torch.float32)
            a, b = self.lora_A.to(wide), self.lora_B.to(wide)
            identity = torch.eye(self.rank, dtype=wide, device=a.device)
            return b.mT @ b - identity, a @ a.mT - identity

    def orthogonality(self) -> Tensor:
        """Return the paper's regularizer |B^T B - I|_F^2 + |A A^T - I|_F^2, differentiable."""
        b, a = self.deviations()
        return b.square().sum() + a.square().sum()

    # ---- Cost, start and rates -------------------------------------------------------------------

    def building(self) -> tuple[int, int]:
        """Count r mn to build B (diag(e) A), and twice as many for the gradients of the two."""
        products = self.rank * self.out_features * self.in_features
        return products, 2 * products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T r (m + n) forward, twice as many backward, r (m + n + 1) read; and W0's."""
        (m, n), factors = self.shape, self.rank * (self.out_features + self.in_features)
        base = m * n if update else 0
        read = factors + self.rank + base
        return Cost(rows * (factors + base), rows * (2 * factors + base), read)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw B of variance 1 / m and A of 1 / n, with e = std sqrt(mn / r): E[W_ij^2] = std^2.

        Columns of B and rows of A are then near orthonormal, whatever the shape. For std = 0, e is
        0 as published; the published standard deviation of B and A, 0.02, is that of 2,500 rows or
        columns, and far from orthonormal elsewhere.
        """
        (m, n), r = self.shape, self.rank
        self.lora_A.normal_(0, 1).mul_(n**-0.5)
        self.lora_B.normal_(0, 1).mul_(m**-0.5)
        self.lora_E.fill_(std * math.sqrt(m * n / r))
        if std > 0:
            e, a, b = math.sqrt(m * n / r), 1 / (std * n**0.5), 1 / (std * m**0.5)
            rates = {"lora_A": a, "lora_E": e, "lora_B": b}
            self._rates = {name: rate / math.sqrt(3) for name, rate in rates.items()}
        else:
            a, e, b = math.sqrt(n / r), math.sqrt(m * n / r), math.sqrt(m / r)
            self._rates = {"lora_A": a, "lora_E": e, "lora_B": b}

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the truncated singular value decomposition (Eckart-Young): B = U, e = S, A = V^T.

        For a target of 0 it is as at the start of an update.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        wide = target.to(self.lora_A.device, torch.float64)
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
        self.lora_A.copy_(vh[: self.rank])
        self.lora_E.copy_(s[: self.rank, None])
        self.lora_B.copy_(u[:, : self.rank])

    @property
    def lr_mult(self) -> dict[str, float]:
        """A third of a dense step's variance each; for an update, what makes it LoRA's step.

        dW = B diag(de) A + B diag(e) dA + dB diag(e) A with entries of +-lr times a rate f has per
        weight the variance lr^2 times

            f_e^2 r / (mn) + f_A^2 n std^2 + f_B^2 m std^2

        for a W of standard deviation std. From scratch each term is 1/3. An update begins with e =
        0 and moves by the first alone, f_e = sqrt(mn / r). Its A then has LoRA's own rate for a
        random A, sqrt(n / r), and B sqrt(m / r): W grows and turns as fast as LoRA's B A does.
        """
        return dict(self._rates)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"
