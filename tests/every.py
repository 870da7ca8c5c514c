"""Every parameterization that is exported, so that a new class stands in all matrices of tests by
itself; and matrices of which some rows run by default, and all under `slow`.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import zoo.parameterizations as zoo
from zoo.layers.convert import ParameterizationFactory

BUDGETS: dict[str, dict[str, Any]] = {
    "AdaLoRA": {"rank": 2},
    "BLAST": {"rank": 2},
    "Dense": {},
    "DoRA": {"rank": 2},
    "HiRA": {"rank": 2},
    "Householder": {"rank": 2},
    "IA3": {},
    "LoHa": {"rank": 2},
    "LoRA": {"rank": 2},
    "LoRAXS": {"rank": 2},
    "PiSSA": {"rank": 2},
    "Sum": {
        "parts": [functools.partial(zoo.LoRA, rank=1), functools.partial(zoo.Sparse, ratio=0.2)]
    },
    "VeRA": {},
}
"""Arguments of classes that a ratio does not suit."""
OF_EACH_KIND = ("BlockDCT", "DCT", "LoRA", "RandLoRA")
"""Classes that share no way to make W: what holds of layers with these holds of the others too."""


def thinned(rows: Iterable[Any], default: int | Callable[..., bool]) -> list[Any]:
    """Leave all rows of a matrix of tests to `slow` but those that also run by default.

    Args:
        rows: the arguments of one test each, tuples where there are several.
        default: whether the test with these arguments runs by default; or k, for every k-th.
    """
    given = [row if isinstance(row, tuple) else (row,) for row in rows]
    often = [
        i % default == 0 if isinstance(default, int) else default(*row)
        for i, row in enumerate(given)
    ]
    return [
        pytest.param(*row, marks=() if runs else pytest.mark.slow)
        for row, runs in zip(given, often, strict=True)
    ]


def factories(
    ratio: float = 0.3, of_base: bool = False, **arguments: dict[str, Any]
) -> dict[str, ParameterizationFactory]:
    """By name a factory of each class that is not abstract.

    Args:
        ratio: of those that have nothing else.
        of_base: also those that have no W without a frozen one, which a matrix of updates can have.
        arguments: of a class, by its name.
    """
    classes = {name: getattr(zoo, name) for name in zoo.__all__}
    return {
        name: functools.partial(cls, **({**BUDGETS, **arguments}.get(name, {"ratio": ratio})))
        for name, cls in classes.items()
        if not getattr(cls, "__abstractmethods__", ()) and (of_base or not cls.needs_base)
    }
