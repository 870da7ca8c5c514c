"""Paths: in short, from the root on, and which arguments are or lead to one."""

import os
import re
from pathlib import Path
from typing import Any

from zoo.files.plain import strings_in

ADAPTER = "adapter.safetensors"
"""A run in one file, as `zoo export --to safetensors` writes it."""
SUFFIXES = (".ckpt", ".safetensors", ".bin", ".pt")
SILENT = re.compile(
    r"checkpoints|snapshots|version_0|last|model|(adapter|pytorch)_model|[0-9a-f]{40}"
).fullmatch
"""Names of files and folders that say nothing,"""
WEAK = re.compile(
    r"best|adapter|version_\d+|checkpoint-\d+|export-(dense|peft|safetensors)"
).fullmatch
"""and those that say something of what they are in."""
PATHLIKE = re.compile(r"(^|_)(dir|dirpath|path|file|filename|folder|root)(_|$)|dir$|path$")
"""Names of arguments that take a path."""


def nickname(path: str, parts: int = 1) -> str:
    """Join the last parts of a path that say something: `rte` of `rte/version_0/last.ckpt`.

    Args:
        path: a run, a checkpoint or a network; or a network's name on a hub.
        parts: how many are joined, besides those that need the one before, such as `version_1`.
    """
    whole = Path(path).absolute()
    whole = whole.parent if whole.name == ADAPTER else whole
    names = [
        part.split("--")[-1] if part.startswith("models--") else part
        for part in whole.parent.parts[1:]
    ]
    names = [
        name
        for name in [*names, whole.stem if whole.suffix in SUFFIXES else whole.name]
        if not SILENT(name)
    ]
    names = names or [whole.name]
    first = len(names) - parts
    while first > 0 and WEAK(names[first]):
        first -= 1
    return "-".join(names[max(first, 0) :])


def anchored(value: Any) -> Any:
    """Return a path from the root on, so that it means the same in every folder.

    Args:
        value: whatever stands where a path may; what is no file or folder stays as it is.
    """
    try:
        there = isinstance(value, str) and bool(value) and Path(value).exists()
    except (OSError, ValueError):  # a name that no file can have
        return value
    return os.path.abspath(value) if there else value


def path_outside(key: str, value: Any, inside: Path | None) -> str | None:
    """Find the first string in an argument that may be a path outside a folder."""
    for text in strings_in(value):
        if inside is not None and Path(os.path.realpath(text)).is_relative_to(
            os.path.realpath(inside)
        ):
            continue
        # Such a file lies in a folder that is named apart.
        bare = key in ("filename", "file_name") and os.path.basename(text) == text
        looks = (
            text.startswith(("/", "~", "\\"))
            or ".." in Path(text).parts
            or re.search(r"://|\$", text)
        )
        if looks or PATHLIKE.search(key) and not bare:
            return text
    return None
