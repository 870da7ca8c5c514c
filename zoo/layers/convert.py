"""Swap the layers of any model that globs choose for parameterized ones; see what was swapped."""

import math
from collections.abc import Mapping, Sequence

from torch import nn

from zoo import say_where_names_are
from zoo.errors import UserError
from zoo.layers.adapters import classes_in_use
from zoo.layers.factories import Start, shared_out
from zoo.layers.foreign import is_like_linear
from zoo.layers.kinds import matrix_shape, outside
from zoo.layers.layer import ZooLayer, zoo_layers
from zoo.layers.merge import merge
from zoo.layers.names import matches_any, summary
from zoo.layers.plain import dense_weight, is_conv1d, is_linear
from zoo.layers.swap import Base, Scale, check_swap, swap
from zoo.layers.ties import names_of
from zoo.parameterizations.budget import Budget
from zoo.parameterizations.factory import ParameterizationFactory

say_where_names_are(__name__)


def linear_layers(model: nn.Module, foreign: bool = False) -> dict[str, nn.Module]:
    """Find every `nn.Linear` and `Conv1D` by name, and no layer that was converted already.

    Args:
        model: any module.
        foreign: whether to find also linear layers of other libraries, which are neither.
    """
    return {
        name: module
        for name, module in outside(model).items()
        if is_linear(module) or (foreign and is_like_linear(module))
    }


def are_updates(layers: Mapping[str, ZooLayer]) -> bool:
    """Tell whether any of these layers has a frozen base, so that its W is an update.

    One in a dense phase counts if its base will be frozen after it.
    """
    return any(layer.has_base and layer.dense_phase != "projected" for layer in layers.values())


def convert(
    model: nn.Module,
    parameterization: ParameterizationFactory,
    targets: Sequence[str],
    overrides: Mapping[str, ParameterizationFactory] | None = None,
    start: Start = "random",
    scale: Scale = 1.0,
    budget: Budget | None = None,
    recompute: bool = False,
    base: Base | None = None,
    dense: bool = False,
) -> nn.Module:
    """Give every linear layer that matches a target a parameterized weight, in place.

    Hooks and attributes of a layer stay, and so do ties: a layer that has several names gets all of
    them, and layers that share one weight share one parameterization. Nothing else is frozen:
    biases, norms, embeddings and layers that match no target train as before. For coefficients
    alone call `model.requires_grad_(False)` before.

    Args:
        model: any module with `nn.Linear` layers, or transformers' `Conv1D`; or such a layer
            itself. As an update also linear layers of other libraries, as quantized ones are
            (`zoo.layers.foreign`).
        parameterization: makes the weight of a layer.
        targets: globs of layer names (`zoo.layers.names.matches`); none may match nothing.
        overrides: parameterizations for the layers that match a glob, the last match wins; none may
            match nothing.
        start: `random`, with the root-mean-square of the weight that W replaces, so that a model's
            own initialisation rule is kept; `update`, the old weight stays as a frozen base and W
            starts at 0; or `project`, W starts as near to the old weight as its parameterization
            allows. A base that another module has too, as an embedding's that is tied to it, stays
            the same parameter and trains if it did.
        scale: s of `ZooLayer`; or what returns it of a layer's map, or raises a ValueError where
            there is none.
        budget: of all layers together that no override decides; `parameterization` must have none
            of its own.
        recompute: build W again in backward rather than keep it (`ZooLayer`).
        base: of layers that start at random, which W is then an update of: y = x (W0 + s W)^T + b,
            W = 0 at the start, and W0 the weight that the layer has now. `random` freezes it;
            `warm` trains it in a dense phase before (`ZooLayer.begin_dense`). It is in every
            checkpoint.
        dense: whether layers that start at random begin with a dense phase; without a base W is
            then the projection of W0, of which nothing stays.

    Returns:
        `model`; where that is a linear layer itself, the layer in its place.

    Raises:
        UserError: if a pattern matches no layer, or one that cannot be swapped
            (`zoo.layers.kinds`); if a parameterization cannot have a layer's shape, there are two
            budgets, a layer without base is tied to what stays as it is, or layers that have a
            weight already are to have a base or a dense phase.
    """
    factories = choose(model, parameterization, targets, overrides, budget, start)
    return swap(
        model,
        factories,
        start=start,
        scale=scale,
        recompute=recompute,
        base=base,
        dense=dense,
    )


