"""The abstract parent of maps of W0 that have LoRA's factors, B (m, r) and A (r, n)."""

import torch
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.of_base.base_map import OfBase


class FactorsOfBase(OfBase):
    """LoRA's factors B (m, r) and A (r, n), and a weight W' of B A and W0.

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four.
        seed: unused, nothing is fixed.
        fixed: how many coefficients a subclass has besides r (m + n).

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
        fixed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        most, budget = min(m, n), (ratio, coefficients, lora_rank)
        self.rank = rank_within(m, n, m + n, most, rank, *budget, fixed)
        self.lora_A = nn.Parameter(torch.empty(self.rank, n))
        self.lora_B = nn.Parameter(torch.empty(m, self.rank))

    def product(self) -> Tensor:
        """Return B A, (m, n)."""
        with without_autocast(self.lora_B.device):
            return self.lora_B @ self.lora_A

    def reset_coefficients(self) -> None:
        """Draw A ~ N(0, 1 / n), and set B = 0."""
        self.lora_A.normal_(0, 1).mul_(self.in_features**-0.5)
        self.lora_B.zero_()

    @property
    def factor_step(self) -> float:
        """Root-mean-square of B A per unit of a step of all signs from the start, sqrt(r / n)."""
        return (self.rank / self.in_features) ** 0.5

    def extra_repr(self) -> str:
        """Say what every map does, and the rank."""
        return f"{super().extra_repr()}, rank={self.rank}"
