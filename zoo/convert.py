"""Swap the linear layers of any model for parameterized ones, and back."""

import copy
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from zoo.errors import UserError
from zoo.linear import ZooLinear
from zoo.parameterizations import WeightParameterization

ParameterizationFactory = Callable[[int, int], WeightParameterization]
"""(out_features, in_features) to a parameterization: a class, or one with its other arguments bound."""


def matches(name: str, pattern: str) -> bool:
    """Whether a glob matches a dotted module name, whole or from any dot on.

    `*` crosses dots: `blocks.*` is every layer in the blocks, `attn.*` or `proj` every layer so called.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[i:]), pattern) for i in range(len(parts)))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every `nn.Linear` by name, and no layer that was converted already."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def zoo_layers(model: nn.Module) -> dict[str, ZooLinear]:
    """Every parameterized layer by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ZooLinear)}


def kind(name: str) -> str:
    """What a layer is, without which block it is in: `blocks.3.attn.qkv` is an `attn.qkv`."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :]) or name


def convert(
    model: nn.Module,
    parameterization: ParameterizationFactory,
    targets: Sequence[str],
    overrides: Mapping[str, ParameterizationFactory] | None = None,
    update: bool = False,
    scale: float = 1.0,
) -> nn.Module:
    """Give every linear layer that matches a target a parameterized weight, in place.

    Each W starts with the root-mean-square of the weight that it replaces, so that a model's own initialisation rule
    is kept; or at 0 where the old weight stays as a frozen base.

    Args:
        model: any module with `nn.Linear` layers.
        parameterization: makes the weight of a layer.
        targets: globs of layer names (`matches`); none may match nothing.
        overrides: parameterizations for the layers that match a glob, the last match wins; none may match nothing.
        update: keep the old weights frozen, and train updates of them.
        scale: s of `ZooLinear`.

    Returns:
        `model`.

    Raises:
        UserError: if a pattern matches no layer, or a parameterization cannot have a layer's shape.
    """
    layers = linear_layers(model)
    chosen = {name: layer for name, layer in layers.items() if any(matches(name, t) for t in targets)}
    factories = dict.fromkeys(chosen, parameterization)
    for pattern, candidates in [*((t, layers) for t in targets), *((o, chosen) for o in overrides or {})]:
        if not any(matches(name, pattern) for name in candidates):
            raise UserError(f"pattern {pattern!r} matches no linear layer; there are: {_summary(candidates)}")
    for pattern, factory in (overrides or {}).items():
        factories.update({name: factory for name in chosen if matches(name, pattern)})
    for name, layer in chosen.items():
        try:
            weight = factories[name](layer.out_features, layer.in_features)
        except Exception as error:  # a user's own class can raise anything
            raise UserError(f"{name}: {_why(factories[name], error)}") from error
        weight.layer = name
        weight.to(layer.weight.device, layer.weight.dtype)
        std = 0.0 if update or layer.weight.is_meta else layer.weight.detach().square().mean().sqrt().item()
        weight.reset_parameters(std)
        model.set_submodule(name, ZooLinear(weight, layer.bias, layer.weight if update else None, scale))
    return model


def merge(model: nn.Module) -> nn.Module:
    """A copy with plain `nn.Linear` layers and, to 1e-5, the same outputs."""
    plain = copy.deepcopy(model)
    for name, layer in zoo_layers(plain).items():
        plain.set_submodule(name, layer.merge())
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


def blame(error: BaseException) -> str:
    """An exception in one line, with the place that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    message = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{message} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else message


def _why(factory: ParameterizationFactory, error: Exception) -> str:
    """Why a parameterization could not be made; jsonargparse's partial has the class among its arguments."""
    parts = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    cls = next((part for part in parts if isinstance(part, type)), factory)
    name = getattr(cls, "__name__", str(cls))
    if isinstance(error, ValueError):
        return f"{name} {error}"
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{name} is abstract: define {', '.join(lacking)}, or give a class that does"
    return f"{name} cannot be made: {blame(error)}; zoo check tests a class"


def _summary(names: Mapping[str, nn.Module]) -> str:
    """Layer names with block numbers folded: blocks.*.attn.qkv, head."""
    folded = (".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names)
    return ", ".join(dict.fromkeys(folded)) or "none"


__all__ = [
    "ParameterizationFactory", "blame", "convert", "counts", "kind", "linear_layers", "matches", "merge", "table",
    "zoo_layers",
]
