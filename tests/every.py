"""Every parameterization that is exported, so that a new class stands in all matrices of tests by
itself.
"""

import functools
from typing import Any

import zoo.parameterizations as zoo
from zoo.layers.convert import ParameterizationFactory

BUDGETS: dict[str, dict[str, Any]] = {"Dense": {}, "LoRA": {"rank": 2}}
"""Arguments of classes that a ratio does not suit."""


def factories(
    ratio: float = 0.3, **arguments: dict[str, Any]
) -> dict[str, ParameterizationFactory]:
    """By name a factory of each class that is not abstract.

    Args:
        ratio: of those that have nothing else.
        arguments: of a class, by its name.
    """
    classes = {name: getattr(zoo, name) for name in zoo.__all__}
    return {
        name: functools.partial(cls, **({**BUDGETS, **arguments}.get(name, {"ratio": ratio})))
        for name, cls in classes.items()
        if not getattr(cls, "__abstractmethods__", ())
    }
