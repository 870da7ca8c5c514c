"""The suite without pytest: which case a class belongs to, and what holds."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from zoo.parameterizations import (
    Isometry,
    OfBase,
    OrthonormalSubspace,
    SeparableSubspace,
    WeightParameterization,
)
from zoo.parameterizations.subspaces.orthonormal import BUILT_FROM
from zoo.testing.case import TOLERANCE, Case, Shape, reason
from zoo.testing.layers import ParameterizationTestCase
from zoo.testing.of_base import OfBaseTestCase
from zoo.testing.orthonormal import IsometryTestCase, OrthonormalTestCase, SeparableTestCase

SMALL: tuple[Shape, ...] = ((5, 4), (6, 4), (4, 4), (4, 8), (8, 8))
"""Shapes for `Case.small`, the first that a class can have."""
LARGER: tuple[Shape, ...] = ((12, 36), (36, 12), (32, 64), (64, 32))


def case_for(parameterization: type[WeightParameterization], arguments: dict[str, Any]) -> Case:
    """Make the case with every contract that applies to a class, on the shapes that it can have.

    A shape that its constructor refuses by a ValueError is no failed contract.
    """
    kind: type[Case] = ParameterizationTestCase
    if issubclass(parameterization, OfBase):
        kind = OfBaseTestCase
    if issubclass(parameterization, Isometry):
        kind = IsometryTestCase
    if issubclass(parameterization, OrthonormalSubspace):
        kind = OrthonormalTestCase
    if issubclass(parameterization, SeparableSubspace) and all(
        getattr(parameterization, name) is getattr(SeparableSubspace, name)
        for name in (*BUILT_FROM, "layout")
    ):
        kind = SeparableTestCase
    shapes = suited(parameterization, arguments)
    small = next((s for s in SMALL if not refused(parameterization, arguments, s)), kind.small)
    members = {
        "parameterization": parameterization,
        "arguments": arguments,
        "shapes": shapes,
        "small": small,
    }
    made: Case = type(f"{parameterization.__name__}Case", (kind,), members)()
    return made


def suited(
    parameterization: type[WeightParameterization], arguments: dict[str, Any]
) -> tuple[Shape, ...]:
    """Return those of a case's shapes that a class can have with these arguments.

    Where none of them is wide, or none tall, a larger one that is comes instead, if there is one.
    """
    shapes = [s for s in Case.shapes if not refused(parameterization, arguments, s)]
    for kind in (lambda m, n: m < n, lambda m, n: m > n):
        if not any(kind(*shape) for shape in shapes):
            larger = (s for s in LARGER if kind(*s) and not refused(parameterization, arguments, s))
            shapes += itertools.islice(larger, 1)
    return tuple(shapes)


def refused(
    parameterization: type[WeightParameterization], arguments: dict[str, Any], shape: Shape
) -> ValueError | None:
    """Return what a class says against a shape, if it does; other errors are for its contracts."""
    try:
        parameterization(*shape, **arguments)
    except ValueError as error:
        return error
    except Exception:
        return None
    return None


def conformance(case: Case) -> Iterator[tuple[str, str, str | None]]:
    """Run a case: yield (contract, its equation, first failure or None), general ones first."""
    defined = [
        name
        for cls in reversed(type(case).__mro__)
        for name in vars(cls)
        if name.startswith("test_")
    ]
    for name in dict.fromkeys(defined):
        equation = (getattr(case, name).__doc__ or "").strip().splitlines()[0]
        yield name.removeprefix("test_").replace("_", " "), equation, failure(case, name)


def failure(case: Case, name: str) -> str | None:
    """Run one test of a case on all its shapes: why the first that fails does, or None."""
    test = getattr(case, name)
    for arguments in _combinations(tuple(inspect.signature(test).parameters), case.shapes):
        torch.manual_seed(0)
        try:
            test(**arguments)
        except Exception as error:  # a failed contract, whichever way it fails
            where = ", ".join(str(v).removeprefix("torch.") for v in arguments.values())
            return f"{where}: {reason(error)}" if where else reason(error)
    return None


def _combinations(names: tuple[str, ...], shapes: tuple[Shape, ...]) -> Iterator[dict[str, Any]]:
    for shape in shapes if "shape" in names else (None,):
        for dtype in TOLERANCE if "dtype" in names else (None,):
            yield {k: v for k, v in (("shape", shape), ("dtype", dtype)) if v is not None}
