"""Swap the linear layers of any model for parameterized ones, and back."""

import copy
import functools
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.budget import Budget
from zoo.errors import UserError
from zoo.linear import ZooLinear
from zoo.parameterizations import WeightParameterization

Start = Literal["random", "update", "project"]
ParameterizationFactory = Callable[[int, int], WeightParameterization]
"""(out_features, in_features) to a parameterization: a class, or one with its other arguments bound."""


def matches(name: str, pattern: str) -> bool:
    """Whether a glob matches a dotted module name, whole or from any dot on.

    `*` crosses dots: `blocks.*` is every layer in the blocks, `attn.*` or `proj` every layer so called.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[i:]), pattern) for i in range(len(parts)))


def is_conv1d(cls: type[nn.Module]) -> bool:
    """Whether this is GPT-2's linear layer of the transformers library, y = x W + b with W of shape (in, out)."""
    return cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")


def is_linear(module: nn.Module) -> bool:
    """Whether this is a plain linear layer, which `convert` can swap."""
    return isinstance(module, nn.Linear) or is_conv1d(type(module))


def dense_weight(layer: nn.Module) -> Tensor:
    """W of a linear layer or Conv1D as (out_features, in_features); a view."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.mT if is_conv1d(type(layer)) else weight


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every `nn.Linear` and `Conv1D` by name, and no layer that was converted already."""
    return {name: m for name, m in model.named_modules() if is_linear(m)}


def zoo_layers(model: nn.Module) -> dict[str, ZooLinear]:
    """Every parameterized layer by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ZooLinear)}


def are_updates(layers: Mapping[str, ZooLinear]) -> bool:
    """Whether any of these layers has a frozen base, so that its W is an update."""
    return any(layer.weight is not None for layer in layers.values())


def kind(name: str) -> str:
    """What a layer is, without which block it is in: `blocks.3.attn.qkv` is an `attn.qkv`."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :]) or name


def block(name: str) -> int | None:
    """Which block a layer is in: 3 for `blocks.3.attn.qkv`, None for `head`."""
    return next((int(part) for part in reversed(name.split(".")) if part.isdigit()), None)


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

    Args:
        model: any module with `nn.Linear` layers, or transformers' `Conv1D`.
        parameterization: makes the weight of a layer.
        targets: globs of layer names (`matches`); none may match nothing.
        overrides: parameterizations for the layers that match a glob, the last match wins; none may match nothing.
        start: `random`, with the root-mean-square of the weight that W replaces, so that a model's own initialisation
            rule is kept; `update`, the old weight stays as a frozen base and W starts at 0; or `project`, W starts as
            near to the old weight as its parameterization allows.
        scale: s of `ZooLinear`.
        budget: of all layers together that no override decides; `parameterization` must have none of its own.
        recompute: build W again in backward rather than keep it (`ZooLinear`).

    Returns:
        `model`.

    Raises:
        UserError: if a pattern matches no layer, a parameterization cannot have a layer's shape, or there are two
            budgets.
    """
    layers = linear_layers(model)
    chosen = {name: layer for name, layer in layers.items() if any(matches(name, t) for t in targets)}
    factories = dict.fromkeys(chosen, parameterization)
    for pattern, candidates in [*((t, layers) for t in targets), *((o, chosen) for o in overrides or {})]:
        if not any(matches(name, pattern) for name in candidates):
            raise UserError(f"pattern {pattern!r} matches no linear layer; there are: {summary(candidates)}")
    for pattern, factory in (overrides or {}).items():
        factories.update({name: factory for name in chosen if matches(name, pattern)})
    if budget is not None:
        factories |= _spread(budget, parameterization, factories, chosen)
    for name, layer in chosen.items():
        old = dense_weight(layer)
        try:
            weight = factories[name](*old.shape)
        except Exception as error:  # a user's own class can raise anything
            spread = "; the budget of all layers gives it a ratio" if budget is not None else ""
            raise UserError(f"{name}: {_why(factories[name], error)}{spread}") from error
        weight.layer = name
        weight.to(old.device, torch.promote_types(old.dtype, torch.float32) if start == "update" else old.dtype)
        weight.reset_parameters(0.0 if start == "update" or old.is_meta else old.detach().square().mean().sqrt().item())
        if start == "project":
            weight.project_(old.detach())
        base = old if start == "update" else None
        new = ZooLinear(weight, layer.bias, base, scale, recompute)  # type: ignore[arg-type]
        new.replaced = type(layer)
        model.set_submodule(name, new.train(layer.training))
    return model


def _spread(
    budget: Budget, factory: ParameterizationFactory, factories: Mapping[str, ParameterizationFactory],
    layers: Mapping[str, nn.Module],
) -> dict[str, ParameterizationFactory]:
    """The factory with each layer's share of a budget, for the layers that it serves."""
    own = [k for k in ("ratio", "coefficients", "lora_rank", "num_bases") if getattr(factory, "keywords", {}).get(k)]
    if own:
        raise UserError(f"budget (of all layers) and the parameterization's own {own[0]} exclude each other: drop one")
    shapes = {name: tuple(dense_weight(layers[name]).shape) for name, f in factories.items() if f is factory}
    split = budget.split(shapes)  # type: ignore[arg-type]
    return {name: functools.partial(factory, ratio=k / math.prod(shapes[name]))  # type: ignore[call-arg]
            for name, k in split.items()}


