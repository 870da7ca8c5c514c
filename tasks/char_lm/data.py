"""One text as training windows drawn by step, and as validation windows that score every character once."""

import warnings
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.char_lm.corpus import Corpus, load_corpus
from zoo.bases import generator
from zoo.errors import UserError
from zoo.loader import StepLoader
from zoo.module import ZooData

IGNORE = -100
"""Target of a position that is not scored."""


class WindowLoader(StepLoader):
    """`steps` batches of windows an epoch, each a function of the seed and its number.

    Yields (inputs, targets), int64 of shape (batch_size, block_size) each; of a step's `batch_size * world` windows,
    rank r takes every world-th from the r-th.
    """

    def __init__(
        self, ids: Tensor, steps: int, batch_size: int, block_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(steps)
        self.ids, self.seed = ids, seed
        self.batch_size, self.block_size = batch_size, block_size
        self.rank, self.world = rank, world

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch number `step`."""
        last = len(self.ids) - self.block_size  # a window of block_size + 1 starts before it
        starts = torch.randint(last, (self.batch_size * self.world,), generator=generator(self.seed, "batch", step))
        starts = starts[self.rank :: self.world, None]
        windows = self.ids[starts + torch.arange(self.block_size + 1)].long()  # (batch, block + 1)
        return windows[:, :-1], windows[:, 1:]


def scored_once(context: Tensor, ids: Tensor, block_size: int) -> list[tuple[Tensor, Tensor]]:
    """Windows whose targets are every character of `ids` exactly once; (inputs, targets) of (block_size,) each.

    The last character of `context` starts the first window; positions past the end have target `IGNORE`.
    """
    text = torch.cat([context[-1:], ids]).long()
    pad = -len(ids) % block_size
    inputs = torch.cat([text[:-1], text.new_zeros(pad)]).view(-1, block_size)
    targets = torch.cat([text[1:], text.new_full((pad,), IGNORE)]).view(-1, block_size)
    return list(zip(inputs, targets, strict=True))


class CharData(ZooData):
    """A text in characters, split 90 % to 10 %.

    The first part is for training, the last for validation and testing.

    Args:
        corpus: `tinyshakespeare`, `pydoc`, or the path of a UTF-8 text file.
        data_dir: a folder that has Tiny Shakespeare as `tinyshakespeare/input.txt`.
        fallback: corpus to take, with a warning, when Tiny Shakespeare cannot be had; null makes that an error.
        batch_size: windows per step and process.
        block_size: characters per window.
        seed: of the training windows.

    Raises:
        UserError: for a corpus that is missing, empty, binary or too short.
    """

    def __init__(
        self,
        corpus: str = "tinyshakespeare",
        data_dir: str | None = None,
        fallback: str | None = "pydoc",
        batch_size: int = 32,
        block_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("block_size", block_size)):
            if value < 1:
                raise UserError(f"data.{name} must be at least 1, got {value}")
        self.corpus_name, self.data_dir, self.fallback = corpus, data_dir, fallback
        self.batch_size, self.block_size, self.seed = batch_size, block_size, seed

    @cached_property
    def corpus(self) -> Corpus:
        """The text, loaded when first asked for."""
        corpus = load_corpus(self.corpus_name, self.data_dir, self.fallback)
        need = 10 * (self.block_size + 1)
        if len(corpus.text) < need:
            raise UserError(
                f"corpus {corpus.name!r} is too short: {len(corpus.text)} characters, and windows of "
                f"{self.block_size} need {need}; give a longer text or a smaller --data.block_size"
            )
        return corpus

    @property
    def name(self) -> str:  # type: ignore[override]
        """What the corpus is called."""
        return self.corpus.name

    @cached_property
    def vocabulary(self) -> str:
        """Every character of the corpus, sorted; a character's place is its id."""
        return "".join(sorted(set(self.corpus.text)))

    @cached_property
    def ids(self) -> Tensor:
        """The corpus as ids; (characters,)."""
        place = {character: i for i, character in enumerate(self.vocabulary)}
        return torch.tensor([place[character] for character in self.corpus.text], dtype=torch.int32)

    @property
    def split(self) -> int:
        """Where validation begins."""
        return int(0.9 * len(self.ids))

    def headline(self) -> str:
        """The corpus and the start of its hash."""
        return f"{self.name} (sha256 {self.corpus.sha256[:12]})"

    def facts(self) -> dict[str, object]:
        """The corpus and its hash, sizes and the windows."""
        return {
            "corpus": self.name, "corpus_sha256": self.corpus.sha256, "characters": len(self.ids),
            "vocabulary": len(self.vocabulary), "train_characters": self.split,
            "validation_characters": len(self.ids) - self.split,
            "batch_size": self.batch_size, "block_size": self.block_size,
        }

    def settings(self) -> dict[str, object]:
        """The corpus that was had, if it is not the one that was asked for."""
        return {"corpus": self.fallback} if self.corpus.instead_of else {}

    def setup(self, stage: str) -> None:
        """Say it if the corpus is not the one that was asked for."""
        if self.corpus.instead_of:
            warnings.warn(self.corpus.instead_of, stacklevel=2)

    def train_dataloader(self) -> StepLoader:
        """As many batches as the trainer has steps; without a number of steps, one pass' worth of characters."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.max_steps > 0:
            steps = trainer.max_steps * trainer.accumulate_grad_batches
        else:
            steps = max(1, self.split // (self.batch_size * self.block_size * trainer.world_size))
        return self.continued(WindowLoader(
            self.ids[: self.split], steps, self.batch_size, self.block_size, self.seed,
            trainer.global_rank, trainer.world_size,
        ))

    def val_dataloader(self) -> DataLoader:
        """Every character of the last tenth, once."""
        windows = scored_once(self.ids[: self.split], self.ids[self.split :], self.block_size)
        return DataLoader(windows, batch_size=max(64, self.batch_size))  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader:
        """The validation characters: the corpus has no third split."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The validation characters."""
        return self.val_dataloader()
