"""GLUE as padded batches: tokenized once, and no example twice in validation."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tasks.glue.benchmark import glue_task
from tasks.glue.files import HUB, Contents, Examples, load_examples
from tasks.glue.tokens import Batch, Tokenized, fingerprint, tokenize
from tasks.hub import check_length, load_config, load_tokenizer, padding
from zoo.bases.seeds import generator
from zoo.errors import UserError
from zoo.training.callbacks.progress import say
from zoo.training.data import LARGEST_BATCH, LONGEST, StepLoader, check_size
from zoo.training.module import ZooData

BUCKET = 32
"""Training batches whose examples are sorted by length together: less padding, still random."""


class BucketLoader(StepLoader):
    """A loader of every example once an epoch, in random batches of similar length.

    An epoch is shuffled, cut into buckets of `BUCKET` batches, sorted by length within each and
    dealt out in batches in random order: a function of the seed and the epoch. One batch may be
    smaller than the others. Of a global batch of `batch_size * world` examples, rank r takes every
    world-th from the r-th.

    All ranks take as many steps. Where a global batch of m examples is no multiple of `world`, rank
    r's n_r of them carry the `weight` n_r * world / m, by which their mean loss is to be
    multiplied: the mean over ranks, which DDP takes of gradients, is then the mean over the m. A
    rank that would have none gets one at weight 0.

    Args:
        data: the examples.
        batch_size: examples per step and process.
        seed: of the order.
        rank: of this process.
        world: processes.

    Raises:
        UserError: if there are fewer examples than processes.
    """

    def __init__(
        self, data: Tokenized, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        if len(data) < world:
            raise UserError(
                f"{len(data)} training examples are too few for {world} processes: give more "
                "examples"
            )
        self.data, self.seed, self.rank, self.world = data, seed, rank, world
        self.whole = batch_size * world
        super().__init__(math.ceil(len(data) / self.whole))
        self.epoch: tuple[int, list[Tensor]] | None = None

    def batch(self, step: int) -> Batch:
        """Return batch number `step`."""
        epoch, place = divmod(step, self.steps)
        if self.epoch is None or self.epoch[0] != epoch:
            self.epoch = epoch, self.order(epoch)
        together = self.epoch[1][place]
        mine = together[self.rank :: self.world]
        batch = self.data.batch((mine if len(mine) else together[:1]).tolist())
        if len(together) % self.world:
            batch["weight"] = torch.tensor(len(mine) * self.world / len(together))
        return batch

    def order(self, epoch: int) -> list[Tensor]:
        """Draw the examples of each global batch of an epoch; (batch_size * world,) or fewer."""
        draw = generator(self.seed, "epoch", epoch)
        buckets = torch.randperm(len(self.data), generator=draw).split(self.whole * BUCKET)
        by_length = [bucket[self.data.lengths[bucket].argsort(stable=True)] for bucket in buckets]
        batches = torch.cat(by_length).split(self.whole)
        return [batches[i] for i in torch.randperm(self.steps, generator=draw)]


class InOrder(Dataset[Batch]):
    """Examples in the order of their file, in batches that say by `index` which they are.

    Args:
        name: of the split.
        data: its examples.
        batch_size: examples of a batch.
        rank: of this process, which takes every world-th example.
        world: processes.
    """

    def __init__(
        self, name: str, data: Tokenized, batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        self.name, self.data = name, data
        self.batches = torch.arange(len(data))[rank::world].split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        index = self.batches[number]
        return {**self.data.batch(index.tolist()), "index": index}


class GlueData(ZooData):
    """One GLUE task, from TSV files or the hub.

    Args:
        task: `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte` or `wnli`.
        backbone: whose tokenizer; comes from the model.
        data_dir: a folder that has the official files, as `RTE/train.tsv`; by default `$ZOO_DATA`,
            then the hub.
        batch_size: examples per step and process.
        eval_batch_size: the same in validation.
        max_length: tokens of an example, the rest is cut off.
        train_examples: how many to train on, drawn with the seed 0; by default all.
        seed: of the order.

    Raises:
        UserError: for an unknown task, a number out of range, or files that are missing or broken.
    """

    sources = ("data_dir", "backbone")
    neutral = (*ZooData.neutral, "eval_batch_size", "task", "train_examples")

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
        check_size("batch_size", batch_size, LARGEST_BATCH)
        check_size("eval_batch_size", eval_batch_size, LARGEST_BATCH)
        check_size("max_length", max_length, LONGEST)
        if train_examples is not None:
            check_size("train_examples", train_examples)
        self.about = glue_task(task)
        self.task = self.name = task
        self.backbone, self.data_dir = backbone, data_dir
        self.batch_size, self.eval_batch_size, self.max_length = (
            batch_size,
            eval_batch_size,
            max_length,
        )
        self.train_examples, self.seed = train_examples, seed
        self._splits: dict[str, Tokenized] = {}
        self._read: dict[str, Contents] = {}

    def headline(self) -> str:
        """Return the task, and how many examples there are."""
        return ", ".join(
            [self.about.folder, *(f"{len(data):,} {name}" for name, data in self._splits.items())]
        )

    def facts(self) -> dict[str, object]:
        """Return the task, its sizes and contents, and how long its examples are.

        `glue_sha256` is of the texts and labels of each split, as they are used; `cut` counts
        examples that have `max_length` tokens, `repeated` those whose texts have stood before,
        `empty` those that lack a text.
        """
        read = self._read.items()
        return {
            "glue_task": self.task,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "examples": {name: len(data) for name, data in self._splits.items()},
            "cut": {
                name: int((data.lengths == self.max_length).sum())
                for name, data in self._splits.items()
            },
            "mean_tokens": {
                name: round(data.lengths.double().mean().item(), 1)
                for name, data in self._splits.items()
            },
            "glue_sha256": {name: examples.sha256 for name, examples in read},
            "skipped_lines": {
                name: examples.skipped for name, examples in read if examples.skipped
            },
            "empty": {name: examples.empty for name, examples in read if examples.empty},
            "repeated": {name: examples.repeated for name, examples in read if examples.repeated},
            "hub": {
                name: f"{HUB} {examples.revision}" for name, examples in read if examples.revision
            },
        }

    def identity(self) -> dict[str, object]:
        """Return the task, and the hashes of the examples that are read and of the tokenizer."""
        hashes = {name: examples.sha256 for name, examples in self._read.items()}
        return {
            "glue_task": self.task,
            "glue_sha256": hashes,
            "tokenizer_sha256": self.tokenizer_sha256,
            "examples": {name: len(data) for name, data in self._splits.items()},
        }

    def epoch_steps(self, global_batch: int) -> int | None:
        """Return as many steps as it takes to see every example once."""
        if "train" not in self._splits:
            return None
        return math.ceil(len(self._splits["train"]) / global_batch)

    @cached_property
    def tokenizer_sha256(self) -> str:
        """The hash of the rules by which a text becomes ids."""
        return fingerprint((), self.tokenizer, 0)

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer.

        Raises:
            UserError: if the network has fewer positions than `max_length`, or that leaves no room
                for a text.
        """
        check_length(self.backbone, self.max_length, "data.max_length")
        tokenizer = load_tokenizer(self.backbone)
        special = tokenizer.num_special_tokens_to_add(pair=len(self.about.texts) == 2)
        if self.max_length <= special:
            raise UserError(
                f"data.max_length must be above the {special} tokens around texts, got "
                f"{self.max_length}"
            )
        return tokenizer

    def setup(self, stage: str) -> None:
        """Read all that the stage needs, and tokenize it."""
        wanted = [
            name
            for name in ("train",) * (stage == "fit") + self.about.dev
            if name not in self._splits
        ]
        examples = {name: self.examples(name) for name in wanted}  # before the cache is written
        for name, split in examples.items():
            labels = torch.tensor(
                split.labels, dtype=torch.int64 if self.about.labels else torch.float32
            )
            columns = tokenize(split.texts, self.tokenizer, self.max_length)
            lengths = columns.pop("lengths")
            self._splits[name] = Tokenized(
                columns, lengths, labels, padding(load_config(self.backbone))
            )
        self._read |= {name: split.contents() for name, split in examples.items()}
        if self.rank_and_world()[0] == 0:
            for line in self.oddities(examples):
                say(f"zoo: {line}")

    def oddities(self, examples: Mapping[str, Examples]) -> list[str]:
        """Return what the user should know of splits that were read together, a line each."""
        lines, trained = [], set(examples["train"].texts) if "train" in examples else set()
        for name, split in examples.items():
            where, read = f"{self.about.folder} {name}", self._read[name]
            if read.skipped:
                lines.append(f"{where}: {read.skipped:,} lines are broken and left out")
            if read.empty:
                lines.append(f"{where}: {read.empty:,} examples have an empty text")
            if name != "train" and trained.issuperset(split.texts):
                lines.append(
                    f"{where}: every example is in train too, so its score says nothing of new ones"
                )
        return lines

    def examples(self, name: str) -> Examples:
        """Load a split as texts, or as many of them as are wanted for training."""
        examples = load_examples(self.task, self.about, name, self.data_dir)
        if name != "train" or self.train_examples is None:
            return examples
        if self.train_examples > len(examples):
            raise UserError(
                f"data.train_examples must be at most {len(examples):,}, which are all of "
                f"{self.task}, got {self.train_examples:,}"
            )
        drawn = torch.randperm(len(examples), generator=generator(0, "subset"))
        return examples.subset(drawn[: self.train_examples].tolist())

    def train_dataloader(self) -> StepLoader:
        """Load training batches of similar length."""
        trainer = self.trainer
        assert trainer is not None
        rank, world = self.rank_and_world()
        return self.continued(
            BucketLoader(self._splits["train"], self.batch_size, self.seed, rank, world)
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Load each validation file's examples once, longest last; ranks take turns."""
        rank, world = self.rank_and_world()
        loaders: list[DataLoader] = []
        for name in self.about.dev:
            data = self._shared(name, world)
            batches = data.lengths.argsort(stable=True)[rank::world].split(self.eval_batch_size)
            loaders.append(DataLoader([data.batch(b.tolist()) for b in batches], batch_size=None))  # type: ignore[arg-type]
        return loaders

    def test_dataloader(self) -> list[DataLoader]:
        """Load the validation examples: GLUE keeps the labels of its test set to itself."""
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader]:
        """Load each validation file's examples once, in the file's order; ranks take turns."""
        rank, world = self.rank_and_world()
        splits = [
            InOrder(name, self._shared(name, world), self.eval_batch_size, rank, world)
            for name in self.about.dev
        ]
        return [DataLoader(split, batch_size=None) for split in splits]

    def _shared(self, name: str, world: int) -> Tokenized:
        """Return a validation file's examples, of which each process must have one."""
        data = self._splits[name]
        if len(data) < world:
            raise UserError(
                f"{len(data)} validation examples are too few for {world} processes: use fewer"
            )
        return data
