"""GLUE as padded batches: tokenized once, training batches by number, no example twice in validation."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.glue.benchmark import glue_task
from tasks.glue.files import Examples, load_examples
from tasks.glue.tokens import Batch, Tokenized, tokenize
from tasks.hub import check_length, load_config, load_tokenizer, padding
from zoo.bases import generator
from zoo.errors import UserError
from zoo.loader import StepLoader
from zoo.module import ZooData

BUCKET = 32
"""Training batches whose examples are sorted by length together: less padding, and still random enough."""


class BucketLoader(StepLoader):
    """Every example once an epoch, in random batches of similar length.

    An epoch is shuffled, cut into buckets of `BUCKET` batches, sorted by length within each and dealt out in batches
    in random order: a function of the seed and the epoch. One batch may be smaller than the others. Of a global batch
    of `batch_size * world` examples, rank r takes every world-th from the r-th; where the examples are no multiple of
    `world`, the few left over wait for another epoch, so that all ranks have as many.

    Args:
        data: the examples.
        batch_size: examples per step and process.
        seed: of the order.
        rank: of this process.
        world: processes.

    Raises:
        UserError: if there are fewer examples than processes.
    """

    def __init__(self, data: Tokenized, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if len(data) < world:
            raise UserError(f"{len(data)} training examples are too few for {world} processes: give more examples")
        self.data, self.seed, self.rank, self.world = data, seed, rank, world
        self.whole = batch_size * world
        super().__init__(math.ceil(len(data) // world * world / self.whole))
        self.epoch: tuple[int, list[Tensor]] | None = None

    def batch(self, step: int) -> Batch:
        """Batch number `step`."""
        epoch, place = divmod(step, self.steps)
        if self.epoch is None or self.epoch[0] != epoch:
            self.epoch = epoch, self.order(epoch)
        return self.data.batch(self.epoch[1][place][self.rank :: self.world].tolist())

    def order(self, epoch: int) -> list[Tensor]:
        """The examples of each global batch of an epoch; (batch_size * world,) or fewer."""
        draw = generator(self.seed, "epoch", epoch)
        count = len(self.data) // self.world * self.world
        buckets = torch.randperm(len(self.data), generator=draw)[:count].split(self.whole * BUCKET)
        by_length = [bucket[self.data.lengths[bucket].argsort(stable=True)] for bucket in buckets]
        batches = torch.cat(by_length).split(self.whole)
        return [batches[i] for i in torch.randperm(self.steps, generator=draw)]


class GlueData(ZooData):
    """One GLUE task, from TSV files or the hub.

    Args:
        task: `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte` or `wnli`.
        backbone: whose tokenizer; comes from the model.
        data_dir: a folder that has the official files, as `RTE/train.tsv`; by default `$ZOO_DATA`, then the hub.
        batch_size: examples per step and process.
        eval_batch_size: the same in validation.
        max_length: tokens of an example, the rest is cut off.
        train_examples: how many to train on, drawn with the seed 0; by default all.
        seed: of the order.

    Raises:
        UserError: for an unknown task, a number out of range, or files that are missing or broken.
    """

    def __init__(
        self,
        task: str = "sst2",
        backbone: str = "bert-base-uncased",
        data_dir: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        max_length: int = 128,
        train_examples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_length": max_length,
                 "train_examples": train_examples}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"data.{name} must be at least 1, got {value}")
        self.about = glue_task(task)
        self.task = self.name = task
        self.backbone, self.data_dir = backbone, data_dir
        self.batch_size, self.eval_batch_size, self.max_length = batch_size, eval_batch_size, max_length
        self.train_examples, self.seed = train_examples, seed
        self._splits: dict[str, Tokenized] = {}
        self._skipped: dict[str, int] = {}

    def headline(self) -> str:
        """The task, and how many examples there are."""
        return ", ".join([self.about.folder, *(f"{len(data):,} {name}" for name, data in self._splits.items())])

    def facts(self) -> dict[str, object]:
        """The task, its sizes, and how long its examples are; `cut` counts those that have `max_length` tokens."""
        return {
            "glue_task": self.task, "batch_size": self.batch_size, "max_length": self.max_length,
            "examples": {name: len(data) for name, data in self._splits.items()},
            "cut": {name: int((data.lengths == self.max_length).sum()) for name, data in self._splits.items()},
            "mean_tokens": {name: round(data.lengths.double().mean().item(), 1) for name, data in self._splits.items()},
            "skipped_lines": self._skipped,
        }

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's.

        Raises:
            UserError: if the network has fewer positions than `max_length`, or that leaves no room for a text.
        """
        check_length(self.backbone, self.max_length, "data.max_length")
        tokenizer = load_tokenizer(self.backbone)
        special = tokenizer.num_special_tokens_to_add(pair=len(self.about.texts) == 2)
        if self.max_length <= special:
            raise UserError(f"data.max_length must be above the {special} tokens around texts, got {self.max_length}")
        return tokenizer

    def setup(self, stage: str) -> None:
        """Read all that the stage needs, and tokenize it."""
        wanted = [name for name in ("train",) * (stage == "fit") + self.about.dev if name not in self._splits]
        examples = {name: self.examples(name) for name in wanted}  # before the cache is written
        for name, split in examples.items():
            labels = torch.tensor(split.labels, dtype=torch.int64 if self.about.labels else torch.float32)
            columns = tokenize(split.texts, self.tokenizer, self.max_length)
            lengths = columns.pop("lengths")
            self._splits[name] = Tokenized(columns, lengths, labels, padding(load_config(self.backbone)))
            if split.skipped:
                self._skipped[name] = split.skipped

    def examples(self, name: str) -> Examples:
        """A split as texts, or as many of them as are wanted for training."""
        examples = load_examples(self.task, self.about, name, self.data_dir)
        if name != "train" or self.train_examples is None:
            return examples
        drawn = torch.randperm(len(examples), generator=generator(0, "subset"))
        return examples.subset(drawn[: self.train_examples].tolist())

    def train_dataloader(self) -> StepLoader:
        """Batches of similar length."""
        trainer = self.trainer
        assert trainer is not None
        rank, world = self.rank_and_world()
        return self.continued(BucketLoader(self._splits["train"], self.batch_size, self.seed, rank, world))

    def val_dataloader(self) -> list[DataLoader]:
        """Each validation file's examples once, longest last; ranks take turns."""
        rank, world = self.rank_and_world()
        loaders: list[DataLoader] = []
        for name in self.about.dev:
            data = self._splits[name]
            if len(data) < world:
                raise UserError(f"{len(data)} validation examples are too few for {world} processes: use fewer")
            batches = data.lengths.argsort(stable=True)[rank::world].split(self.eval_batch_size)
            loaders.append(DataLoader([data.batch(b.tolist()) for b in batches], batch_size=None))  # type: ignore[arg-type]
        return loaders

    def test_dataloader(self) -> list[DataLoader]:
        """The validation examples: GLUE keeps the labels of its test set to itself."""
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader]:
        """The validation examples."""
        return self.val_dataloader()
