"""GLUE as padded batches: tokenized once, training batches by number, no example twice in validation."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tasks.glue.benchmark import glue_task
from tasks.glue.files import Examples, load_examples
from tasks.hub import load_config, load_tokenizer, longest_input
from zoo.bases import generator
from zoo.errors import UserError
from zoo.loader import StepLoader
from zoo.module import ZooData

Batch = dict[str, Tensor]
BUCKET = 32
"""Training batches whose examples are sorted by length together: less padding, and still random enough."""


class Tokenized:
    """Examples as token ids, of any length each.

    Args:
        columns: what the network takes by name (`input_ids`, `token_type_ids`), int32 of shape (tokens of all,).
        ends: where each example ends; (examples,).
        labels: (examples,), int64, or float32 for a regression.
        pad_token_id: what fills up a batch.
    """

    def __init__(self, columns: dict[str, Tensor], ends: Tensor, labels: Tensor, pad_token_id: int) -> None:
        self.columns, self.ends, self.labels, self.pad = columns, ends, labels, pad_token_id
        self.starts = torch.cat([ends.new_zeros(1), ends[:-1]])

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each example; (examples,)."""
        return self.ends - self.starts

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples, padded on the right to the longest: int64 of (examples, tokens), labels and mask too."""
        lengths = self.lengths[list(indices)]
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        batch = {"attention_mask": mask.long(), "labels": self.labels[list(indices)]}
        for name, column in self.columns.items():
            padded = torch.full(mask.shape, self.pad if name == "input_ids" else 0)
            padded[mask] = torch.cat([column[self.starts[i] : self.ends[i]] for i in indices]).long()
            batch[name] = padded
        return batch


def tokenize(examples: Examples, tokenizer: Any, max_length: int, regression: bool) -> Tokenized:
    """Token ids of every example, cut to `max_length`; kept in the user's cache and read from there next time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "tokenized"
    path = cache / f"{_fingerprint(examples, tokenizer, max_length)}.pt"
    try:
        stored = torch.load(path, weights_only=True)
    except Exception:  # absent, or a broken leftover: made anew
        sides = [list(side) for side in zip(*examples.texts, strict=True)]
        encoded = tokenizer(*sides, truncation=True, max_length=max_length, return_attention_mask=False)
        lengths = torch.tensor([len(ids) for ids in encoded["input_ids"]])
        stored = {name: torch.tensor([i for ids in rows for i in ids], dtype=torch.int32)
                  for name, rows in encoded.items()} | {"ends": lengths.cumsum(0)}
        _keep(stored, path)
    labels = torch.tensor(examples.labels, dtype=torch.float32 if regression else torch.int64)
    return Tokenized(stored, stored.pop("ends"), labels, tokenizer.pad_token_id)


