"""The last table: what a person wants to know, in thirty lines."""

import importlib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from results.gpu import PARTS
from results.gpu.frame.rows import SOURCE, read

LINES, WIDTH, NAME = 30, 80, 11
DAMAGED = (ValueError, KeyError, IndexError, TypeError, ArithmeticError)
"""What rows raise that somebody has changed."""


def summary(out: Path, failed: Mapping[str, str], source: Mapping[str, str]) -> str:
    """Summarize the tables of a folder in at most thirty lines of 80 columns.

    Where there are more, those parts say less that say most; that one failed is always said.

    Args:
        out: the folder.
        failed: why a part failed, by its name.
        source: the columns that all rows have.
    """
    said = {name: _said(name, out, source) or ["no rows"] for name in PARTS}
    head = [f"{source['device']}, commit {source['commit']}"]
    foot = [f"{name} failed: {why}" for name, why in failed.items()]
    while sum(map(len, said.values())) > LINES - len(head) - len(foot):
        max(said.values(), key=len).pop()
    lines = [
        f"{first:{NAME}}{line}"
        for name, each in said.items()
        for first, line in zip_longest([name], each, fillvalue="")
    ]
    return "\n".join(line[:WIDTH].rstrip() for line in [*head, *lines, *foot])


def _said(name: str, out: Path, source: Mapping[str, str]) -> list[str]:
    part = PARTS[name]
    try:
        rows = read(out / f"{name}.csv", [*part.case, *part.measured, *SOURCE])
        return importlib.import_module(f"results.gpu.{name}").lines(rows)
    except DAMAGED as error:
        return [f"its rows cannot be read: {error}"]
