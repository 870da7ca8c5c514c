"""Results that are kept as they come, so that an interrupted command goes on."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from zoo.errors import UserError
from zoo.files.access import opened
from zoo.files.plain import parse_json

JOURNAL = "evaluations.jsonl"
"""The file of `zoo mask`."""
ADAPTERS = "adapters.jsonl"
"""The file of `zoo census`."""
T = TypeVar("T")


class Journal(Generic[T]):
    """Remembers results by what they are of, in a file that grows with each.

    Args:
        path: of the file, a line of JSON for each; or None, to keep them in memory.
        accept: returns a result that was read, or None for what is none.

    Raises:
        UserError: if there is something that is no file.
    """

    def __init__(self, path: Path | None, accept: Callable[[Any], T | None]) -> None:
        self.path = path
        self.done: dict[str, T] = {}
        if path is not None and os.path.lexists(path):
            for line in _lines(path):
                key, value = _pair(line) or ("", None)
                if key and (known := accept(value)) is not None:
                    self.done[key] = known

    def write(self, key: str, value: T) -> None:
        """Remember a result."""
        self.done[key] = value
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # The line end comes first, since the last line may be cut short.
                file.write(f"\n{json.dumps([key, value])}")


class Evaluations(Journal[float]):
    """Remembers the scores of masked updates.

    Args:
        path: as `Journal` takes it.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, _number)

    def __call__(self, key: str, evaluate: Callable[[], float]) -> float:
        """Return the value that is known, or evaluate it."""
        if key not in self.done:
            self.write(key, evaluate())
        return self.done[key]

    def reference(self, model: str, value: float) -> None:
        """Forget what is known of a model if its reference has changed: its data has.

        Args:
            model: what all keys of the model begin with.
            value: the metric of all coefficients, evaluated now.
        """
        key = f"{model} unmasked"
        if not math.isclose(self.done.get(key, value), value, rel_tol=1e-6, abs_tol=1e-9):
            self.done = {
                known: evaluation
                for known, evaluation in self.done.items()
                if not known.startswith(f"{model} ")
            }
        if key not in self.done:
            self.write(key, value)


def is_journal(path: Path) -> bool:
    """Tell whether a file, if there is one, is a journal.

    Its first line is a result, or was cut short as one.
    """
    if not os.path.lexists(path):
        return True
    try:
        written = [line for line in _lines(path) if line.strip()]
    except UserError:
        return False
    return (
        not written
        or _pair(written[0]) is not None
        or (len(written) == 1 and '["'.startswith(written[0][:2]))
    )


def _lines(path: Path) -> list[str]:
    with opened(path) as file:
        return file.read().decode("utf-8", "replace").split("\n")


def _pair(line: str) -> tuple[str, Any] | None:
    """Read what a result is of, and the result; None for a line that was being written."""
    try:
        key, value = parse_json(line)
    except (ValueError, TypeError):
        return None
    return (key, value) if isinstance(key, str) else None


def _number(value: Any) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None
