"""One text as windows for training and validation; what its ids are is left to the subclass."""

import warnings
from abc import ABC, abstractmethod
from functools import cached_property

from torch import Tensor
from torch.utils.data import DataLoader

from tasks.text.corpus import Corpus, load_corpus
from tasks.text.windows import WindowLoader, numbered, scored_once
from zoo.errors import UserError
from zoo.training.data import LARGEST_BATCH, LONGEST, StepLoader, check_size
from zoo.training.module import ZooData


class TextData(ZooData, ABC):
    """A text, the first 90 % of its characters for training, the rest for validation and testing.

    A subclass defines `encode`, and calls its ids something in `unit`.

    Args:
        corpus: `tinyshakespeare`, `pydoc`, or the path of a UTF-8 text file.
        data_dir: a folder that has Tiny Shakespeare as `tinyshakespeare/input.txt`.
        fallback: corpus to take, with a warning, when Tiny Shakespeare cannot be had; null makes
            that an error.
        batch_size: windows per step and process.
        block_size: ids per window.
        seed: of the training windows.

    Raises:
        UserError: for a corpus that is missing, empty, binary or too short.
    """

    unit: str
    sources = ("corpus", "data_dir", "fallback", "backbone")
    no_paths = ("tinyshakespeare", "pydoc")

    def __init__(
        self,
        corpus: str,
        data_dir: str | None,
        fallback: str | None,
        batch_size: int,
        block_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        check_size("batch_size", batch_size, LARGEST_BATCH)
        check_size("block_size", block_size, LONGEST)
        self.corpus_name, self.data_dir, self.fallback = corpus, data_dir, fallback
        self.batch_size, self.block_size, self.seed = batch_size, block_size, seed

    @abstractmethod
    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Return the ids of a text, int32, and how many characters each stands for; (ids,) both."""

    @cached_property
    def corpus(self) -> Corpus:
        """The text, loaded when first asked for."""
        return load_corpus(self.corpus_name, self.data_dir, self.fallback)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the corpus."""
        return self.corpus.name

    @cached_property
    def encoded(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What `encode` returns of the training text and of the validation text.

        Raises:
            UserError: if there are fewer than ten windows in both.
        """
        text = self.corpus.text
        split = int(0.9 * len(text))
        train, val = self.encode(text[:split]), self.encode(text[split:])
        have, need = len(train[0]) + len(val[0]), 10 * (self.block_size + 1)
        if have < need or len(train[0]) <= self.block_size or not len(val[0]):
            raise UserError(
                f"corpus {self.name!r} is too short: {have} {self.unit}, and windows of "
                f"{self.block_size} need {need}; give a longer text or a smaller --data.block_size"
            )
        return train, val

    def headline(self) -> str:
        """Return the corpus and the start of its hash."""
        return f"{self.name} (sha256 {self.corpus.sha256[:12]})"

    def facts(self) -> dict[str, object]:
        """Return the corpus and its hash, sizes and the windows."""
        (train, _), (val, _) = self.encoded
        return {
            "corpus": self.name,
            "corpus_sha256": self.corpus.sha256,
            "characters": len(self.corpus.text),
            f"train_{self.unit}": len(train),
            f"validation_{self.unit}": len(val),
            "batch_size": self.batch_size,
            "block_size": self.block_size,
        }

    def identity(self) -> dict[str, object]:
        """Return the hash of the text, wherever it lies and whatever it is called."""
        return {"corpus_sha256": self.corpus.sha256, "characters": len(self.corpus.text)}

    def epoch_steps(self, global_batch: int) -> int:
        """Return the number of windows that do not overlap over the windows of a step."""
        (train, _), _ = self.encoded
        return max(1, len(train) // (global_batch * self.block_size))

    def batch_rows(self) -> int:
        """Count the ids of a batch."""
        return self.batch_size * self.block_size

    def settings(self) -> dict[str, object]:
        """Return the corpus that was had, if it is not the one that was asked for."""
        return {"corpus": self.fallback} if self.corpus.instead_of else {}

    def setup(self, stage: str) -> None:
        """Encode the text before anything is written, and warn if it is not what was asked for."""
        _ = self.encoded
        if self.corpus.instead_of:
            warnings.warn(self.corpus.instead_of, stacklevel=2)

    def train_dataloader(self) -> StepLoader:
        """Load as many batches as the trainer has steps.

        Without a number of steps it is one pass' worth of ids.
        """
        trainer = self.trainer
        assert trainer is not None
        ids, _ = self.encoded[0]
        if trainer.max_steps > 0:
            steps = trainer.max_steps * trainer.accumulate_grad_batches
        else:
            steps = max(1, len(ids) // (self.batch_size * self.block_size * trainer.world_size))
        rank, world = self.rank_and_world()
        return self.continued(
            WindowLoader(ids, steps, self.batch_size, self.block_size, self.seed, rank, world)
        )

    def val_dataloader(self) -> DataLoader:
        """Load every id of the last tenth once; ranks take turns."""
        rank, world = self.rank_and_world()
        (before, _), (ids, characters) = self.encoded
        windows = scored_once(before, ids, characters, self.block_size, rank, world)
        return DataLoader(windows, batch_size=self.batch_size)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader:
        """Load the validation text: the corpus has no third split."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Load the validation text, in windows that say which of its ids they score."""
        rank, world = self.rank_and_world()
        (before, _), (ids, characters) = self.encoded
        windows = scored_once(before, ids, characters, self.block_size, rank, world)
        return DataLoader(numbered(windows, rank, world), batch_size=self.batch_size)  # type: ignore[arg-type]
