"""Low-rank factors, W = B A (LoRA, arXiv 2106.09685); r (m + n) parameters."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.low_rank.products import add_product


class LoRA(WeightParameterization):
    """Low-rank factors, W = B A, never built.

    B (m, r) and A (r, n), both trained; r (m + n) parameters.

        >>> zoo.LoRA(8, 8, rank=2).num_trainable
        32

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, r = floor(ratio mn / (m + n)); or
        coefficients: at most as many, r = floor(coefficients / (m + n)); or
        lora_rank: r by the name that it has elsewhere. Exactly one of the four.
        seed: unused, nothing is fixed.
        dropout: probability, in [0, 1), with which a number of x does not reach A in training, the
            others being divided by its complement: the product is then one with W on the average.
        lr_ratio: how many times A's rate B's is, above 0; A's stays what it is. LoRA+ (arXiv
            2402.12354) finds that B wants more, and takes 16 for an update of a large model. It is
            peft's `loraplus_lr_ratio`.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank; for
            a dropout or a ratio of rates out of range.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        seed: int = 0,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        dropout: float = 0.0,
        lr_ratio: float = 1.0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if not 0 < lr_ratio < math.inf:
            raise ValueError(f"lr_ratio must be above 0 and finite, got {lr_ratio}")
        m, n = self.shape
        self.dropout = dropout
        self.lr_ratio = lr_ratio
        rank = rank_within(m, n, m + n, min(m, n), rank, ratio, coefficients, lora_rank)
        self.rank = rank
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank))
        self.reset_parameters(in_features**-0.5)

    def weight(self) -> Tensor:
        with without_autocast(self.lora_B.device):
            return self.lora_B @ self.lora_A

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (x A^T) B^T + b: r (m + n) operations per row of x instead of mn."""
        return F.linear(F.linear(self._dropped(x), self.lora_A), self.lora_B, bias)

    def look_up(self, index: Tensor) -> Tensor:
        """Return B[index] A: r n operations per row."""
        with without_autocast(self.lora_B.device):
            return F.embedding(index, self.lora_B) @ self.lora_A

    def _dropped(self, x: Tensor) -> Tensor:
        """Return what of x reaches A."""
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (x A^T) B^T, the last product added in one pass with the sum."""
        return add_product(x, base, bias, self.lora_B, self.lora_A, scale, given=self._dropped(x))

    def building(self) -> tuple[int, int]:
        """Count r mn to build B A, and twice as many for dB and dA."""
        products = self.rank * self.out_features * self.in_features
        return products, 2 * products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T r (m + n) forward, twice as many backward, r (m + n) read; and what W0 takes."""
        (m, n), factors = self.shape, self.rank * (self.out_features + self.in_features)
        base = m * n if update else 0
        return Cost(rows * (factors + base), rows * (2 * factors + base), factors + base)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw factors of variance std / sqrt(r) each, so that E[W_ij^2] = std^2.

        For std = 0, A ~ N(0, 1 / n) and B = 0.
        """
        a = math.sqrt(std) * self.rank**-0.25 if std > 0 else self.in_features**-0.5
        b = a if std > 0 else 0.0
        self.lora_A.normal_(0, 1).mul_(a)
        self.lora_B.normal_(0, 1).mul_(b)
        self._step = math.sqrt(self.rank * (a * a + b * b))

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the truncated singular value decomposition (Eckart-Young).

        It is split evenly: B = U sqrt(S), A = sqrt(S) V^T. For a target of 0 both would be 0, from
        where nothing is learned: then they are as at the start of an update.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        u, s, vh = torch.linalg.svd(
            target.to(self.lora_A.device, torch.float64), full_matrices=False
        )
        root = s[: self.rank].sqrt()
        self.lora_A.copy_(root[:, None] * vh[: self.rank])
        self.lora_B.copy_(u[:, : self.rank] * root)

    @property
    def lr_mult(self) -> float | dict[str, float]:
        """1 / sqrt(r (a^2 + b^2)), a and b the factors' root-mean-squares at initialisation.

        dW = dB A + B dA with entries of +-lr in dA and dB has variance lr^2 r (a^2 + b^2) per
        weight. From scratch at std 0.02 and r = 48 that is 1.9; for an update that starts at 0 with
        n = 768 and r = 8 it is 9.8, the tenfold rate that LoRA is known to want. With an `lr_ratio`
        that is A's, and B's so many times as large.
        """
        rate = 1 / self._step
        if self.lr_ratio == 1:
            return rate
        return {"lora_A": rate, "lora_B": rate * self.lr_ratio}

    def extra_repr(self) -> str:
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        ratio = f", lr_ratio={self.lr_ratio}" if self.lr_ratio != 1 else ""
        return f"{super().extra_repr()}, rank={self.rank}{dropout}{ratio}"
