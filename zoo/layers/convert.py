"""Swap the linear layers of any model for parameterized ones, and back."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import errors, say_where_names_are
from zoo.errors import UserError
from zoo.layers.factories import shared_out, why_not_made
from zoo.layers.fixed_buffers import NOT_SENT, spare_buffers
from zoo.layers.linear import ZooLinear
from zoo.layers.names import matches_any, summary
from zoo.layers.plain_linear import (
    conflicts,
    dense_weight,
    held_besides,
    is_conv1d,
    is_linear,
    take_place,
    why_not_plain,
)
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.budget import Budget
from zoo.parameterizations.factory import ParameterizationFactory
from zoo.parameterizations.of_base.base_map import ALONE

Start = Literal["random", "update", "project"]
Scale = float | Callable[[WeightParameterization], float]
"""s of all layers, or what finds it of a layer's map."""
Base = Literal["random", "warm"]
"""A W0 of layers from scratch: random, or trained densely before it is frozen."""
say_where_names_are(__name__)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find every `nn.Linear` and `Conv1D` by name, and no layer that was converted already."""
    return {name: m for name, m in model.named_modules() if is_linear(m)}


def zoo_layers(model: nn.Module) -> dict[str, ZooLinear]:
    """Find every parameterized layer by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ZooLinear)}


def are_updates(layers: Mapping[str, ZooLinear]) -> bool:
    """Tell whether any of these layers has a frozen base, so that its W is an update.

    One in a dense phase counts if its base will be frozen after it.
    """
    return any(
        layer.base is not None and layer.dense_phase != "projected" for layer in layers.values()
    )


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
            itself.
        parameterization: makes the weight of a layer.
        targets: globs of layer names (`zoo.layers.names.matches`); none may match nothing.
        overrides: parameterizations for the layers that match a glob, the last match wins; none may
            match nothing.
        start: `random`, with the root-mean-square of the weight that W replaces, so that a model's
            own initialisation rule is kept; `update`, the old weight stays as a frozen base and W
            starts at 0; or `project`, W starts as near to the old weight as its parameterization
            allows. A base that another module has too, as an embedding's that is tied to it, stays
            the same parameter and trains if it did.
        scale: s of `ZooLinear`; or what returns it of a layer's map, or raises a ValueError where
            there is none.
        budget: of all layers together that no override decides; `parameterization` must have none
            of its own.
        recompute: build W again in backward rather than keep it (`ZooLinear`).
        base: of layers that start at random, which W is then an update of: y = x (W0 + s W)^T + b,
            W = 0 at the start, and W0 the weight that the layer has now. `random` freezes it;
            `warm` trains it in a dense phase before (`ZooLinear.begin_dense`). It is in every
            checkpoint.
        dense: whether layers that start at random begin with a dense phase; without a base W is
            then the projection of W0, of which nothing stays.

    Returns:
        `model`; where that is a linear layer itself, the layer in its place.

    Raises:
        UserError: if a pattern matches no layer, or one that is not plain (`plain_linear`); if a
            parameterization cannot have a layer's shape, there are two budgets, a layer without
            base is tied to what stays as it is, or layers that have a weight already are to have a
            base or a dense phase.
    """
    if start != "random" and (base is not None or dense):
        raise UserError(
            f"{'base' if base else 'dense_steps'} is of layers that are trained from scratch, and "
            "this network is trained already: leave it out"
        )
    layers, names = linear_layers(model), _all_names(model)
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
    for name, layer in chosen.items():
        if reason := why_not_plain(layer):
            raise UserError(f"{name or 'the model'} is {reason}: leave it out of the targets")
    for layer, where in held_besides(model, chosen.values()):
        raise UserError(
            f"{names[layer][0] or 'the model'} is in {where} too, which is no module, and would "
            "stay there as it is: leave it out of the targets"
        )
    first, tied = _ties(model, chosen, factories, start)
    if budget is not None:
        once = {name: factory for name, factory in factories.items() if first[name] == name}
        factories |= shared_out(budget, parameterization, once, chosen)
    made: dict[str, tuple[WeightParameterization, nn.Parameter | None]] = {}
    new: dict[str, ZooLinear] = {}
    for name, layer in chosen.items():
        if first[name] == name:
            begins: Start = start if base is None else "update"
            weight = _make(name, layer, factories[name], begins, budget is not None, dense)
            kept = begins == "update" or dense
            made[name] = weight, _base(layer, name in tied) if kept else None
        weight, w0 = made[first[name]]
        bias = layer._parameters["bias"]
        new[name] = ZooLinear(weight, bias, w0, _scale(name, weight, scale), recompute)
        new[name].replaced = type(layer)
        new[name].stores_base = base is not None
        if dense:
            new[name].begin_dense("projected" if base is None else "frozen")
        if taken := conflicts(layer, new[name]):
            raise UserError(
                f"{name or 'the model'} has an attribute {taken[0]!r}, which a parameterized layer "
                "has for something else: leave it out of the targets"
            )
    if dense and base is None:
        _check_projects({name: (made[name][0], chosen[name]) for name in made}, factories)
    for name, layer in chosen.items():  # nothing was changed so far
        take_place(layer, new[name])
        model = _set(model, names[layer], new[name])
    spare_buffers(model)
    return model


def _make(
    name: str,
    layer: nn.Module,
    factory: ParameterizationFactory,
    start: Start,
    budgeted: bool,
    dense: bool = False,
) -> WeightParameterization:
    """Make the map of a layer, with the coefficients that it starts from."""
    old = dense_weight(layer)
    try:
        weight = factory(*old.shape)
        weight.layer = name
        if weight.needs_base and start != "update":
            bases = "warm" if dense else "random or warm"
            alone = f"; from scratch it takes base {bases}" if start == "random" else ""
            raise ValueError(ALONE + alone)
        weight.to(
            old.device,
            torch.promote_types(old.dtype, torch.float32) if start == "update" else old.dtype,
        )
        if start == "update":
            weight.reset_parameters(0.0)
            weight.for_base(old.detach())
        elif not old.is_meta:  # there it keeps the constructor's std, and the rates that go with it
            weight.reset_parameters(old.detach().square().mean().sqrt().item())
    except Exception as error:  # a user's own class can raise anything
        spread = "; the budget of all layers gives it a ratio" if budgeted else ""
        raise UserError(f"{name or 'the model'}: {why_not_made(factory, error)}{spread}") from error
    if start == "project" and not old.is_meta:
        weight.project_(old.detach())
    return weight


def _scale(name: str, weight: WeightParameterization, scale: Scale) -> float:
    """Return s of a layer."""
    if not callable(scale):
        return scale
    try:
        return scale(weight)
    except ValueError as error:
        raise UserError(f"{name or 'the model'}: {type(weight).__name__} {error}") from error


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


def _base(layer: nn.Module, tied: bool) -> nn.Parameter | None:
    """Return W0 of a layer: a frozen parameter, or the layer's own if another module has it too."""
    if tied:
        return layer._parameters["weight"]
    return nn.Parameter(dense_weight(layer).detach(), requires_grad=False)


