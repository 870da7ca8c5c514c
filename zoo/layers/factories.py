"""What makes the map of a layer: its share of a budget, what it starts from, why it cannot."""

import functools
import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError, blame
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.budget import Budget
from zoo.parameterizations.factory import ParameterizationFactory, factory_class
from zoo.parameterizations.of_base.base_map import ALONE

Start = Literal["random", "update", "project"]


class Shared(functools.partial[WeightParameterization]):
    """A factory with the share of a budget that one layer has."""


def shared_out(
    budget: Budget,
    factory: ParameterizationFactory,
    factories: Mapping[str, ParameterizationFactory],
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, ParameterizationFactory]:
    """Bind to a factory the share of a budget of each layer that it serves.

    Args:
        budget: of all layers together.
        factory: the one whose layers share it.
        factories: by layer.
        shapes: (m, n) by layer.

    Raises:
        UserError: if the factory has a budget of its own, or can have none.
    """
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
    sharing = {name: shapes[name] for name, f in factories.items() if f is factory}
    split = budget.split(sharing)
    return {
        name: Shared(factory, ratio=k / math.prod(shapes[name]))  # type: ignore[call-arg]
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


class Replaced(NamedTuple):
    """What a map is told of the weight that it comes in place of, or beside.

    Args:
        shape: (m, n).
        dtype: of the weight.
        device: where the map is to be.
        matrix: makes the weight, (m, n), detached; not called where nothing follows from it.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    matrix: Callable[[], Tensor]


def begin(
    name: str,
    factory: ParameterizationFactory,
    old: Replaced,
    start: Start,
    dense: bool = False,
) -> WeightParameterization:
    """Make the map of a layer, with the coefficients that it starts from.

    Args:
        name: of the layer.
        factory: of the map.
        old: the weight.
        start: `random`, with the root-mean-square of the old weight; `update`, W = 0 beside it; or
            `project`, W near to it.
        dense: whether a dense phase comes before.

    Raises:
        UserError: naming the layer, if there is no such map.
    """
    try:
        space = factory(*old.shape)
        space.layer = name
        if space.needs_base and start != "update":
            bases = "warm" if dense else "random or warm"
            alone = f"; from scratch it takes base {bases}" if start == "random" else ""
            raise ValueError(ALONE + alone)
    except Exception as error:  # a user's own class can raise anything
        raise _not_made(name, factory, error) from error
    if start == "update":
        return _begin_update(name, factory, old, space)
    weight = old.matrix()
    try:
        space.to(old.device, old.dtype)
        if not weight.is_meta:  # there it keeps the constructor's std, and its rates
            space.reset_parameters(weight.square().mean().sqrt().item())
    except Exception as error:
        raise _not_made(name, factory, error) from error
    if start == "project" and not weight.is_meta:
        space.project_(weight)
    return space


def _begin_update(
    name: str, factory: ParameterizationFactory, old: Replaced, space: WeightParameterization
) -> WeightParameterization:
    """Let a map start at W = 0, beside a weight that is made only if something follows from it."""
    follows = type(space).for_base is not WeightParameterization.for_base
    weight = old.matrix() if follows else None
    try:
        space.to(old.device, torch.promote_types(old.dtype, torch.float32))
        space.reset_parameters(0.0)
        if weight is not None:
            space.for_base(weight)
    except Exception as error:
        raise _not_made(name, factory, error) from error
    return space


def _not_made(name: str, factory: ParameterizationFactory, error: Exception) -> UserError:
    spread = "; the budget of all layers gives it a ratio" if isinstance(factory, Shared) else ""
    return UserError(f"{name or 'the model'}: {why_not_made(factory, error)}{spread}")
