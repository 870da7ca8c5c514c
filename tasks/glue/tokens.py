"""Texts as token ids: made once, kept in the user's cache, padded batch by batch."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.folders import cache
from zoo.errors import UserError
from zoo.training.checkpoint_files import read_file, write_file

Batch = dict[str, Tensor]


class Tokenized:
    """Examples as token ids, of any length each.

    Args:
        columns: what the network takes by name (`input_ids`, `token_type_ids`), int32 of shape
            (tokens of all,).
        lengths: tokens of each example; (examples,).
        labels: (examples,), int64, or float32 for a regression.
        padding: the id that fills up a batch.
    """

    def __init__(
        self, columns: dict[str, Tensor], lengths: Tensor, labels: Tensor, padding: int
    ) -> None:
        self.columns, self.lengths, self.labels, self.padding = columns, lengths, labels, padding
        self.starts = lengths.cumsum(0) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Pad these examples on the right to the longest.

        All are int64 of (examples, tokens), with labels and a mask.
        """
        chosen = torch.tensor(indices)
        starts, lengths = self.starts[chosen, None], self.lengths[chosen, None]
        offsets = torch.arange(int(lengths.max()))
        mask = offsets < lengths  # (examples, tokens)
        batch = {"attention_mask": mask.long(), "labels": self.labels[chosen]}
        for name, column in self.columns.items():
            padded = torch.full(mask.shape, self.padding if name == "input_ids" else 0)
            padded[mask] = column[(starts + offsets)[mask]].long()
            batch[name] = padded
        return batch


def tokenize(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, max_length: int
) -> dict[str, Tensor]:
    """Turn every text or pair of texts into token ids, one after the other.

    Each is cut to `max_length`.

    Kept in the user's cache, and read from there next time.

    Returns:
        What the network takes by name, int32 of shape (tokens of all,), and `lengths`, int64 of
        shape (examples,).
    """
    path = cache() / "tokenized" / f"{fingerprint(texts, tokenizer, max_length)}.pt"
    try:
        return read_file(path)
    except UserError:  # absent or broken: made anew
        sides = [list(side) for side in zip(*texts, strict=True)]
        encoded = tokenizer(
            *sides, truncation=True, max_length=max_length, return_attention_mask=False
        )
        columns = {
            name: torch.tensor([i for ids in rows for i in ids], dtype=torch.int32)
            for name, rows in encoded.items()
        }
        columns["lengths"] = torch.tensor([len(ids) for ids in encoded["input_ids"]])
        _keep(columns, path)
        return columns


def fingerprint(texts: Sequence[tuple[str, ...]], tokenizer: Any, max_length: int) -> str:
    """Hash everything that token ids depend on."""
    rules: object = [
        type(tokenizer).__name__,
        sorted(tokenizer.get_vocab().items()),
        tokenizer.init_kwargs,
    ]
    if tokenizer.is_fast:  # the file itself, without what a call sets in it
        saved = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {key: value for key, value in saved.items() if key not in ("truncation", "padding")}
    settings = [rules, max_length, tokenizer.model_input_names, tokenizer.truncation_side]
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    for example in texts:
        digest.update("\0".join((*example, "\0")).encode())
    return digest.hexdigest()[:32]


def _keep(stored: dict[str, Tensor], path: Path) -> None:
    """Write a cache file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, stored)
    except OSError:
        pass  # a cache that cannot be written is no reason not to train
