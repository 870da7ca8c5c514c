"""Which layers of a network can have a map, of what kind and shape; and why others cannot."""

import math
from typing import Any, NamedTuple

from torch import nn

from zoo.layers.factories import Start
from zoo.layers.foreign import is_like_linear, shape_of, why_not_foreign
from zoo.layers.layer import ZooLayer
from zoo.layers.plain import CONV, Kind, is_conv1d, path_of, plain_kind, why_not_plain


class Swappable(NamedTuple):
    """A layer that can have a map.

    Args:
        module: the layer; plain, of another library, or parameterized already.
        kind: what it computes.
        shape: (m, n) of its weight as a matrix.
    """

    module: nn.Module
    kind: Kind
    shape: tuple[int, int]


def kind_of(module: nn.Module) -> Kind | None:
    """Return what kind of layer this is, plain or of another library; None if it has no map."""
    return plain_kind(module) or ("linear" if is_like_linear(module) else None)


def swappable(model: nn.Module) -> dict[str, Swappable]:
    """Find by name every layer that `swap` takes, and the parameterized ones that have a base.

    `swap` may still refuse one of them, saying what it is: one with a forward pass of its own.
    """
    found: dict[str, Swappable] = {}
    for name, module in outside(model).items():
        if isinstance(module, ZooLayer):
            if module.has_base:
                found[name] = Swappable(module, module.kind, module.parameterization.shape)
        elif (kind := kind_of(module)) is not None:
            found[name] = Swappable(module, kind, matrix_shape(module))
    return found


def outside(model: nn.Module) -> dict[str, nn.Module]:
    """Return by name all modules but those within a parameterized layer."""
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inside:
            found[name] = module
        if isinstance(module, ZooLayer):
            inside.update(module.modules())
    return found


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """Return (m, n) of a layer's weight as a matrix."""
    if isinstance(layer, CONV):
        return layer.out_channels, layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    if is_conv1d(type(layer)):
        weight: Any = layer.weight  # (n, m)
        return weight.shape[1], weight.shape[0]
    return shape_of(layer)


def why_not(layer: nn.Module, start: Start = "update") -> str | None:
    """Say what a layer is that `swap` refuses; None for one that it takes.

    A linear layer that is not plain can be an update's base (`zoo.layers.foreign`).
    """
    kind = kind_of(layer)
    if kind is None:
        return f"a {path_of(layer)}, which is no linear, convolutional or embedding layer"
    foreign = plain_kind(layer) is None
    reason = f"a {path_of(layer)}, of another library" if foreign else why_not_plain(layer)
    if reason and kind == "linear" and start == "update":
        return why_not_foreign(layer)
    return reason
