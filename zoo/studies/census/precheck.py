"""What is to be said of an adapter's file before anything in it is read.

A census asks for thousands of strangers' files: most that cannot be read are told by their first
bytes, and need no process of their own.
"""

import json
from pathlib import Path
from typing import NamedTuple

from zoo.errors import UserError
from zoo.files.access import opened
from zoo.files.paths import ADAPTER
from zoo.files.plain import parse_json
from zoo.runs.peft.adapter import BINARY, TENSORS

POINTER = b"version https://git-lfs"
"""What Git LFS leaves of a file that was not downloaded."""
MOST_TENSORS = 6_000
"""Of a format with one tensor a matrix, as many results are still JSON within bounds."""
LARGEST_HEADER = 16 * 2**20
"""Bytes of a safetensors header; that of 6,000 tensors has 1 MB."""
LARGEST = 4 * 2**30
"""Bytes of a file, all of which is read."""


class Left(NamedTuple):
    """Why an adapter is left out: a word to count by, and a sentence."""

    status: str
    why: str


def left_out(what: str, largest: int = LARGEST) -> Left | None:
    """Return why nothing at a path can be analysed, as far as its first bytes say.

    Args:
        what: a folder or a file that is there.
        largest: bytes that a file may have.
    """
    path = Path(what)
    names = [path / name for name in (TENSORS, ADAPTER, BINARY)] if path.is_dir() else [path]
    files = [file for file in names if file.is_file()]
    if not path.is_dir() and not files:
        return Left("unreadable", f"'{path}' is no regular file")
    if not files:
        return None if any(path.glob("*")) else Left("no adapter", f"'{path}' is empty")
    try:
        return _file(files[0], largest)
    except UserError as error:
        return Left("unreadable", str(error))


def _file(path: Path, largest: int) -> Left | None:
    size = path.stat().st_size
    with opened(path) as file:
        start = file.read(len(POINTER))
        if start.startswith(POINTER):
            return Left("pointer", f"'{path}' is a pointer of Git LFS, and not the file itself")
        if size > largest:
            return Left("too large", f"'{path}' has {size:,} bytes, more than {largest:,}")
        if path.suffix != ".safetensors":
            return None
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > size - 8:
            return Left("unreadable", f"'{path}' is truncated or no safetensors file")
        if length > LARGEST_HEADER:
            return Left("too large", f"'{path}' has a header of {length:,} bytes")
        file.seek(8)
        header = file.read(length)
    try:
        tensors = parse_json(header.decode("utf-8"))
        count = len(tensors) - ("__metadata__" in tensors)
    except (ValueError, TypeError, json.JSONDecodeError):
        return Left("unreadable", f"'{path}' has a header that is no JSON within bounds")
    if count > MOST_TENSORS:
        return Left("too large", f"'{path}' has {count:,} tensors, more than {MOST_TENSORS:,}")
    return None
