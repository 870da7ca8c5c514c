"""Training batches by number, so that a resumed run goes on exactly where it stopped."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from zoo.errors import UserError

LARGEST_BATCH, LONGEST = 2**16, 2**20
"""Examples of a process in a step, and ids of an example, that may be asked for; more is a slip of the finger."""


def check_size(name: str, value: int, most: int | None = None) -> None:
    """Refuse a size that is less than 1, or more than `most`.

    Raises:
        UserError: naming it.
    """
    if value < 1:
        raise UserError(f"data.{name} must be at least 1, got {value}")
    if most is not None and value > most:
        raise UserError(f"data.{name} must be at most {most:,}, got {value:,}")


class StepLoader(ABC):
    """`steps` batches an epoch, each a function of its number and nothing else.

    A subclass defines `batch`. Of a global batch, rank r of the world takes its own part.

    Args:
        steps: batches per epoch.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.position = 0

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Batch number `step`, counted over all epochs."""

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.position += 1  # before the batch is used: a checkpoint taken then has seen it
            yield self.batch(self.position - 1)
            if self.position % self.steps == 0:
                return

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a checkpoint had seen."""
        self.position = state["position"]
