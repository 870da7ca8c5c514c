"""The base of every task's data: what it is called, what identifies it, and how far training has come in it."""

from abc import ABC
from collections.abc import Mapping

from lightning.pytorch import LightningDataModule

from zoo.errors import UserError
from zoo.files.trust import PATHLIKE
from zoo.training.loader import StepLoader


class ZooData(LightningDataModule, ABC):
    """The data of a task.

    `name` stands in the run's name, `headline` at the end of its table and `facts` in its summary.
    By `identity` runs on different data are told apart: they are never averaged, and none goes on
    with other data. A subclass whose training batches come from a `StepLoader` keeps it in
    `batches` and is resumed exactly; one that keeps the examples of a batch in `batch_size` is held
    to the global batch that it began with, over however many processes.
    """

    name: str = "data"
    sources: tuple[str, ...] = ()
    """Settings that say where the data is. What came of them is in `identity`; whoever gives one on a command line has
    named the data; a path among them is kept from the root on."""
    no_paths: tuple[str, ...] = ()
    """Values of these settings that are no paths, whatever lies in the current folder."""
    neutral: tuple[str, ...] = ("seed", "batch_size")
    """Settings that change no result, or are told elsewhere: of two runs that are compared they may differ."""
    given: Mapping[str, object] = {}
    """All settings, as the command line has resolved them."""
    named: bool = True
    """Whether the user has said which data this is; else the config of a run has."""
    batches: StepLoader | None = None
    _position: dict[str, int] | None = None

    def headline(self) -> str:
        """The data in a few words."""
        return self.name

    def __str__(self) -> str:
        """Its class: Lightning would make every loader, before `setup`, and a parser writes this into its log."""
        return type(self).__name__

    def facts(self) -> dict[str, object]:
        """What a run's summary says of the data: plain values, such as the corpus and its sha256."""
        return {}

    def identity(self) -> dict[str, object]:
        """What of the data a result depends on, as plain values; by default all `facts` but settings that are neutral.

        Runs where it differs are not compared. It is asked for after `setup`, and what a stage has
        not read it leaves out.
        """
        return {key: value for key, value in self.facts().items() if key not in self.neutral}

    def places(self) -> list[str]:
        """The settings that say where the data is: `sources`; of a class that names none, what looks like a path."""
        return list(self.sources) or [key for key in self.given if PATHLIKE.search(key)]

    def epoch_steps(self, global_batch: int) -> int | None:
        """Steps of a pass over the training data, if it is not that of the loader."""
        return None

    def settings(self) -> dict[str, object]:
        """Settings to keep with a run in place of those given, where the data decided otherwise."""
        return {}

    def rank_and_world(self) -> tuple[int, int]:
        """This process and how many there are; 0 of 1 where no trainer asks."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def continued(self, batches: StepLoader) -> StepLoader:
        """These training batches, from where a checkpoint left them."""
        if self._position is not None:
            batches.load_state_dict(self._position)
        self.batches = batches
        return batches

    def state_dict(self) -> dict[str, int]:
        """How far training has come.

        Lightning keeps a loader's state too, but forgets to restore it where the schedule asked for
        the number of batches first.
        """
        return self.batches.state_dict() if self.batches is not None else self._position or {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Where training goes on.

        Raises:
            UserError: if it is no place.
        """
        place = state_dict.get("position", 0) if isinstance(state_dict, dict) else None
        if type(place) is not int or place < 0:
            raise UserError(
                f"the checkpoint is damaged: its place in the data is {state_dict}; use another copy"
            )
        self._position = dict(state_dict) or None
