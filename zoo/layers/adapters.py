"""Several adapters of one layer: named maps beside one frozen weight, in use by weights.

    W0 + sum_i a_i (effective_i(W0, s_i) - W0),   which is W0 + sum_i a_i s_i W_i of additive maps

A map that knows W0 takes part by what it adds to it. Where a single one is in use, with a = 1, its
own product is taken, which need not build any W; where none is, the layer is the plain one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.parameterizations import WeightParameterization

if TYPE_CHECKING:
    from zoo.layers.layer import ZooLayer


class Adapters(WeightParameterization):
    """Named maps of one layer that has a frozen weight, each with its own scale s_i.

    The layer's own scale is 1 then.

    Args:
        maps: by name, all of the layer's shape.
        scales: s_i by name.

    Attributes:
        weights: a_i of the maps in use.
    """

    def __init__(
        self, maps: Mapping[str, WeightParameterization], scales: Mapping[str, float]
    ) -> None:
        first = next(iter(maps.values()))
        super().__init__(*first.shape)
        self.layer = first.layer
        self.maps = nn.ModuleDict(maps)
        self.scales = dict(scales)
        self.weights: dict[str, float] = {}
        self.training = self.maps.training = first.training

    def of(self, name: str) -> WeightParameterization | None:
        """Return the map of this name; None if the layer has none."""
        return dict(self.maps.items()).get(name)  # type: ignore[return-value]  # of a ModuleDict

    def add(self, name: str, space: WeightParameterization, scale: float) -> None:
        """Hold one more map, which is not in use yet."""
        self.maps[name] = space
        self.scales = {**self.scales, name: scale}

    def drop(self, name: str) -> None:
        """Hold a map no more, if it is there."""
        if name in self.maps:
            del self.maps[name]
            self.scales = {key: s for key, s in self.scales.items() if key != name}
            self.use(self.weights)

    def use(self, weights: Mapping[str, float]) -> None:
        """Set the weights a_i; a name that is left out has 0, and one that is no map's is ignored.

        Tied layers share this object.
        """
        self.weights = {name: a for name, a in weights.items() if name in self.maps and a != 0}

    # ---- The matrix ------------------------------------------------------------------------------

    def weight(self) -> Tensor:
        """Return sum_i a_i s_i W_i of the additive maps in use."""
        first = next(self.parameters())
        total = first.new_zeros(self.shape)
        for name, a in self.weights.items():
            total = total + a * self.scales[name] * self._map(name).weight()
        return total

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        """Return W0 + sum_i a_i (effective_i(W0, s_i) - W0)."""
        if (alone := self._alone()) is not None:
            return self._map(alone).effective(base, scale * self.scales[alone])
        total = base
        for name, a in self.weights.items():
            space = self._map(name)
            if space.needs_base:
                update = space.effective(base, self.scales[name]) - base
            else:
                update = self.scales[name] * space.weight()
            total = total + scale * a * update
        return total

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return sum_i a_i s_i x W_i^T + b of the additive maps in use, each by its own path."""
        parts = [a * self.scales[name] * self._map(name)(x) for name, a in self.weights.items()]
        y = sum(parts[1:], parts[0]) if parts else x.new_zeros(*x.shape[:-1], self.out_features)
        return y if bias is None else y + bias.to(y.dtype)

    def look_up(self, index: Tensor) -> Tensor:
        """Return rows of sum_i a_i s_i W_i, each by its map's own path."""
        parts = [
            a * self.scales[name] * self._map(name).look_up(index)
            for name, a in self.weights.items()
        ]
        if not parts:
            return next(self.parameters()).new_zeros(*index.shape, self.in_features)
        return sum(parts[1:], parts[0])

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return the product with `effective`, by the map's own path where one is in use alone."""
        if not self.weights:
            return F.linear(x, base, bias)
        if (alone := self._alone()) is not None:
            space = self._map(alone)
            return space.forward_update(x, base, bias, scale * self.scales[alone])
        return super().forward_update(x, base, bias, scale)

    @property
    def builds_weight(self) -> bool:
        """Whether a product is with a W that is built, which a layer may then keep."""
        alone = self._alone()
        return bool(self.weights) if alone is None else self._map(alone).builds_weight

    # ---- What every map has ----------------------------------------------------------------------

    @property
    def needs_base(self) -> bool:  # type: ignore[override]
        """Whether one of the maps in use knows W0."""
        return any(self._map(name).needs_base for name in self.weights)

    @property
    def lr_mult(self) -> dict[str, float]:
        """The factors that each map has itself."""
        return {
            f"maps.{name}.{key}": mult
            for name in self.maps
            for key, mult in self._map(name).lr_mults().items()
        }

    def for_base(self, base: Tensor) -> "Adapters":
        """Have every map serve a layer whose frozen weight this is."""
        for name in self.maps:
            self._map(name).for_base(base)
        return self

    def reset_parameters(self, std: float) -> None:
        """Refuse: every map has been drawn by itself."""
        raise NotImplementedError("several adapters are not drawn together")

    def project_(self, target: Tensor) -> None:
        """Refuse: there is no one set of coefficients."""
        raise NotImplementedError("several adapters are not fitted together")

    def fingerprint(self) -> str:
        """Return the hashes of the maps' fixed parts."""
        return "+".join(self._map(name).fingerprint() for name in self.maps)

    def extra_repr(self) -> str:
        """Say which maps are in use."""
        return ", ".join(f"{a:g} {name}" for name, a in self.weights.items()) or "none in use"

    def _alone(self) -> str | None:
        """Return the name of the only map in use, if its weight is 1."""
        if len(self.weights) != 1:
            return None
        ((name, a),) = self.weights.items()
        return name if a == 1 else None

    def _map(self, name: str) -> Any:
        return self.maps[name]


def in_use(space: WeightParameterization) -> list[WeightParameterization]:
    """Return the maps of a layer that are in use: its only one, or those with a weight."""
    if not isinstance(space, Adapters):
        return [space]
    return [own for name in space.weights if (own := space.of(name)) is not None]


def classes_in_use(space: WeightParameterization) -> str:
    """Name the classes of the maps in use: `LoRA`, or `LoRA+DCT` of two; nothing of none."""
    return "+".join(type(each).__name__ for each in in_use(space))


class RowByRow:
    """Has each row of a batch pass through a map of its own: the `route` of a layer.

    Args:
        names: for each row, the first dimension of x, the name of its map; None, or a name that a
            layer has no map of, is the layer without any.
    """

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = tuple(names)

    def __call__(self, layer: "ZooLayer", x: Tensor) -> Tensor:
        """Return what the layer makes of x, (rows, ...).

        Raises:
            UserError: if x has another number of rows.
        """
        space: Any = layer.parameterization
        if x.dim() < 1 or len(x) != len(self.names):
            raise UserError(
                f"zoo.rows was given {len(self.names)} rows, and {space.layer or 'the layer'} gets "
                f"x of shape {tuple(x.shape)}: its first dimension must be the batch's rows"
            )
        places: dict[str | None, list[int]] = {}
        for i, name in enumerate(self.names):
            places.setdefault(name if name in space.maps else None, []).append(i)
        y: Tensor | None = None
        for name, own in places.items():
            at = torch.tensor(own, device=x.device)
            if name is None:
                part = layer.base_product(x[at])
            else:
                part = layer.product(x[at], space.of(name), space.scales[name])
            if y is None:
                y = part.new_empty(len(x), *part.shape[1:])
            y = y.index_copy(0, at, part.to(y.dtype))
        assert y is not None
        return y
