"""Scalars out of TensorBoard's event files, quickly: most of the other records are never parsed."""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]

from zoo.errors import UserError
from zoo.files.access import opened

Curve = list[tuple[int, float]]
"""Pairs of step and value, by step."""
LAST = 2**53
"""The largest number that is taken for a step."""


def read(folder: Path, starts: Sequence[str]) -> dict[str, Curve]:
    """Return the finite scalars of a run whose tags begin with one of `starts`, by tag.

    A run that was resumed has several files: of two values for one step, the later file's counts,
    as the steps after the checkpoint were trained again. A record that was cut short or damaged
    ends its file, one that holds something else is passed over, and so is a file that cannot be
    read.
    """
    found: dict[str, dict[int, float]] = {}
    needles = [start.encode() for start in starts]
    for path in sorted(
        folder.glob("events.out.tfevents.*"), key=lambda path: path.name.split(".")[3:4]
    ):
        try:
            with opened(path) as file:
                for record in _records(file):
                    if any(needle in record for needle in needles):
                        _add(found, record, tuple(starts))
        except (UserError, OSError):
            continue
    return {tag: sorted(values.items()) for tag, values in found.items()}


def _add(found: dict[str, dict[int, float]], record: bytes, starts: tuple[str, ...]) -> None:
    """Add what a record has of some tags."""
    try:
        event: Any = Event.FromString(record)
    except DecodeError:
        return
    for value in event.summary.value:
        known = value.tag.startswith(starts) and value.HasField("simple_value")
        if known and math.isfinite(value.simple_value) and 0 <= event.step <= LAST:
            found.setdefault(value.tag, {})[event.step] = value.simple_value


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    Each is its length (8 bytes), that one's checksum (4), the record and its checksum (4).
    """
    left = os.fstat(file.fileno()).st_size
    while len(header := file.read(12)) == 12:
        length, checksum = struct.unpack("<QI", header)
        left -= 16 + length
        if left < 0 or masked_crc32c(header[:8]) != checksum:
            return
        yield file.read(length)
        file.read(4)


def mean_over_layers(curves: dict[str, Curve], start: str) -> Curve:
    """Return the mean over layers at each step that all have, of tags `<start><layer>`.

    Medians, ranges and kinds of layers, which have tags of that form too, are left out.
    """
    layers = [
        dict(curve)
        for tag, curve in curves.items()
        if tag.startswith(start)
        and not tag.removeprefix(start).startswith(("all.", "kind.", "update."))
    ]
    steps = sorted(set.intersection(*(set(layer) for layer in layers))) if layers else []
    return [(step, sum(layer[step] for layer in layers) / len(layers)) for step in steps]
