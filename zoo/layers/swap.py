"""Swap layers of a network, by their names, for parameterized ones: all of them, or none."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo import errors
from zoo.errors import UserError
from zoo.layers.conv import ZooConv
from zoo.layers.dequantize import dequantized
from zoo.layers.embedding import ZooEmbedding
from zoo.layers.factories import Replaced, Start, begin
from zoo.layers.fixed_buffers import spare_buffers
from zoo.layers.foreign import ZooForeign, device_of, foreign_dtype, is_foreign, shape_of
from zoo.layers.kinds import Swappable, kind_of, matrix_shape, outside, swappable, why_not
from zoo.layers.layer import ZooLayer
from zoo.layers.linear import ZooLinear
from zoo.layers.names import summary
from zoo.layers.plain import CONV, DTYPES, dense_weight, is_conv1d
from zoo.layers.succession import held_besides
from zoo.layers.ties import names_of, put, ties
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory

Scale = float | Callable[[WeightParameterization], float]
"""s of all layers, or what finds it of a layer's map."""
Base = Literal["random", "warm"]
"""A W0 of layers from scratch: random, or trained densely before it is frozen."""


def swap(
    model: nn.Module,
    factories: Mapping[str, ParameterizationFactory],
    *,
    start: Start = "random",
    scale: Scale = 1.0,
    recompute: bool = False,
    base: Base | None = None,
    dense: bool = False,
) -> nn.Module:
    """Give layers a parameterized weight, in place; `zoo.layers.convert.convert` chooses by globs.

    They may be linear layers, convolutions and embeddings of torch's, transformers' `Conv1D`, and
    for an update any linear layers of other libraries.

    Args:
        model: with these layers; or such a layer itself.
        factories: of the map of each layer, by the layer's name. Layers that have one weight must
            have one factory, and share the map.
        start: where W begins, as in `convert`.
        scale: s, or what finds it of a layer's map, as there.
        recompute: build W again in backward, as there.
        base: of layers that start at random, as there.
        dense: whether they begin with a dense phase, as there.

    Returns:
        `model`; where that is such a layer itself, the layer in its place.

    Raises:
        UserError: naming a layer that cannot be swapped, or whose map cannot be made. Nothing was
            changed then.
    """
    if start != "random" and (base is not None or dense):
        raise UserError(
            f"{'base' if base else 'dense_steps'} is of layers that are trained from scratch, and "
            "this network is trained already: leave it out"
        )
    first, tied = check_swap(model, factories, start)
    chosen, usual = named_layers(model, factories), usual_dtype(model)
    begins: Start = start if base is None else "update"
    made: dict[str, tuple[WeightParameterization, nn.Parameter | None]] = {}
    new: dict[str, ZooLayer] = {}
    for name, layer in chosen.items():
        if first[name] == name:
            space = begin(name, factories[name], replaced(name, layer, usual), begins, dense)
            kept = begins == "update" or dense
            made[name] = space, _base(layer, name in tied) if kept else None
        space, w0 = made[first[name]]
        try:
            s = scale(space) if callable(scale) else scale
            space.train(layer.training)
            new[name] = _successor(layer, space, w0, s, recompute, usual)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name or 'the model'}: {type(space).__name__} {error}") from error
        new[name].stores_base = base is not None
        if dense:
            new[name].begin_dense("projected" if base is None else "frozen")
        if taken := new[name].conflicts(layer):
            raise UserError(
                f"{name or 'the model'} has an attribute {taken[0]!r}, which a parameterized layer "
                "has for something else: leave it out of the targets"
            )
    if dense and base is None:
        _check_projects({name: (made[name][0], chosen[name]) for name in made}, factories)
    names = names_of(model)
    for name, layer in chosen.items():  # nothing was changed so far
        new[name].take_over(layer)
        if is_foreign(layer) and first[name] not in tied:
            for p in new[name].base_parameters:
                p.requires_grad_(False)
        model = put(model, names[layer], new[name])
    spare_buffers(model)
    return model


def check_swap(
    model: nn.Module, factories: Mapping[str, ParameterizationFactory], start: Start
) -> tuple[dict[str, str], set[str]]:
    """Check that layers can be swapped, before any map is made.

    Returns:
        What `zoo.layers.ties.ties` does.

    Raises:
        UserError: naming a layer that cannot.
    """
    chosen = named_layers(model, factories)
    for name, layer in chosen.items():
        if reason := why_not(layer, start):
            raise UserError(f"{name or 'the model'} is {reason}: leave it out of the targets")
    for layer, where in held_besides(model, chosen.values()):
        name = next(name for name, each in chosen.items() if each is layer)
        raise UserError(
            f"{name or 'the model'} is in {where} too, which is no module, and would stay there as "
            "it is: leave it out of the targets"
        )
    return ties(model, chosen, factories, start)