def merge(model: nn.Module) -> nn.Module:
    """A copy with the plain layers that were there before conversion and, to 1e-5, the same outputs."""
    plain = copy.deepcopy(model)
    for name, layer in zoo_layers(plain).items():
        linear: nn.Module = layer.merge()
        if is_conv1d(layer.replaced):
            conv = layer.replaced(layer.out_features, layer.in_features)
            conv.weight, conv.bias = nn.Parameter(linear.weight.mT.contiguous()), linear.bias  # type: ignore[union-attr, operator]
            linear = conv
        plain.set_submodule(name, linear)
    return plain


def table(model: nn.Module) -> list[dict[str, object]]:
    """What was swapped: one row a layer, with keys layer, shape, parameterization, weights, trainable, lr_mult."""
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
    """Trainable parameters, weights replaced, coefficients in their place, and parameters of the dense model."""
    rows = table(model)
    own = sum(p.numel() for p in model.parameters())
    coefficients = sum(int(row["trainable"]) for row in rows)  # type: ignore[call-overload]
    replaced = sum(int(row["weights"]) for row in rows)  # type: ignore[call-overload]
    based = sum(layer.weight.numel() for layer in zoo_layers(model).values() if layer.weight is not None)
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "coefficients": coefficients,
        "replaced": replaced,
        "total": own - coefficients + replaced - based,
    }


def factory_class(factory: object) -> Any:
    """The class that a factory makes, or the factory itself; jsonargparse's partial has it among its arguments."""
    parts = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    return next((part for part in parts if isinstance(part, type)), getattr(factory, "func", factory))


def blame(error: BaseException) -> str:
    """An exception in one line, with the place that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{message} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else message


def _why(factory: ParameterizationFactory, error: Exception) -> str:
    """Why a parameterization could not be made."""
    cls = factory_class(factory)
    name = getattr(cls, "__name__", str(cls))
    if isinstance(error, ValueError):
        return f"{name} {error}"
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{name} is abstract: define {', '.join(lacking)}, or give a class that does"
    return f"{name} cannot be made: {blame(error)}; zoo check tests a class"


def summary(names: Iterable[str]) -> str:
    """Layer names with block numbers folded: blocks.*.attn.qkv, head."""
    folded = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return ", ".join(dict.fromkeys(folded)) or "none"


__all__ = [
    "ParameterizationFactory", "Start", "are_updates", "blame", "block", "convert", "counts", "dense_weight",
    "factory_class", "is_conv1d", "is_linear", "kind", "linear_layers", "matches", "merge", "summary", "table",
    "zoo_layers",
]
