"""Evaluations that are kept as they come, so that an interrupted command goes on."""

import json
import math
from collections.abc import Callable
from pathlib import Path


class Journal:
    """Evaluations by what they are of, in a file that grows with each.

    Args:
        path: of the file, a line of JSON for each; or None, to keep them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done: dict[str, float] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                    self.done[str(key)] = float(value)
                except (ValueError, TypeError):  # the line that was being written
                    continue

    def __call__(self, key: str, evaluate: Callable[[], float]) -> float:
        """The value that is known, or a new one."""
        if key not in self.done:
            self._write(key, evaluate())
        return self.done[key]

    def reference(self, model: str, value: float) -> None:
        """Forget what is known of a model whose reference is another than it was: its data has changed.

        Args:
            model: what all keys of the model begin with.
            value: the metric of all coefficients, evaluated now.
        """
        key = f"{model} unmasked"
        if not math.isclose(self.done.get(key, value), value, rel_tol=1e-6, abs_tol=1e-9):
            self.done = {known: found for known, found in self.done.items() if not known.startswith(f"{model} ")}
        if key not in self.done:
            self._write(key, value)

    def _write(self, key: str, value: float) -> None:
        self.done[key] = value
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps([key, value])}")  # the line end first, since the last line may be cut short
