"""The frozen weight W0 that a layer may have beside its map, as it is stored and as a matrix."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.layers.kept import WeightKeeper
from zoo.parameterizations import WeightParameterization


class BaseHolder(WeightKeeper):
    """A layer that may have a W0, which it keeps as the plain layer in its place does."""

    parameterization: WeightParameterization

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that `weight` has, that of the plain layer's."""
        return self.parameterization.shape

    def as_stored(self, matrix: Tensor) -> Tensor:
        """Return a matrix, (m, n), in the shape that `weight` has."""
        return matrix

    @property
    def has_base(self) -> bool:
        """Whether there is a W0."""
        return self._parameters["weight"] is not None

    @property
    def base(self) -> Tensor | None:
        """W0 as a matrix, (m, n); None from scratch."""
        return self._parameters["weight"]

    @property
    def base_dtype(self) -> torch.dtype:
        """The dtype of W0; that of the coefficients from scratch."""
        return self._like().dtype

    @property
    def base_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters that hold W0, in whatever shape; none from scratch."""
        weight = self._parameters["weight"]
        return () if weight is None else (weight,)

    def frozen_entries(self) -> set[str]:
        """Name what of the layer's state dict is frozen, besides parameters that are."""
        return set()

    def check_writes(self) -> None:  # noqa: B027  a base usually can be
        """Raise UserError, naming the layer, if its W0 cannot be written."""

    def set_base_(self, matrix: Tensor) -> None:
        """Write a matrix, (m, n), into W0, in place."""
        (weight,) = self.base_parameters
        weight.copy_(self.as_stored(matrix))

    @property
    def device(self) -> torch.device:
        """Where W0 is; where the coefficients are from scratch."""
        return self._like().device

    def _like(self) -> Tensor:
        weight = self._parameters["weight"]
        return next(self.parameterization.parameters()) if weight is None else weight


def parameter_of(value: Tensor | None, trained: bool) -> nn.Parameter | None:
    """Return a parameter itself, and one of the memory of a tensor."""
    if value is None or isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value.detach(), trained)


def check_shapes(**given: tuple[Tensor | None, Any]) -> None:
    """Raise a ValueError naming the first tensor that has not the shape beside it."""
    for name, (value, fits) in given.items():
        if value is not None and tuple(value.shape) != tuple(fits):
            raise ValueError(f"{name} must have shape {tuple(fits)}, got {tuple(value.shape)}")
