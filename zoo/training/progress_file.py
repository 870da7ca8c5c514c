"""`progress.json`: how far a fit is, in its run's folder for whoever waits for it.

The file is there while the fit trains; it is never the cause of a failure.
"""

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType

from zoo.errors import UserError
from zoo.files.access import read_json, remove_left, replacing

NAME = "progress.json"


@dataclass(frozen=True)
class RunProgress:
    """How far a fit is.

    Args:
        step: steps that are taken.
        steps: of the whole fit; None where something else than a number of steps ends it.
        loss: of the last step; None where it is not finite or not known, as for all that follow.
        val_loss: of the last validation.
        best_val_loss: the least since the fit was last started.
        steps_per_second: since then.
        seconds_left: until the last step, at that speed.
    """

    step: int
    steps: int | None
    loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    steps_per_second: float | None
    seconds_left: float | None


def write(folder: Path, progress: RunProgress) -> None:
    """Write the file, whole or not at all; a fit goes on whatever keeps it from being written."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(progress).items()
    }
    with suppress(OSError), replacing(folder / NAME, on_disk=False) as part:
        part.write_text(json.dumps(values) + "\n", encoding="ascii")


def read(folder: Path) -> RunProgress | None:
    """Read how far a fit is by now, counted on from when the file was written.

    Args:
        folder: of the run.

    Returns:
        None if the file is not there or anything is strange about it: it may be somebody else's.
    """
    path = folder / NAME
    try:
        raw = read_json(path)
        age = max(0.0, time.time() - path.stat().st_mtime)
        found = RunProgress(**raw)
        numbers = [value for value in raw.values() if value is not None]
        if not all(type(value) in (int, float) and math.isfinite(value) for value in numbers):
            return None
        if (
            type(found.step) is not int
            or found.step < 0
            or type(found.steps) not in (int, NoneType)
        ):
            return None
    except (UserError, OSError, TypeError, OverflowError):
        return None
    taken = found.step + int(age * (found.steps_per_second or 0))
    left = found.seconds_left
    return replace(
        found,
        step=taken if found.steps is None else min(found.steps, taken),
        seconds_left=None if left is None else max(0.0, left - age),
    )


def remove(folder: Path) -> None:
    """Remove the file, and what a killed fit left of one."""
    with suppress(OSError):
        remove_left((folder / NAME).absolute())
        (folder / NAME).unlink(missing_ok=True)
