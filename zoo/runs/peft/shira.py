"""SHiRA as peft has it: r (m + n) trained weights at places that are in the file, and no others."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import Sparse
from zoo.runs.peft.adapter import Found, Update
from zoo.runs.peft.formats import (
    Parts,
    Written,
    all_are,
    nothing_unsupported,
    of_dimensions,
    read_layers,
    tensors_of,
)
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = False, None
unsupported = nothing_unsupported


@dataclass(frozen=True, eq=False)
class Places(Update):
    """Values at places, which no seed of zoo's draws: imported, all of dW is trained.

    Args:
        values: (K,).
        places: (2, K), rows and columns.
    """

    values: Tensor
    places: Tensor

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether all places lie in a weight of this shape."""
        rows, columns = self.places.max(1).values.tolist()
        return rows < shape[0] and columns < shape[1]

    def size(self) -> str:
        """Write the sizes that the weight can have."""
        rows, columns = (self.places.max(1).values + 1).tolist()
        return f"at least ({rows}, {columns})"

    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        return torch.zeros(shape).index_put(tuple(self.places), self.values, accumulate=True)

    def tensors(self) -> Iterable[Tensor]:
        return (self.values,)


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the values and places of each layer; no file says how large its weight is."""
    return read_layers(where, config, tensors, "shira_(?:weight|indices)", "shira_", _update)


def _update(settings: Settings, parts: Parts) -> Places:
    values, places = of_dimensions(parts, "shira_weight", 1), parts["shira_indices"]
    if places.shape != (2, len(values)) or not bool((places.long() == places).all()):
        raise ValueError("shira_indices")  # on Windows they are floating-point numbers
    if places.min() < 0:
        raise ValueError("shira_indices")
    return Places(values, places.long())


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are sparse, with room for r (m + n) places, r the least that is enough."""
    if not all_are(layers, Sparse):
        return False
    rank, ps = _rank(layers), [layer.parameterization for layer in layers.values()]
    return all(rank * (p.out_features + p.in_features) <= math.prod(p.shape) for p in ps)


def _rank(layers: Mapping[str, ZooLayer]) -> int:
    ps = [layer.parameterization for layer in layers.values()]
    return max(-(-p.num_trainable // sum(p.shape)) for p in ps)


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config, values and places; what is lacking to r (m + n) places holds zeros."""
    rank = _rank(layers)

    def parts(layer: ZooLayer) -> Parts:
        p: Any = layer.parameterization
        trained = p.expand(torch.ones_like(p.coef)).flatten() != 0
        # Trained places first, then as many others as are lacking.
        places = (~trained).long().argsort(stable=True)[: rank * sum(p.shape)].sort().values
        rows, columns = places // p.in_features, places % p.in_features
        return {
            "shira_weight": layer.scale * p.weight().flatten()[places],
            "shira_indices": torch.stack([rows, columns]).int(),
        }

    config = {"peft_type": "SHIRA", "r": rank, "mask_type": "random"}
    return config, tensors_of(layers, parts)
