"""Rows of the tables beside this file, found by the names that README.md has for what they measure.

runs = best("`DCT` 1/2, Muon")                       # of char_lm_sweep.csv and blocks.csv
gap(differences("`DCT` 1/2", "`Dense`", steps=2000))   # "-0.033 [-0.048, -0.019]"
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.studies.statistics import interval, mean_sd

Row = dict[str, str]
FOLDER = Path(__file__).parent
SHARES = {"0.5": " 1/2", "0.1": " 1/10", "0.05": " 1/20"}


class Runs(NamedTuple):
    """Of one method at one rate, all but those of seed 0 where that one was for the search."""

    rate: str
    rows: dict[str, Row]
    """By seed."""

    def values(self, column: str = "loss") -> list[float]:
        """Return a column, by seed."""
        return [float(row[column]) for _, row in sorted(self.rows.items())]


def read(name: str) -> list[Row]:
    """Return the rows of <name>.csv."""
    with open(FOLDER / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def only(rows: Iterable[Row], **cells: str) -> Row:
    """Return the one row that has these cells; that there is one is asserted."""
    found = [row for row in rows if all(row[key] == value for key, value in cells.items())]
    assert len(found) == 1, f"{len(found)} rows have {cells}"
    return found[0]


# ---- Runs of the character model -----------------------------------------------------------------


def options(row: Row) -> dict[str, str]:
    """Return what a run's command sets, by option; what a parameterization has as JSON, too.

    Not by `shlex`: commands of transfer.csv have JSON with blanks, without quotes around it.
    """
    parts = [part.partition("=") for part in row["command"].split(" --")]
    given = {key: value.strip() for key, sign, value in parts if sign}
    name = "model.parameterization"
    if given.get(name, "").startswith("{"):
        init_args = json.loads(given[name]).get("init_args", {})
        given |= {f"{name}.{key}": str(value) for key, value in init_args.items()}
    return given


def method(row: Row) -> str:
    """Name what a run trained, as README.md does: "`DCT` 1/2, Muon"."""
    given = options(row)
    share = given.get("model.parameterization.ratio", "")
    name = f"`{row['parameterization']}`{SHARES.get(share, share)}"
    usual = "32" if share == "0.05" else "16"
    block = given.get("model.parameterization.block", usual)
    if row["parameterization"] == "BlockDCT" and block != usual:
        name += f", blocks of {block}"
    if given.get("model.parameterization.basis") == "random":
        name += ", random basis"
    if given.get("model.optimizer.name") == "muon":
        scale = given.get("model.optimizer.muon_scale", SCALES_OF_THEN.get(row["date"]))
        by_norm = scale == "frobenius" and row["parameterization"] != "Dense"
        name += ", Muon by Frobenius' norm" if by_norm else ", Muon"
    return name


SCALES_OF_THEN = {"2026-11-22": "frobenius"}
"""Of a subspace's Muon before `muon_scale` was an option; a dense step is the same by either."""


def map_at_a_tenth(row: Row) -> str:
    """Name what a run of maps.csv trained; commands of runs that went on do not say it."""
    return f"`{row['parameterization']}`"


def best(label: str, steps: int = 400, maps: bool = False) -> Runs:
    """Return a method's runs at the rate that was best on seed 0.

    Of runs that were repeated, the first count. Without any of seed 0 there is one rate.

    Args:
        label: of the method.
        steps: of a run.
        maps: of maps.csv, not of char_lm_sweep.csv and blocks.csv.
    """
    rows = read("maps") if maps else [*read("char_lm_sweep"), *read("blocks")]
    named = map_at_a_tenth if maps else method
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["steps"] == str(steps) and named(row) == label:
            found.setdefault(row["lr"], {}).setdefault(row["seed"], row)
    assert found, f"no row is of {label} after {steps} steps"
    searched = {rate: float(runs["0"]["loss"]) for rate, runs in found.items() if "0" in runs}
    assert searched or len(found) == 1, f"{label} has {len(found)} rates and no search"
    rate = min(searched, key=searched.__getitem__) if searched else next(iter(found))
    runs = {seed: row for seed, row in found[rate].items() if seed != "0"}
    assert runs, f"{label} was not run at {rate}, its best rate, but on seed 0"
    return Runs(rate, runs)


def differences(label: str, reference: str, steps: int = 400) -> list[float]:
    """Return by how much the losses of a method are above those of another, seed by seed."""
    ours, theirs = best(label, steps).rows, best(reference, steps).rows
    assert ours.keys() == theirs.keys(), f"{label} and {reference} have other seeds"
    return [float(ours[seed]["loss"]) - float(theirs[seed]["loss"]) for seed in sorted(ours)]


# ---- As text -------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Write mean +- standard deviation, the mean alone of one value."""
    found = mean_sd(values)
    mean = f"{found['mean']:.{digits}f}"
    return mean if found["sd"] is None else f"{mean} +- {found['sd']:.{digits}f}"


def gap(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean of differences with its 95 % interval (Student's)."""
    mean, bounds = mean_sd(values)["mean"], interval(values)
    return f"{mean:+.{digits}f}" + (f" {bracket(*bounds, digits)}" if bounds else "")


def bracket(low: float, high: float, digits: int = 3) -> str:
    """Write an interval."""
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"
