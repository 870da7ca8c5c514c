"""Training batches by number, so that a resumed run goes on exactly where it stopped."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any


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