def _ties(
    model: nn.Module,
    chosen: Mapping[str, nn.Module],
    factories: Mapping[str, ParameterizationFactory],
    start: Start,
) -> tuple[dict[str, str], set[str]]:
    """Find the layers that share a weight with one another, or with a module that stays as it is.

    Returns:
        By layer the first one that has its weight; and the layers whose weight is in a module that
        is not chosen too.
    """
    layers = {layer: name for name, layer in chosen.items()}
    first: dict[str, str] = {}
    seen: dict[Tensor, str] = {}
    for name, layer in chosen.items():
        first[name] = seen.setdefault(layer.weight, name)  # type: ignore[arg-type]
        if factories[name] is not factories[first[name]]:
            raise UserError(
                f"{name} and {first[name]} have one weight, and would get different "
                "parameterizations: give both the same"
            )
    tied = set()
    for other, module in model.named_modules():
        for key, p in module._parameters.items():
            if p is not None and p in seen and (module not in layers or key != "weight"):
                if start != "update" or is_conv1d(type(chosen[seen[p]])):
                    raise UserError(
                        f"{seen[p]} has the weight of {other}, which stays as it is: they would "
                        f"be untied; leave {seen[p]} out of the targets"
                    )
                tied.add(seen[p])
    return first, tied


def _all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Find every module with all the names that it goes by."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def _set(model: nn.Module, names: Iterable[str], layer: nn.Module) -> nn.Module:
    """Put a layer into a model under all of its names; one without a name is the model."""
    for name in names:
        if not name:
            return layer
        model.set_submodule(name, layer)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Copy a model with the plain layers that were there before; outputs are the same to 1e-5."""
    plain = copy.deepcopy(model)
    vars(plain).pop(NOT_SENT, None)
    for module in plain.modules():
        head = getattr(module, "get_output_embeddings", lambda: None)()
        if isinstance(head, ZooLinear) and getattr(module.config, "tie_word_embeddings", False):
            module.config.tie_word_embeddings = False  # type: ignore[union-attr]  # an update made two weights of one
    names = _all_names(plain)
    weights: dict[tuple[nn.Module, Tensor | None, float], nn.Parameter] = {}
    for layer in zoo_layers(plain).values():
        linear = layer.merge()
        key = layer.parameterization, layer.base, layer.scale
        linear.weight = weights.setdefault(key, linear.weight)  # type: ignore[arg-type]  # tied: one
        plain = _set(plain, names[layer], linear)
    return plain


def table(model: nn.Module) -> list[dict[str, object]]:
    """Return what was swapped, a row for each layer.

    Its keys are layer, shape, parameterization, weights, trainable and lr_mult, which is a number,
    or a mapping where parameters have rates of their own.
    """
    return [
        {
            "layer": name,
            "shape": list(layer.parameterization.shape),
            "parameterization": type(layer.parameterization).__name__,
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
    bases = {layer.base for layer in layers if layer.base is not None}
    own = sum(p.numel() for p in model.parameters())
    coefficients = sum(p.num_trainable for p in maps)
    replaced = sum(math.prod(p.shape) for p in maps)
    dense = {layer for layer in layers if layer.dense_phase is not None}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained -= sum(w0.numel() for w0 in {layer.base for layer in dense} if w0 is not None)
    trained += sum(p.num_trainable for p in {layer.parameterization for layer in dense})
    return {
        "trainable": trained,
        "coefficients": coefficients,
        "replaced": replaced,
        "total": own - coefficients + replaced - sum(base.numel() for base in bases),
    }


__all__ = [
    "ParameterizationFactory",
    "Start",
    "are_updates",
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
