"""Settings as plain data: by dotted name in one mapping, where they can be compared one by one."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

Flat = dict[str, Any]
"""Settings by dotted name; the path of a class stands under the name of what is of that class."""


def flatten(value: Any, prefix: str = "") -> Flat:
    """Return nested settings by dotted name.

    Args:
        value: the settings; a node with a `class_path` is that path under its own name, and its
            `init_args` below.
        prefix: the name of the whole.
    """
    if not isinstance(value, Mapping):
        return {prefix: value}
    if "class_path" in value:
        return {prefix: value["class_path"], **flatten(value.get("init_args") or {}, prefix)}
    flat: Flat = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def is_set(value: Any) -> bool:
    """Say whether a setting says anything: None and what is empty do not."""
    return value is not None and value != [] and value != {}


def frozen(value: Any) -> Any:
    """Return a setting as something that can be hashed, in which 1 and 1.0 are one."""
    if isinstance(value, Mapping):
        return frozenset((key, frozen(item)) for key, item in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def as_json(value: Any) -> Any:
    """Return a value as JSON gives it back.

    Arrays are lists then, a path is text, and any other object what Python shows of it.
    """

    def plain(other: Any) -> Any:
        if callable(getattr(other, "tolist", None)):
            return other.tolist()
        return (
            str(other)
            if isinstance(other, os.PathLike)
            else re.sub(r" at 0x[0-9a-f]+", "", repr(other))
        )

    return json.loads(json.dumps(value, default=plain))