def choose(
    model: nn.Module,
    parameterization: ParameterizationFactory,
    targets: Sequence[str],
    overrides: Mapping[str, ParameterizationFactory] | None = None,
    budget: Budget | None = None,
    start: Start = "random",
) -> dict[str, ParameterizationFactory]:
    """Return what makes the map of each layer that globs choose, by the layer's name.

    Takes and raises what `convert` does; nothing is changed.
    """
    layers, names = linear_layers(model, foreign=start == "update"), names_of(model)
    chosen = {name: layer for name, layer in layers.items() if matches_any(names[layer], targets)}
    for pattern, candidates in [
        *((t, layers) for t in targets),
        *((o, chosen) for o in overrides or {}),
    ]:
        if not any(matches_any(names[layer], [pattern]) for layer in candidates.values()):
            raise UserError(
                f"pattern {pattern!r} matches no linear layer; there are: {summary(candidates)}"
            )
    factories = dict.fromkeys(chosen, parameterization)
    for pattern, factory in (overrides or {}).items():
        factories.update(
            {
                name: factory
                for name, layer in chosen.items()
                if matches_any(names[layer], [pattern])
            }
        )
    if budget is not None:
        first, _ = check_swap(model, factories, start)
        once = {name: factory for name, factory in factories.items() if first[name] == name}
        shapes = {name: matrix_shape(layer) for name, layer in chosen.items()}
        once |= shared_out(budget, parameterization, once, shapes)
        factories = {name: once[first[name]] for name in factories}
    return factories


def table(model: nn.Module) -> list[dict[str, object]]:
    """Return what was swapped, a row for each layer.

    Its keys are layer, shape, parameterization (of several adapters those in use), weights,
    trainable and lr_mult, which is a number, or a mapping where parameters have rates of their own.
    """
    return [
        {
            "layer": name,
            "shape": list(layer.parameterization.shape),
            "parameterization": classes_in_use(layer.parameterization),
            "weights": math.prod(layer.parameterization.shape),
            "trainable": layer.parameterization.num_trainable,
            "lr_mult": _plain(layer.parameterization.lr_mult),
        }
        for name, layer in zoo_layers(model).items()
    ]


def _plain(mult: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(mult) if isinstance(mult, Mapping) else mult


def counts(model: nn.Module) -> dict[str, int]:
    """Count what trains, coefficients, weights replaced, and the total of the dense model.

    What is trained is that after a dense phase.
    """
    layers = zoo_layers(model).values()
    maps = {layer.parameterization for layer in layers}
    bases = {p for layer in layers for p in layer.base_parameters}
    own = sum(p.numel() for p in model.parameters())
    coefficients = sum(p.num_trainable for p in maps)
    in_maps = sum(p.numel() for p in {p for space in maps for p in space.parameters()})
    replaced = sum(math.prod(p.shape) for p in maps)
    dense = {layer for layer in layers if layer.dense_phase is not None}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained -= sum(w0.numel() for w0 in {p for layer in dense for p in layer.base_parameters})
    trained += sum(p.num_trainable for p in {layer.parameterization for layer in dense})
    return {
        "trainable": trained,
        "coefficients": coefficients,
        "replaced": replaced,
        "total": own - in_maps + replaced - sum(base.numel() for base in bases),
    }


__all__ = [
    "Base",
    "ParameterizationFactory",
    "Scale",
    "Start",
    "are_updates",
    "choose",
    "convert",
    "counts",
    "dense_weight",
    "is_conv1d",
    "is_linear",
    "linear_layers",
    "merge",
    "table",
    "zoo_layers",
]
