"""Callbacks that change what training does: their settings are of a run's method."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from zoo.files.flat import Flat, flatten


@runtime_checkable
class ChangesTraining(Protocol):
    """A callback without which a run of the same settings would end at other weights."""

    def settings(self) -> Mapping[str, object]:
        """Return what it was given, as plain data by name."""


def settings_of(callbacks: Iterable[object]) -> Flat:
    """Return the settings of those that change training, as `trainer.callbacks.CLASS.NAME`."""
    found = [each for each in callbacks if isinstance(each, ChangesTraining)]
    return flatten({f"trainer.callbacks.{type(each).__name__}": each.settings() for each in found})
