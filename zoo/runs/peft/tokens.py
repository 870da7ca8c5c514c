"""Rows of an embedding that peft has trained alone, with `trainable_token_indices`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.runs.peft.adapter import Change, by_layer
from zoo.runs.peft.settings import damaged

PARTS = r"(.+)\.token_adapter\.(trainable_tokens_delta|base_layer\.weight)"


def read(
    where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Change], dict[str, Tensor]]:
    """Return what makes a table of the backbone's, by its name, and all other tensors.

    Raises:
        UserError: if the rows are not those that the config names.
    """
    tables, others = by_layer(tensors, PARTS)
    changes = {}
    for name, parts in tables.items():
        change, base = _rows(where, config, name, parts), parts.get("base_layer.weight")
        if base is None:
            changes[f"{name}.weight"] = change
        else:  # the vocabulary is another than the backbone's
            others[f"{name}.weight"] = change(base)
    return changes, others


def _rows(where: str, config: Mapping[str, Any], name: str, parts: Mapping[str, Tensor]) -> Change:
    indices, given = config.get("trainable_token_indices"), parts.get("trainable_tokens_delta")
    if isinstance(indices, Mapping):  # by the end of a module's name
        ends = {f".{key}": each for key, each in indices.items()}
        indices = next((each for end, each in ends.items() if f".{name}".endswith(end)), None)
    if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
        raise damaged("trainable_token_indices", indices)
    if given is None or given.ndim != 2 or len(given) != len(indices):
        raise UserError(f"{where}: {name} has no rows for {len(indices)} tokens: use another one")

    def change(table: Tensor) -> Tensor:
        if (
            table.ndim != 2
            or table.shape[1] != given.shape[1]
            or max(indices, default=0) >= len(table)
        ):
            raise UserError(
                f"{where} trains rows of {name} that the backbone has not: give the backbone that "
                "it was trained on as --backbone"
            )
        return table.index_copy(0, torch.tensor(indices), given.to(table))

    return change
