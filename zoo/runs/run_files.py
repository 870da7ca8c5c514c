"""The summary.json and config.yaml of a run, read and checked: both may come from anyone."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files.access import read_json, read_yaml
from zoo.files.flat import Flat, flatten
from zoo.pages.texts import clean
from zoo.training.identity import PARTS, is_identity

SUMMARY, CONFIG = "summary.json", "config.yaml"
LONG, LONGER = 1_000, 100_000
"""How many characters a name may have, and a command or the like."""
MANY = 5_000
"""How many settings a run may have."""
CLASSES = ("parameterization", "optimizer")
"""Settings of a method that are names."""
COSTS = (
    "rows",
    "forward_flops",
    "training_flops",
    "total_training_flops",
    "checkpoint_bytes",
    "decode_bytes",
)
"""What a run costs (`zoo.layers.costs`): FLOPs of a token, but for the total, with so many rows."""
LARGEST, FLOAT = 2**53, 3.4028235e38
"""The largest whole number, which is exact as a float, and the largest number in float32."""

Kind = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Say whether a value is a number that training can give, NaN and infinity among them."""
    if type(value) not in (int, float):
        return False
    return abs(value) <= FLOAT or not (isinstance(value, int) or math.isfinite(value))


def is_count(value: Any) -> bool:
    """Say whether a value is a whole number from 0 on."""
    return type(value) is int and 0 <= value <= LARGEST


def is_size(value: Any) -> bool:
    """Say whether a value is a whole number from 1 on."""
    return is_count(value) and value > 0


def _is_seed(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**64


def _is_rate(value: Any) -> bool:
    return is_number(value) and 0 <= value <= FLOAT


def _is_cost(value: Any) -> bool:
    """Say whether a value is a mapping that has each cost as a number, or lacks it."""
    return isinstance(value, dict) and all(
        value.get(key) is None or _is_rate(value[key]) for key in COSTS
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONG


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGER


def _is_plain(value: Any) -> bool:
    """Say whether a value is one that a setting can have."""
    is_whole = type(value) is int and abs(value) < 2**64
    return (
        value is None
        or isinstance(value, bool)
        or is_whole
        or isinstance(value, float)
        or _is_text(value)
    )


def _each(kind: Kind, container: type[list[Any]] | type[dict[str, Any]]) -> Kind:
    """Return what says whether a value is a list or mapping with items of a kind."""

    def check(value: Any) -> bool:
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, container) and all(kind(item) for item in items)

    return check


def _is_whole(identity: dict[str, Any]) -> bool:
    """Say whether an identity is plain data, with the names that each has."""
    names = (
        identity["conditions"].get("model"),
        *(identity["method"].get(f"model.{key}") for key in CLASSES),
    )
    plain = all(_is_nested(identity[part]) for part in PARTS)
    return (
        plain and all(map(_is_name, names)) and sum(len(identity[part]) for part in PARTS) <= MANY
    )


NEEDED: dict[str, Kind] = {
    "parameterization": _is_name,
    "coefficients": is_size,
    "replaced": is_size,
    "trainable": is_size,
    "total": is_size,
    "steps": is_count,
    "seed": _is_seed,
    "lr": _is_rate,
    "task": _is_name,
    "targets": _each(_is_name, list),
}
"""What a summary must hold."""
OPTIONAL: dict[str, Kind] = {
    **dict.fromkeys(("loss", "score", "best", "stable_rank", "seconds", "weight_decay"), is_number),
    **dict.fromkeys(
        ("corpus", "corpus_sha256", "glue_task", "device", "date", "precision", "monitor"), _is_name
    ),
    "mode": _is_name,
    "data_name": _is_name,
    "network": _is_name,
    "global_batch": is_size,
    "epoch_steps": is_size,
    "identity": lambda value: is_identity(value) and _is_whole(value),
    "cost": _is_cost,
    "data": _is_text,
    "command": _is_text,
    "devices": is_size,
    "updates": lambda value: isinstance(value, bool),
    "metrics": _each(lambda value: value is None or is_number(value), dict),
    "examples": _each(is_count, dict),
    "optimizer": lambda value: _each(_is_plain, dict)(value) and _is_name(value.get("name")),
    **dict.fromkeys(
        ("max_length", "block_size", "batch_size", "vocabulary", "best_step"), _is_plain
    ),
}
"""What it may lack, or have as null."""


def read_summary(folder: Path) -> dict[str, Any]:
    """Return what a run's summary.json holds, with all strings printable.

    Raises:
        UserError: saying what is wrong with it.
    """
    if not os.path.lexists(folder / SUMMARY):
        raise UserError("not finished: it has no summary.json")
    try:
        summary = clean(read_json(folder / SUMMARY))
    except UserError:
        raise UserError("its summary.json is damaged") from None
    if wrong := [
        key for key, kind in NEEDED.items() if key not in summary or not kind(summary[key])
    ]:
        raise UserError(f"its summary.json is not one of zoo fit: no {', '.join(wrong)}")
    if wrong := [
        key
        for key, kind in OPTIONAL.items()
        if summary.get(key) is not None and not kind(summary[key])
    ]:
        raise UserError(f"its summary.json is damaged: {', '.join(wrong)}")
    if summary.get("loss") is None and summary.get("score") is None:
        raise UserError("it was never validated: its summary.json has no loss")
    return summary


def fitting(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a summary is of its kind and not null."""
    kinds = NEEDED | OPTIONAL
    return {
        key: value
        for key, value in summary.items()
        if value is not None and (key not in kinds or kinds[key](value))
    }


def read_settings(folder: Path) -> Flat:
    """Return the settings of a run's model, data and trainer from its config.yaml, by dotted name.

    Raises:
        UserError: saying what is wrong with it.
    """
    if not os.path.lexists(folder / CONFIG):
        raise UserError("it has no config.yaml: its settings are not known")
    try:
        config = clean(read_yaml(folder / CONFIG))
        parts = {key: config[key] for key in ("model", "data", "trainer")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise ValueError
        flat: Flat = {}
        for key, part in parts.items():
            flat |= flatten(part, key)
        flat["model"] = parts["model"]["class_path"]
    except (KeyError, ValueError):  # a UserError among them
        raise UserError("its config.yaml is damaged") from None
    if wrong := next((key for key in flat if not _fits(key, flat[key])), None):
        raise UserError(f"its config.yaml is damaged: {wrong[:LONG]}")
    if len(flat) > MANY or "model.parameterization" not in flat:
        raise UserError("its config.yaml is damaged")
    return flat


def _fits(key: str, value: Any) -> bool:
    if key in ("model", "model.parameterization"):
        return _is_name(value)
    if key == "model.optimizer.name":
        return value is None or _is_name(value)
    if key == "trainer.accumulate_grad_batches":
        return value is None or is_size(value)
    return _is_nested(value)


def _is_nested(value: Any) -> bool:
    """Say whether a value is plain: lists and mappings in one another, with strings as keys."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_nested(item) for key, item in value.items())
    return all(map(_is_nested, value)) if isinstance(value, list) else _is_plain(value)
