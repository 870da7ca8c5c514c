"""The base of every task's data, and training batches by number, so that runs go on exactly."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from zoo.errors import UserError
from zoo.files.paths import PATHLIKE

LARGEST_BATCH = 2**16
"""Examples of a process in a step that may be asked for; more is a slip of the finger."""
LONGEST = 2**20
"""Ids of an example that may be asked for."""


def check_size(name: str, value: int, most: int | None = None) -> None:
    """Refuse a size of the data that is less than 1, or more than `most`.

    Raises:
        UserError: naming the setting.
    """
    if value < 1:
        raise UserError(f"data.{name} must be at least 1, got {value}")
    if most is not None and value > most:
        raise UserError(f"data.{name} must be at most {most:,}, got {value:,}")


class StepLoader(ABC):
    """Gives `steps` batches an epoch, each a function of its number and of nothing else.

    A subclass defines `batch`. Of a global batch, rank r of the world takes its own part.

    Args:
        steps: batches per epoch, at least 1.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.position = 0

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Make batch number `step`, counted over all epochs."""

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.position += 1  # before the batch is used: a checkpoint taken then has seen it
            yield self.batch(self.position - 1)
            if self.position % self.steps == 0:
                return

    def state_dict(self) -> dict[str, int]:
        """Return the number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a checkpoint had seen."""
        self.position = state["position"]


class ZooData(LightningDataModule, ABC):
    """The data of a task: its name, what identifies it, and how far training has come in it.

    `name` stands in the run's name, `headline` at the end of its table and `facts` in its summary.
    By `identity` runs on different data are told apart: they are never averaged, and none goes on
    with other data. A subclass whose training batches come from a `StepLoader` keeps it in
    `batches` and is resumed exactly; one that keeps the examples of a batch in `batch_size` is held
    to the global batch that it began with, over however many processes.
    """

    name: str = "data"
    sources: tuple[str, ...] = ()
    """Settings that say where the data is.

    What came of them is in `identity`. Whoever gives one on a command line has named the data, and
    a path among them is kept from the root on.
    """
    no_paths: tuple[str, ...] = ()
    """Values of these settings that are no paths, whatever lies in the current folder."""
    neutral: tuple[str, ...] = ("seed", "batch_size")
    """Settings in which compared runs may differ: they change no result, or are told elsewhere."""
    given: Mapping[str, object] = {}
    """All settings, as the command line has resolved them."""
    named: bool = True
    """Whether the user has said which data this is; if not, the config of a run has."""
    batches: StepLoader | None = None
    _position: dict[str, int] | None = None

    def headline(self) -> str:
        """Name the data in a few words."""
        return self.name

    def __str__(self) -> str:
        """Return the class' name.

        Lightning would make every loader, before `setup`, and a parser writes this into its log.
        """
        return type(self).__name__

    def facts(self) -> dict[str, object]:
        """Return what a summary says of the data, as plain values: a corpus and its sha256, say."""
        return {}

    def identity(self) -> dict[str, object]:
        """Return what of the data a result depends on, as plain values.

        By default that is all `facts` but neutral settings. Runs where it differs are not compared.
        It is asked for after `setup`, and what a stage has not read it leaves out.
        """
        return {key: value for key, value in self.facts().items() if key not in self.neutral}

    def places(self) -> list[str]:
        """Name the settings that say where the data is: `sources`, or what looks like a path."""
        return list(self.sources) or [key for key in self.given if PATHLIKE.search(key)]

    def epoch_steps(self, global_batch: int) -> int | None:
        """Count the steps of a pass over the training data; None if the loader's are right."""
        return None

    def batch_rows(self) -> int | None:
        """Count the rows of x that layers get of a training batch; None if batches differ."""
        return None

    def settings(self) -> dict[str, object]:
        """Return settings to keep with a run where the data decided otherwise than those given."""
        return {}

    def rank_and_world(self) -> tuple[int, int]:
        """Return the number of this process and how many there are; 0 of 1 if no trainer asks."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def continued(self, batches: StepLoader) -> StepLoader:
        """Set these training batches to where a checkpoint left them, and return them."""
        if self._position is not None:
            batches.load_state_dict(self._position)
        self.batches = batches
        return batches

    def state_dict(self) -> dict[str, int]:
        """Return how far training has come.

        Lightning keeps a loader's state too, but forgets to restore it where the schedule asked for
        the number of batches first.
        """
        return self.batches.state_dict() if self.batches is not None else self._position or {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where a checkpoint says.

        Raises:
            UserError: if that is no place in the data.
        """
        place = state_dict.get("position", 0) if isinstance(state_dict, dict) else None
        if type(place) is not int or place < 0:
            raise UserError(
                f"the checkpoint is damaged: its place in the data is {state_dict}; use another "
                "copy"
            )
        self._position = dict(state_dict) or None
