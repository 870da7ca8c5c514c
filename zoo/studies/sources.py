"""The updates that a study looks at, each of its own name."""

import os
from collections.abc import Sequence
from typing import Any

from zoo.runs.names import label
from zoo.runs.run import repeated
from zoo.runs.updates import Source, read

SMALL = 8
"""Rows or columns below which a matrix says little."""


def read_all(runs: Sequence[str], **options: Any) -> list[Source]:
    """Read the updates of runs, each once, with names, groups and notes.

    Args:
        runs: their folders or files.
        options: of `zoo.runs.updates.read`.
    """
    sources = label([read(run, **options) for run in dict.fromkeys(map(os.path.normpath, runs))])
    for source in sources:
        source.notes.extend(note for name, note in repeated(sources).items() if name == source.name)
        if any(min(update.shape) < SMALL for update in source.updates.values()):
            source.notes.append(
                f"has matrices with fewer than {SMALL} rows or columns, too small to say much"
            )
    return sources
