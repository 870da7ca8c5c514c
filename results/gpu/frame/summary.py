"""The last table: what a person wants to know, in thirty lines."""

import csv
import importlib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from results.gpu import PARTS

LINES, WIDTH, NAME = 30, 80, 11


def summary(out: Path, failed: Mapping[str, str]) -> str:
    """Thirty lines at most, of 80 columns, on what the tables of a folder hold.

    Args:
        out: the folder.
        failed: why a part failed, by its name.
    """
    lines = []
    for name in PARTS:
        path = out / f"{name}.csv"
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
        said = importlib.import_module(f"results.gpu.{name}").lines(rows)
        lines += [f"{part:{NAME}}{line}" for part, line in zip_longest([name], said or ["no rows"], fillvalue="")]
    lines += [f"{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(line[:WIDTH].rstrip() for line in lines[:LINES])
