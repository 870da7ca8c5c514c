"""A factor for each row or column of W0 ((IA)^3, arXiv 2205.05638); m or n parameters."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.parameterizations.of_base.base_map import OfBase


class IA3(OfBase):
    """A factor for each row or column of W0, (IA)^3.

    W' = diag(1 + s d) W0, or W0 diag(1 + s d); d is trained, and 0 at the start; m parameters, or
    n. The paper's l is 1 + d. It scales keys and values by their rows, and the inputs of a
    feed-forward layer by its columns. The bias is left alone; peft's layers scale the whole output
    of a row, x W0^T + b.

        >>> zoo.IA3(8, 8).num_trainable
        8

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        side: `out`, a factor for each row; or `in`, for each column.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: if `side` is neither.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        side: Literal["out", "in"] = "out",
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        if side not in ("out", "in"):
            raise ValueError(f"side must be out or in, got {side!r}")
        self.side = side
        self.ia3_d = nn.Parameter(torch.empty(out_features if side == "out" else in_features))
        self.reset_parameters(0.0)

    def reset_coefficients(self) -> None:
        """Set d = 0."""
        self.ia3_d.zero_()

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        d = self.ia3_d if scale == 1 else scale * self.ia3_d
        return base + base * (d.unsqueeze(1) if self.side == "out" else d)

    def building(self) -> tuple[int, int]:
        """Count nothing: W' is one pass over W0."""
        return 0, 0

    @property
    def lr_mult(self) -> float:
        """1 / rms(W0): dW = diag(dd) W0, with entries of +-lr in dd.

        The published rate is fifty times LoRA's usual one, as this is for a W0 of 0.02.
        """
        return 1 / self.base_rms

    def extra_repr(self) -> str:
        """Say what every map does, and the side."""
        return f"{super().extra_repr()}, side={self.side!r}"
