"""The convolution whose weight is parameterized, as a matrix with a row an output channel."""

import math
from typing import Any

from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.layers.base_weight import check_shapes, parameter_of
from zoo.layers.layer import ZooLayer, refuse_dropout
from zoo.layers.plain import CONV, GEOMETRY, torch_class
from zoo.layers.succession import geometry_of
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.of_base.held import made_of


class ZooConv(ZooLayer):
    """A convolution over a `WeightParameterization`, from scratch or an update of frozen weights.

        from scratch  y = x * W + b
        update        y = x * (W0 + s W) + b,  W = 0 at the start

    W is (out_channels, in_channels / groups x kernel), each row the weights of one output channel.
    It is built in every pass that trains, also that of a low-rank map: of an image with more pixels
    than the map has ranks, the convolution takes longer.

    Args:
        parameterization: W.
        conv: the plain layer whose stride, padding and so on this one has; `nn.Conv1d`, `nn.Conv2d`
            or `nn.Conv3d`. Its tensors are left alone.
        bias: (out_channels,), or None; as in `zoo.layers.linear.ZooLinear`.
        weight: W0 in the plain layer's shape, or None for a layer from scratch; as there.
        scale: s.
        recompute: build W whenever it is needed (`ZooLayer`).

    Raises:
        ValueError: if a shape does not fit, or the map is to drop numbers of its rows of x.
    """

    kind = "conv"
    geometry = GEOMETRY[nn.Conv2d]
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]

    def __init__(
        self,
        parameterization: WeightParameterization,
        conv: nn.Module,
        bias: Tensor | None = None,
        weight: Tensor | None = None,
        scale: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__(parameterization, scale, recompute)
        vars(self).update(geometry_of(conv))
        self.check_map(parameterization)
        m, *rest = self.stored_shape
        if parameterization.shape != (m, math.prod(rest)):
            raise ValueError(
                f"the map must have shape {(m, math.prod(rest))}, got {parameterization.shape}"
            )
        check_shapes(weight=(weight, self.stored_shape), bias=(bias, (m,)))
        self._parameters["weight"] = parameter_of(weight, trained=False)
        self._parameters["bias"] = parameter_of(bias, trained=True)
        self.replaced: type[nn.Module] = torch_class(conv)

    def product(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        """Convolve x, (N, in_channels, ...) or without N, with the weight."""
        base = self.base
        if base is None:
            return self._multiply(x, self.scaled(space, scale), self.bias)
        with without_autocast(base.device):
            weight = space.effective(base, scale)
        return self._multiply(x, weight.to(x.dtype), self.bias)

    def base_product(self, x: Tensor) -> Tensor:
        return self._convolve(x, self._parameters["weight"], self.bias)  # type: ignore[arg-type]

    def check_map(self, space: WeightParameterization) -> None:
        refuse_dropout(space, "a convolution")

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolve(x, weight.reshape(self.stored_shape), bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        cls: Any = CONV[len(self.kernel_size) - 1]
        y: Tensor = cls._conv_forward(self, x, weight, bias)
        return y

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels / groups, *kernel)."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    @property
    def builds_weight(self) -> bool:
        """True: there is no product of a convolution without its W."""
        return True

    @property
    def base(self) -> Tensor | None:
        """W0 as a matrix: a view, where the memory of the weight allows one."""
        weight = self._parameters["weight"]
        return None if weight is None else made_of(weight.flatten(1), weight)

    def as_stored(self, matrix: Tensor) -> Tensor:
        return matrix if matrix.shape == self.stored_shape else matrix.reshape(self.stored_shape)
