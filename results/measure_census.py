"""Print what a census found as CSV rows: a row for each adapter, for planted structure, for tails.

zoo census adapters.csv --out census
python -m results.measure_census adapters census > results/census.csv
python -m results.measure_census power census > results/census_power.csv
python -m results.measure_census tails census > results/census_tails.csv
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from results.measure import Row, print_rows, reported_source
from zoo.studies.verdicts import PRIMARY

LEFT_OUT = ("why", "seconds")
"""Columns of adapters.csv that are of this machine, or long."""


def main(argv: Sequence[str]) -> None:
    """Print the rows of one table."""
    tables = {"adapters": adapter_rows, "power": power_rows, "tails": tail_rows}
    name, folder = argv
    print_rows(tables[name](Path(folder)), f"python -m results.measure_census {name}")


def adapter_rows(folder: Path) -> Iterable[Row]:
    """Read a row for each adapter that was asked for; its own commit is `adapter_commit`."""
    origin = reported_source(json.loads((folder / "census.json").read_text()))
    with (folder / "adapters.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kept = {key: value for key, value in row.items() if key not in LEFT_OUT}
            own = {("adapter_commit" if k == "commit" else k): v for k, v in kept.items()}
            yield {**own, **origin}


def power_rows(folder: Path) -> Iterable[Row]:
    """Read a row for each kind and strength of planted structure under each transform."""
    census = json.loads((folder / "census.json").read_text())
    for row in census["summary"]["power"]:
        shares = {key: f"{row[key]:.4f}" for key in ("share", "low", "high")}
        yield {**row, **shares, **reported_source(census)}


def tail_rows(folder: Path) -> Iterable[Row]:
    """Read a row for each matrix whose null was drawn many times, and each measure."""
    census = json.loads((folder / "census.json").read_text())
    for tail in census["tails"]:
        rows, columns = tail["shape"]
        about = {key: tail[key] for key in ("adapter", "layer", "rank", "draws")}
        for measure in PRIMARY:
            yield {
                **about,
                "rows": rows,
                "columns": columns,
                "measure": measure,
                **tail[measure],
                **reported_source(census),
            }


if __name__ == "__main__":
    main(sys.argv[1:])