def _fingerprint(examples: Examples, tokenizer: Any, max_length: int) -> str:
    """Of everything that token ids depend on."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    digest = hashlib.sha256(json.dumps([rules, max_length, tokenizer.model_input_names]).encode())
    for texts in examples.texts:
        digest.update("\0".join((*texts, "\0")).encode())
    return digest.hexdigest()[:32]


def _keep(stored: dict[str, Tensor], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        torch.save(stored, partial)
        partial.replace(path)
    except OSError:
        pass  # a cache that cannot be written is no reason not to train


class BucketLoader(StepLoader):
    """Every example once an epoch, in random batches of similar length; the few left over wait for another epoch.

    An epoch is shuffled, cut into buckets of `BUCKET` batches, sorted by length within each and dealt out in batches
    in random order: a function of the seed and the epoch. Of a global batch of `batch_size * world` examples, rank r
    takes every world-th from the r-th.
    """

    def __init__(self, data: Tokenized, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.data, self.seed, self.rank, self.world = data, seed, rank, world
        self.whole = min(batch_size * world, len(data) // world * world)  # a small set is one batch
        super().__init__(len(data) // self.whole)
        self.epoch: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Batch:
        """Batch number `step`."""
        epoch, place = divmod(step, self.steps)
        if self.epoch is None or self.epoch[0] != epoch:
            self.epoch = epoch, self.order(epoch)
        return self.data.batch(self.epoch[1][place][self.rank :: self.world].tolist())

    def order(self, epoch: int) -> Tensor:
        """The examples of each global batch of an epoch; (steps, batch_size * world)."""
        draw = generator(self.seed, "epoch", epoch)
        shuffled = torch.randperm(len(self.data), generator=draw)[: self.steps * self.whole]
        lengths = self.data.lengths
        buckets = [bucket[lengths[bucket].argsort(stable=True)] for bucket in shuffled.split(self.whole * BUCKET)]
        batches = torch.cat(buckets).view(self.steps, self.whole)
        return batches[torch.randperm(self.steps, generator=draw)]


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
        self.task, self.backbone, self.data_dir = task, backbone, data_dir
        self.batch_size, self.eval_batch_size, self.max_length = batch_size, eval_batch_size, max_length
        self.train_examples, self.seed = train_examples, seed
        self._splits: dict[str, Tokenized] = {}
        self._facts: dict[str, object] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        """The task."""
        return self.task

    def headline(self) -> str:
        """The task, and how many examples there are."""
        examples = [f"{count:,} {split}" for split, count in self._facts.items() if split.startswith(("train", "dev"))]
        return f"{self.about.folder}, {', '.join(examples)} examples" if examples else self.about.folder

    def facts(self) -> dict[str, object]:
        """The task, its sizes, and how texts are cut."""
        return {"glue_task": self.task, "batch_size": self.batch_size, "max_length": self.max_length, **self._facts}

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's.

        Raises:
            UserError: if the network has fewer positions than `max_length`.
        """
        longest = longest_input(load_config(self.backbone))
        if longest is not None and self.max_length > longest:
            raise UserError(f"data.max_length must be at most {longest} for {self.backbone!r}, got {self.max_length}")
        return load_tokenizer(self.backbone)

    def split(self, name: str) -> Tokenized:
        """A split as token ids, made when first asked for."""
        if name not in self._splits:
            examples = load_examples(self.task, self.about, name, self.data_dir)
            if name == "train" and self.train_examples is not None and self.train_examples < len(examples):
                chosen = torch.randperm(len(examples), generator=generator(0, "subset"))[: self.train_examples].tolist()
                examples = Examples([examples.texts[i] for i in chosen], [examples.labels[i] for i in chosen])
            self._facts[name] = len(examples)
            if examples.skipped:
                self._facts[f"skipped_{name}"] = examples.skipped
            self._splits[name] = tokenize(examples, self.tokenizer, self.max_length, not self.about.labels)
        return self._splits[name]

    def setup(self, stage: str) -> None:
        """Read and tokenize, before anything is written."""
        for name in (("train",) if stage == "fit" else ()) + self.about.dev:
            self.split(name)

    def train_dataloader(self) -> StepLoader:
        """Batches of similar length."""
        trainer = self.trainer
        assert trainer is not None
        rank, world = trainer.global_rank, trainer.world_size
        return self.continued(BucketLoader(self.split("train"), self.batch_size, self.seed, rank, world))

    def val_dataloader(self) -> list[DataLoader]:
        """Each validation file's examples once, longest last; ranks take turns."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        loaders = []
        for name in self.about.dev:
            data = self.split(name)
            batches = data.lengths.argsort(stable=True).split(self.eval_batch_size)[rank::world]
            loaders.append(DataLoader([data.batch(b.tolist()) for b in batches], batch_size=None))  # type: ignore[arg-type]
        return loaders

    def test_dataloader(self) -> list[DataLoader]:
        """The validation examples: GLUE keeps the labels of its test set to itself."""
        return self.val_dataloader()

    def predict_dataloader(self) -> list[DataLoader]:
        """The validation examples."""
        return self.val_dataloader()
