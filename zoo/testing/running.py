"""The suite without pytest: which case a class belongs to, and what holds."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from zoo.parameterizations import OrthonormalSubspace, SeparableSubspace, WeightParameterization
from zoo.parameterizations.subspaces.orthonormal import BUILT_FROM
from zoo.testing.case import TOLERANCE, Case, Shape, reason
from zoo.testing.layers import ParameterizationTestCase
from zoo.testing.orthonormal import OrthonormalTestCase, SeparableTestCase


def case_for(parameterization: type[WeightParameterization], arguments: dict[str, Any]) -> Case:
    """Make the case with every contract that applies to a class."""
    kind: type[Case] = ParameterizationTestCase
    if issubclass(parameterization, OrthonormalSubspace):
        kind = OrthonormalTestCase
    if issubclass(parameterization, SeparableSubspace) and all(
        getattr(parameterization, name) is getattr(SeparableSubspace, name)
        for name in (*BUILT_FROM, "layout")
    ):
        kind = SeparableTestCase
    members = {"parameterization": parameterization, "arguments": arguments}
    made: Case = type(f"{parameterization.__name__}Case", (kind,), members)()
    return made


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
