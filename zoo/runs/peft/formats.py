"""What peft's formats of updates by layer share: how their tensors are read and written."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.layer import ZooLayer
from zoo.runs.peft.adapter import PREFIX, Found, Update, by_layer
from zoo.runs.peft.settings import Settings

Parts = Mapping[str, Tensor]
Written = tuple[dict[str, Any], dict[str, Tensor]]
"""A config and tensors by peft's names."""


class Reader(Protocol):
    """A module of this package that reads one of peft's formats."""

    def unsupported(self, config: dict[str, Any]) -> str | None:
        """Return what of a config cannot be read."""

    def read(self, where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
        """Read updates by layer, and what else was trained.

        Raises:
            UserError: for what is damaged, or of another kind.
        """


class Writer(Protocol):
    """A module of this package that writes one of peft's formats."""

    @property
    def CONV1D(self) -> bool:  # noqa: N802  a module's constant
        """Return whether peft has the format for transformers' `Conv1D`."""

    @property
    def BIAS(self) -> str | None:  # noqa: N802
        """Return peft's setting of trained biases of the layers; None if there is none."""

    def holds(self, layers: Mapping[str, ZooLayer]) -> bool:
        """Return whether the format has these layers' updates as they are."""

    def write(self, layers: Mapping[str, ZooLayer]) -> Written:
        """Return the config and the tensors of layers that it `holds`."""


class Format(Reader, Writer, Protocol):
    """One that writes what it reads, as itself."""


def nothing_unsupported(config: dict[str, Any]) -> str | None:
    """Return None, as of a format of which any config can be read."""
    return None


def read_layers(
    where: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    parts: str,
    own: str,
    update: Callable[[Settings, Parts], Update | None],
) -> Found:
    """Read the updates of a format whose layers stand alone.

    Args:
        where: the adapter, for messages.
        config: of the adapter.
        tensors: by name.
        parts: a pattern of the names of a layer's parts.
        own: what names of the format have in them.
        update: makes an update of a layer's parts, or None where there is nothing left of it. What
            is missing or has other sizes raises a KeyError, ValueError or RuntimeError.

    Raises:
        UserError: for a layer that is damaged, and for a tensor of the format that is no part.
    """
    layers, others = by_layer(tensors, rf"(.+)\.({parts})")
    for name in others:
        if f".{own}" in name or name.startswith(own):
            raise UserError(
                f"{where} has {name}, and only its updates of linear layers can be read: merge it "
                "with peft instead"
            )
    updates = {}
    for layer, found in layers.items():
        floats = {
            part: tensor.float() if tensor.is_floating_point() else tensor
            for part, tensor in found.items()
        }
        try:
            one = update(Settings(config, layer), floats)
            if one is not None and one.shape is not None and not one.fits(one.shape):
                raise ValueError(layer)
        except UserError:  # which is a ValueError
            raise
        except (KeyError, ValueError, RuntimeError, IndexError):
            sizes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in sorted(found.items()))
            raise UserError(f"{where}: {layer} is damaged, {sizes}: use another one") from None
        if one is not None:
            updates[layer] = one
    return Found(updates, others)


def matrix(parts: Parts, name: str) -> Tensor:
    """Return a part that is a matrix and not empty.

    Raises:
        KeyError: if there is no such part.
        ValueError: if it is none.
    """
    return of_dimensions(parts, name, 2)


def of_dimensions(parts: Parts, name: str, dimensions: int) -> Tensor:
    """Return a part with so many dimensions that is not empty; raises as `matrix` does."""
    part = parts[name]
    if part.ndim != dimensions or not part.numel() or not part.is_floating_point():
        raise ValueError(name)
    return part


def tensors_of(
    layers: Mapping[str, ZooLayer], parts: Callable[[ZooLayer], Parts]
) -> dict[str, Tensor]:
    """Return the parts of all layers by peft's names."""
    with torch.no_grad():
        return {
            f"{PREFIX}{name}.{part}": tensor.detach()
            for name, layer in layers.items()
            for part, tensor in parts(layer).items()
        }


def setting(layers: Mapping[str, ZooLayer], name: str) -> dict[str, Any]:
    """Return a setting of every layer's parameterization, by layer."""
    return {each: getattr(layer.parameterization, name) for each, layer in layers.items()}


def alike(layers: Mapping[str, ZooLayer], *names: str) -> bool:
    """Return whether these settings are the same for all layers."""
    return all(len({*setting(layers, name).values()}) == 1 for name in names)


def all_are(layers: Mapping[str, ZooLayer], kind: type, scaled: bool = True) -> bool:
    """Return whether all parameterizations are of this very class, whose shortcuts may differ.

    Args:
        layers: by name.
        kind: the class; a subclass may map otherwise.
        scaled: whether a layer's scale may be another than 1.
    """
    return all(
        type(layer.parameterization) is kind and (scaled or layer.scale == 1)
        for layer in layers.values()
    )
