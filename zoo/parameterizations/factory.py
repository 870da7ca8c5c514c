"""What makes a map: a class, or a partial of one with its settings."""

from collections.abc import Callable
from typing import Any

from zoo.parameterizations.base import WeightParameterization

ParameterizationFactory = Callable[[int, int], WeightParameterization]
"""Makes a map from (out_features, in_features)."""


def factory_class(factory: object) -> Any:
    """Return the class that a factory makes, which jsonargparse binds, or the factory."""
    parts = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    return next(
        (part for part in parts if isinstance(part, type)), getattr(factory, "func", factory)
    )
