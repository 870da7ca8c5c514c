"""The linear layer whose weight is parameterized: y = x (W0 + s W)^T + b."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.base_weight import check_shapes, parameter_of
from zoo.layers.layer import ZooLayer
from zoo.layers.plain import is_conv1d, linear_product
from zoo.parameterizations import WeightParameterization


class ZooLinear(ZooLayer):
    """A linear layer over a `WeightParameterization`, from scratch or an update of frozen weights.

        from scratch  y = x W^T + b
        update        y = x W0^T + b + s x W^T,  W = 0 at the start

    Not a parametrization of `nn.Linear`: low-rank maps keep their matrix-free path, and W is built
    once per forward, or kept from one to the next in eval mode (`zoo.layers.kept`).

    Args:
        parameterization: W, of shape (out_features, in_features).
        bias: (out_features,), or None; trained, unless it is a parameter that is frozen already. A
            parameter stays the same one.
        weight: W0 of W's shape, or None for a layer from scratch; may be of another dtype than W. A
            parameter stays the same one, trained if it is; a tensor becomes a frozen one.
        scale: s.
        recompute: build W whenever it is needed (`ZooLayer`).

    Raises:
        ValueError: if a shape does not fit.
    """

    kind = "linear"
    geometry = ("in_features", "out_features")
    multiplies_rows = True
    _multiply = staticmethod(F.linear)  # type: ignore[assignment]  # x is called input there

    def __init__(
        self,
        parameterization: WeightParameterization,
        bias: Tensor | None = None,
        weight: Tensor | None = None,
        scale: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__(parameterization, scale, recompute)
        shape = parameterization.shape
        check_shapes(weight=(weight, shape), bias=(bias, shape[:1]))
        self.out_features, self.in_features = shape
        self._parameters["weight"] = parameter_of(weight, trained=False)
        self._parameters["bias"] = parameter_of(bias, trained=True)
        self.replaced: type[nn.Module] = nn.Linear

    def product(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        """Multiply x, (..., in_features), by the weight; (..., out_features)."""
        base = self.base
        if base is not None:
            return space.forward_update(x, base, self.bias, scale)
        if scale == 1.0:
            return space(x, self.bias)  # type: ignore[no-any-return]
        return F.linear(x, self.scaled(space, scale), self.bias)

    def as_plain(self, matrix: Tensor) -> Tensor:
        return matrix.mT if is_conv1d(self.replaced) else matrix

    def base_product(self, x: Tensor) -> Tensor:
        return linear_product(self.replaced, x, self._parameters["weight"], self.bias)  # type: ignore[arg-type]
