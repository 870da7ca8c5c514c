"""What makes the map of a layer: its share of a budget, and why it cannot be made."""

import functools
import math
from collections.abc import Mapping
from inspect import signature

from torch import nn

from zoo.errors import UserError, blame
from zoo.layers.plain_linear import dense_weight
from zoo.parameterizations.budget import Budget
from zoo.parameterizations.factory import ParameterizationFactory, factory_class


def shared_out(
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
    cls = factory_class(factory)
    if isinstance(cls, type) and "ratio" not in signature(cls).parameters:
        raise UserError(f"budget (of all layers): {cls.__name__} takes none, it has no ratio")
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


def why_not_made(factory: ParameterizationFactory, error: Exception) -> str:
    """Say why a factory could not make the map of a layer, from what it raised."""
    cls = factory_class(factory)
    name = getattr(cls, "__name__", str(cls))
    if isinstance(error, ValueError):
        return f"{name} {error}"
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{name} is abstract: define {', '.join(lacking)}, or give a class that does"
    return f"{name} cannot be made: {blame(error)}; zoo check tests a class"
