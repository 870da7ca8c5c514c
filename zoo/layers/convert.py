"""Swap the linear layers of any model for parameterized ones, and back."""

import copy
import functools
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo import say_where_names_are
from zoo.errors import UserError
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

Start = Literal["random", "update", "project"]
ParameterizationFactory = Callable[[int, int], WeightParameterization]
"""Makes the map of a layer from (out_features, in_features): a class, or a partial of one."""

say_where_names_are(__name__)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find every `nn.Linear` and `Conv1D` by name, and no layer that was converted already."""
    return {name: m for name, m in model.named_modules() if is_linear(m)}


def zoo_layers(model: nn.Module) -> dict[str, ZooLinear]:
    """Find every parameterized layer by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ZooLinear)}


def are_updates(layers: Mapping[str, ZooLinear]) -> bool:
    """Tell whether any of these layers has a frozen base, so that its W is an update."""
    return any(layer.base is not None for layer in layers.values())


def convert(
    model: nn.Module,
    parameterization: ParameterizationFactory,
    targets: Sequence[str],
    overrides: Mapping[str, ParameterizationFactory] | None = None,
    start: Start = "random",
    scale: float = 1.0,
    budget: Budget | None = None,
    recompute: bool = False,
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
        scale: s of `ZooLinear`.
        budget: of all layers together that no override decides; `parameterization` must have none
            of its own.
        recompute: build W again in backward rather than keep it (`ZooLinear`).

    Returns:
        `model`; where that is a linear layer itself, the layer in its place.

    Raises:
        UserError: if a pattern matches no layer, or one that is not plain (`plain_linear`); if a
            parameterization cannot have a layer's shape, there are two budgets, or a layer without
            base is tied to what stays as it is.
    """
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
        factories |= _split(budget, parameterization, once, chosen)
    made: dict[str, tuple[WeightParameterization, nn.Parameter | None]] = {}
    new: dict[str, ZooLinear] = {}
    for name, layer in chosen.items():
        if first[name] == name:
            weight = _make(name, layer, factories[name], start, budget is not None)
            made[name] = weight, _base(layer, name in tied) if start == "update" else None
        weight, base = made[first[name]]
        bias = layer._parameters["bias"]
        new[name] = ZooLinear(weight, bias, base, scale, recompute)
        new[name].replaced = type(layer)
        if taken := conflicts(layer, new[name]):
            raise UserError(
                f"{name or 'the model'} has an attribute {taken[0]!r}, which a parameterized layer "
                "has for something else: leave it out of the targets"
            )
    for name, layer in chosen.items():  # nothing was changed so far
        take_place(layer, new[name])
        model = _set(model, names[layer], new[name])
    _spare_buffers(model)
    return model


def _make(
    name: str, layer: nn.Module, factory: ParameterizationFactory, start: Start, budgeted: bool
) -> WeightParameterization:
    """Make the map of a layer, with the coefficients that it starts from."""
    old = dense_weight(layer)
    try:
        weight = factory(*old.shape)
    except Exception as error:  # a user's own class can raise anything
        spread = "; the budget of all layers gives it a ratio" if budgeted else ""
        raise UserError(f"{name or 'the model'}: {_why(factory, error)}{spread}") from error
    weight.layer = name
    weight.to(
        old.device,
        torch.promote_types(old.dtype, torch.float32) if start == "update" else old.dtype,
    )
    weight.reset_parameters(
        0.0 if start == "update" or old.is_meta else old.detach().square().mean().sqrt().item()
    )
    if start == "project" and not old.is_meta:
        weight.project_(old.detach())
    return weight


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


class FixedBuffers:
    """Names the buffers that are rebuilt from seeds, and so equal on every rank.

    DDP looks for names to ignore in the model that it wraps; buffers it would otherwise broadcast
    at each forward pass.

    Args:
        model: a converted model.
        more: names that are to be ignored besides.
    """

    def __init__(self, model: nn.Module, more: Iterable[str] = ()) -> None:
        self.model, self.more = model, tuple(more)

    def __iter__(self) -> Iterator[str]:
        yield from self.more
        for name, module in self.model.named_modules():
            if isinstance(module, WeightParameterization):
                yield from (f"{name}.{buffer}".lstrip(".") for buffer, _ in module.named_buffers())


def _spare_buffers(model: nn.Module) -> None:
    before = vars(model).get("_ddp_params_and_buffers_to_ignore", ())
    if not isinstance(before, FixedBuffers):
        vars(model)["_ddp_params_and_buffers_to_ignore"] = FixedBuffers(model, before)


def _split(
    budget: Budget,
    factory: ParameterizationFactory,
    factories: Mapping[str, ParameterizationFactory],
    layers: Mapping[str, nn.Module],
) -> dict[str, ParameterizationFactory]:
    """Bind to a factory the share of a budget of each layer that it serves."""
    given = [
        k
        for k in ("ratio", "coefficients", "lora_rank", "num_bases")
        if getattr(factory, "keywords", {}).get(k)
    ]
    if given:
        raise UserError(
            f"budget (of all layers) and the parameterization's own {given[0]} exclude each other: "
            "drop one"
        )
    shapes = {
        name: tuple(dense_weight(layers[name]).shape)
        for name, f in factories.items()
        if f is factory
    }
    split = budget.split(shapes)  # type: ignore[arg-type]
    return {
        name: functools.partial(factory, ratio=k / math.prod(shapes[name]))  # type: ignore[call-arg]
        for name, k in split.items()
    }


def merge(model: nn.Module) -> nn.Module:
    """Copy a model with the plain layers that were there before; outputs are the same to 1e-5."""
    plain = copy.deepcopy(model)
    vars(plain).pop("_ddp_params_and_buffers_to_ignore", None)
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

    Its keys are layer, shape, parameterization, weights, trainable and lr_mult.
    """
    return [
        {
            "layer": name,
            "shape": list(layer.parameterization.shape),
            "parameterization": type(layer.parameterization).__name__,
            "weights": math.prod(layer.parameterization.shape),
            "trainable": layer.parameterization.num_trainable,
            "lr_mult": layer.parameterization.lr_mult,
        }
        for name, layer in zoo_layers(model).items()
    ]


def counts(model: nn.Module) -> dict[str, int]:
    """Count what trains, coefficients, weights replaced, and the total of the dense model."""
    layers = zoo_layers(model).values()
    maps = {layer.parameterization for layer in layers}
    bases = {layer.base for layer in layers if layer.base is not None}
    own = sum(p.numel() for p in model.parameters())
    coefficients = sum(p.num_trainable for p in maps)
    replaced = sum(math.prod(p.shape) for p in maps)
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "coefficients": coefficients,
        "replaced": replaced,
        "total": own - coefficients + replaced - sum(base.numel() for base in bases),
    }


def factory_class(factory: object) -> Any:
    """Return the class that a factory makes, which jsonargparse binds, or the factory."""
    parts = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    return next(
        (part for part in parts if isinstance(part, type)), getattr(factory, "func", factory)
    )


def blame(error: BaseException) -> str:
    """Say in one line what an exception is, and which place raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{message} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else message


def _why(factory: ParameterizationFactory, error: Exception) -> str:
    """Say why a parameterization could not be made."""
    cls = factory_class(factory)
    name = getattr(cls, "__name__", str(cls))
    if isinstance(error, ValueError):
        return f"{name} {error}"
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{name} is abstract: define {', '.join(lacking)}, or give a class that does"
    return f"{name} cannot be made: {blame(error)}; zoo check tests a class"


__all__ = [
    "ParameterizationFactory",
    "Start",
    "are_updates",
    "blame",
    "convert",
    "counts",
    "dense_weight",
    "factory_class",
    "is_conv1d",
    "is_linear",
    "linear_layers",
    "merge",
    "table",
    "zoo_layers",
]
