"""Scalars out of TensorBoard's event files, quickly: most of the other records are never parsed."""

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

Curve = list[tuple[int, float]]
"""Values by step, ascending."""


def read(folder: Path, starts: Sequence[str]) -> dict[str, Curve]:
    """The finite scalars of a run whose tags begin with one of `starts`, by tag.

    A run that was resumed has several files: of two values for one step, the later file's counts, as the steps
    after the checkpoint were trained again. A record that was cut short ends its file.
    """
    found: dict[str, dict[int, float]] = {}
    needles = [start.encode() for start in starts]
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.name.split(".")[3:4]):
        for record in _records(path.read_bytes()):
            if not any(needle in record for needle in needles):
                continue
            event: Any = Event.FromString(record)
            for value in event.summary.value:
                known = value.tag.startswith(tuple(starts)) and value.HasField("simple_value")
                if known and math.isfinite(value.simple_value):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return {tag: sorted(values.items()) for tag, values in found.items()}


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        end = place + 12 + length
        if end + 4 > len(content):
            return
        yield content[place + 12 : end]
        place = end + 4


def mean_over_layers(curves: dict[str, Curve], start: str) -> Curve:
    """The mean over layers at each step, of tags `<start><layer>`; medians, ranges and kinds of layers are left out."""
    layers = [dict(curve) for tag, curve in curves.items()
              if tag.startswith(start) and not tag.removeprefix(start).startswith(("all.", "kind.", "update."))]
    steps = sorted(set.intersection(*(set(layer) for layer in layers))) if layers else []
    return [(step, sum(layer[step] for layer in layers) / len(layers)) for step in steps]
