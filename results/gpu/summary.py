"""The last table: what a person wants to know, in thirty lines."""

import csv
from collections.abc import Mapping
from pathlib import Path

from results.gpu import PARTS

LINES = 30


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
        lines.append(f"{name:12} {len(rows)} rows")
    lines += [f"{name} failed: {why}"[:80] for name, why in failed.items()]
    return "\n".join(lines[:LINES])