def named_layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return modules by name, in the model's order.

    Raises:
        UserError: naming one that is not there, or is parameterized already.
    """
    there, wanted = outside(model), set(names)
    for name in wanted:
        if name not in there:
            raise UserError(f"there is no layer {name!r}; there are: {summary(swappable(model))}")
        if isinstance(there[name], ZooLayer):
            raise UserError(
                f"{name or 'the model'} is parameterized already: leave it out of the targets"
            )
    return {name: module for name, module in there.items() if name in wanted}


def make_map(
    name: str, layer: ZooLayer, factory: ParameterizationFactory, scale: Scale = 1.0
) -> tuple[WeightParameterization, float]:
    """Make one more map of a parameterized layer that has a base, W = 0 at the start; and its s.

    Raises:
        UserError: naming the layer, if there is no such map.
    """

    def matrix() -> Tensor:
        base = layer.base
        assert base is not None
        return base.detach()

    old = Replaced(layer.parameterization.shape, layer.base_dtype, layer.device, matrix)
    space = begin(name, factory, old, "update").train(layer.training)
    try:
        layer.check_map(space)
        return space, scale(space) if callable(scale) else scale
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name or 'the model'}: {type(space).__name__} {error}") from error


def replaced(name: str, layer: nn.Module, usual: torch.dtype) -> Replaced:
    """Return what a map is told of the weight of a layer, plain or of another library."""
    if not is_foreign(layer):
        old = dense_weight(layer).detach()
        return Replaced(matrix_shape(layer), old.dtype, old.device, lambda: old)
    dtype = foreign_dtype(layer, usual)
    return Replaced(
        shape_of(layer), dtype, device_of(layer), lambda: dequantized(layer, name, dtype)
    )


def usual_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of most numbers of a network that are plain parameters."""
    counted: Counter[torch.dtype] = Counter()
    for p in model.parameters():
        if type(p) is nn.Parameter and p.dtype in DTYPES:
            counted[p.dtype] += p.numel()
    return max(counted, key=counted.__getitem__, default=torch.float32)


def _successor(
    layer: nn.Module,
    space: WeightParameterization,
    w0: nn.Parameter | None,
    scale: float,
    recompute: bool,
    usual: torch.dtype,
) -> ZooLayer:
    """Make the layer that comes in the place of another one.

    Raises:
        ValueError: if there is none with this map.
    """
    if is_foreign(layer):
        return ZooForeign(space, layer, scale, usual)
    bias = layer._parameters.get("bias")
    new: ZooLayer
    if isinstance(layer, CONV):
        new = ZooConv(space, layer, bias, w0, scale, recompute)
    elif isinstance(layer, nn.Embedding):
        new = ZooEmbedding(space, layer.padding_idx, w0, scale)
    else:
        new = ZooLinear(space, bias, w0, scale, recompute)
    new.replaced = type(layer)
    return new


def _base(layer: nn.Module, tied: bool) -> nn.Parameter | None:
    """Return W0 of a layer: a frozen parameter, or the layer's own if another module has it too."""
    if is_foreign(layer):
        return None
    weight: Any = layer._parameters["weight"]
    if tied:
        return weight  # type: ignore[no-any-return]
    stored = weight.mT if is_conv1d(type(layer)) else weight
    return nn.Parameter(stored.detach(), requires_grad=False)


def _check_projects(
    made: Mapping[str, tuple[WeightParameterization, nn.Module]],
    factories: Mapping[str, ParameterizationFactory],
) -> None:
    """Project to the smallest weight of each factory, as after a dense phase; on meta nothing.

    Raises:
        UserError: if that fails, naming the layer.
    """
    by_size = sorted(made, key=lambda name: math.prod(made[name][0].shape))
    for name in {id(factories[name]): name for name in reversed(by_size)}.values():
        space, layer = made[name]
        if (old := dense_weight(layer)).is_meta:
            return
        try:
            space.project_(old.detach())
        except Exception as error:  # a user's own class can raise anything
            raise UserError(
                f"{name or 'the model'}: {type(space).__name__} has no projection of a weight that "
                f"was trained densely ({errors.blame(error)}): give --model.base warm, which keeps "
                "it"
            ) from error


__all__ = [
    "Base",
    "Scale",
    "Start",
    "Swappable",
    "check_swap",
    "kind_of",
    "make_map",
    "swap",
    "swappable",
    "why_not",
]
