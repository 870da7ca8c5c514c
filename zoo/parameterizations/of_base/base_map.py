"""The abstract parent of maps from coefficients and a frozen weight W0 to another weight W'."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from zoo.parameterizations.base import WeightParameterization

ALONE = "changes a frozen weight and has none of its own: use it to fine-tune, as an update"
"""Why there is no map of W0 where there is no W0."""


class OfBase(WeightParameterization):
    """A map from coefficients and a frozen weight W0 to W'.

    W0 and W' are (out_features, in_features):

        y = x W'^T + b,  W' = effective(W0, s),  W' = W0 at the start

    A subclass defines `effective` and `reset_coefficients`. There is no W without W0, so that
    nothing is projected or trained from scratch without a base, and no `Sum` or `Product` has one
    as a part. What training added, which callbacks, `zoo analyze` and `zoo mask` look at, is
    W' - W0.

        >>> [name for name in ("DoRA", "LoRA") if issubclass(getattr(zoo, name), zoo.OfBase)]
        ['DoRA']

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        seed: of everything that is fixed.

    Raises:
        ValueError: if a size is less than 1.
    """

    needs_base = True
    starts_exactly: ClassVar[bool] = True
    """Whether W' = W0 at the start to the last bit; otherwise to rounding."""
    detaches: ClassVar[bool] = False
    """Whether the gradient takes a part of `effective` for constant, and is no derivative of it."""
    base_rms: float
    """Root-mean-square of W0, which rates follow from; 1 / sqrt(n) until there is a W0."""

    def __init__(self, out_features: int, in_features: int, seed: int = 0) -> None:
        super().__init__(out_features, in_features, seed)
        self.base_rms = in_features**-0.5

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        """Return W' of W0 and of the parameters as they are now, (m, n).

        It is differentiable in every parameter, and of the wider dtype of theirs and W0's, also
        under autocast.
        """

    @abstractmethod
    def reset_coefficients(self) -> None:
        """Set coefficients with W' = W0, and a gradient that is not zero."""

    # ---- A subclass may override -----------------------------------------------------------------

    def factors(self, base: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return L (m, k) and R (k, n) with W' = W0 + s L R, where the update has such factors."""
        return None

    # ---- Concrete --------------------------------------------------------------------------------

    def for_base(self, base: Tensor) -> "OfBase":
        """Measure W0, whose size the rates follow from; on the meta device there is none."""
        if not base.is_meta and (rms := base.detach().float().square().mean().sqrt().item()) > 0:
            self.base_rms = rms
        return self

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Set coefficients with W' = W0.

        Raises:
            ValueError: if std is not 0.
        """
        if std != 0:
            raise ValueError(ALONE)
        self.reset_coefficients()

    def project_(self, target: Tensor) -> None:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(ALONE)

    def weight(self) -> Tensor:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(ALONE)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(ALONE)
