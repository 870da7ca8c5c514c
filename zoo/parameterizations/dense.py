"""The weight matrix itself, W = C, with which every other parameterization is compared."""

import torch
from torch import Tensor, nn

from zoo.parameterizations.base import WeightParameterization


class Dense(WeightParameterization):
    """Every weight, W = C: the reference.

    It has mn coefficients.

        >>> zoo.Dense(8, 8).num_trainable
        64
    """

    def __init__(self, out_features: int, in_features: int, seed: int = 0) -> None:
        super().__init__(out_features, in_features, seed)
        self.coef = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters(in_features**-0.5)

    def weight(self) -> Tensor:
        return self.coef

    def building(self) -> tuple[int, int]:
        """Count nothing: W is there."""
        return 0, 0

    def spread(self, coef: Tensor) -> Tensor:
        """Return C itself (`Isometry.spread`)."""
        return coef

    def collect(self, matrix: Tensor) -> Tensor:
        """Return C itself."""
        return matrix

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw W_ij ~ N(0, std^2)."""
        self.coef.normal_(0, 1).mul_(std)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Set C = target."""
        self.coef.copy_(target)
