"""The rows of `zoo bench`, in files that grow with each case: an interrupted run loses none."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import UserError
from zoo.files.access import check_writable, opened, read_json, write_text
from zoo.pages.texts import csv_text
from zoo.studies.bench.floor import Case
from zoo.studies.bench.layers import PASSES

Row = dict[str, Any]
LONGEST = 10_000
"""Bytes of a header."""


class Table(NamedTuple):
    """How rows are written as CSV."""

    columns: list[str]
    lines: Callable[[Row], list[dict[str, object]]]
    """The lines of a row, without those of `source`."""


class Results:
    """Keeps what is measured in a JSON file, whole at any time, and adds its rows to a CSV file.

    A JSON file that a run with the same settings left unfinished is gone on with.

    Args:
        path: of the JSON file, or None.
        csv_path: of the CSV file, or None.
        table: its columns.
        settings: by which a run that was interrupted is known.
        facts: gives what stands on top, as it is when written.
        force: replace a JSON file that is finished.

    Raises:
        UserError: for a file that is there and may not be replaced, or cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        csv_path: Path | None,
        table: Table,
        settings: Row,
        facts: Callable[[], Row],
        force: bool = False,
    ) -> None:
        self.path, self.csv_path, self.table, self.settings, self.facts = (
            path,
            csv_path,
            table,
            settings,
            facts,
        )
        self.data: Row = {"rows": [], "left_out": []}
        for file, option in ((path, "--json"), (csv_path, "--csv")):
            if file is not None:
                check_file(file, option)
        if path is not None and path.exists():
            self._go_on(path, force)
        if (
            csv_path is not None
            and csv_path.exists()
            and _header(csv_path) != [*table.columns, *SOURCE]
        ):
            raise UserError(f"'{csv_path}' has other columns than these rows: give another --csv")

    def _go_on(self, path: Path, force: bool) -> None:
        old = read_json(path)
        if "rows" not in old or "settings" not in old:
            raise UserError(f"'{path}' is there already, and not of zoo bench: give another --json")
        if force:
            return
        if old.get("finished") is not False or not isinstance(old["rows"], list):
            raise UserError(
                f"'{path}' is there already: give another --json, or replace it with --force"
            )
        if old["settings"] != json.loads(json.dumps(self.settings)):
            raise UserError(
                f"'{path}' is of an interrupted run with other settings: give another --json, or "
                "--force"
            )
        self.data["rows"] = old["rows"]

    @property
    def rows(self) -> list[Row]:
        """Return all rows."""
        return self.data["rows"]

    def of(self, case: Case) -> list[Row]:
        """Return the rows of a case, none if it is still to be measured."""
        key = [case.precision, list(case.shape), case.tokens]
        return [row for row in self.rows if [row["precision"], row["shape"], row["tokens"]] == key]

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows of one case, or goals."""
        self.rows.extend(rows)
        self.write()
        if self.csv_path is None:
            return
        new, facts = not self.csv_path.exists(), self.facts()
        lines = [{**line, **source(facts)} for row in rows for line in self.table.lines(row)]
        text = csv_text([*self.table.columns, *SOURCE], lines, header=new)
        end = "" if new else _end(self.csv_path)
        with self.csv_path.open("a", encoding="utf-8", newline="") as file:
            file.write(end + text)

    def write(self, finished: bool = False) -> None:
        """Write the JSON file, whole or not at all."""
        if self.path is None:
            return
        data = {**self.facts(), "finished": finished, "settings": self.settings, **self.data}
        write_text(Path(os.path.realpath(self.path)), json.dumps(data, indent=1) + "\n")


def _header(path: Path) -> list[str]:
    """Read the columns of a CSV file."""
    with opened(path) as file:
        return next(csv.reader([file.readline(LONGEST).decode("utf-8", "replace")]), [])


def _end(path: Path) -> str:
    """Return what ends the last line of a CSV file, which may be cut short within quotes."""
    with opened(path) as file:
        content = file.read()
    quote = '"' * (content.count(b'"') % 2)
    return quote + "\n" if quote or not content.endswith(b"\n") else ""


def check_file(path: Path, option: str) -> None:
    """Refuse a file that cannot be written.

    Raises:
        UserError: naming it.
    """
    if path.is_dir():
        raise UserError(f"{option} takes a file, and '{path}' is a folder")
    if not path.parent.is_dir():
        raise UserError(f"{option}: there is no folder '{path.parent}'")
    check_writable(path.parent, option)


# ---- As CSV --------------------------------------------------------------------------------------

FLOPS = ("forward", "training")
"""Of a token, by the names of a row."""
SOURCE = ("command", "commit", "device", "date")


def source(facts: Row) -> dict[str, object]:
    """Return the columns that say where rows come from."""
    return {
        "command": facts["command"],
        "commit": facts["commit"] or "",
        "date": facts["date"][:10],
        "device": f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}",
    }


def case_lines(row: Row) -> list[dict[str, object]]:
    """Make a line for each layer that a row is compared with, or one line."""
    size = row["bytes"]
    about = {
        "name": row["name"],
        "library": row["library"],
        "shape": "x".join(map(str, row["shape"])),
        **{key: row[key] for key in ("precision", "tokens", "trainable")},
    }
    flops = row["flops"] or {}
    costs = {
        **{f"{name}_flops": _whole(flops.get(name)) for name in FLOPS},
        "rounds": row["ms"]["forward_backward"]["rounds"],
        "floor_ms": f"{row['floor']['ms']:.4g}",
        "held_bytes": size["held"]["total"],
        "kept_bytes": size["kept"],
        "peak_bytes": size["peak"],
        "checkpoint_bytes": size["checkpoint"],
    }
    times = {f"{name}_ms": f"{row['ms'][name]['median']:.4g}" for name in PASSES}
    lines = []
    for ratios in row["ratio"].values() or [{}]:
        passes = {
            f"{name}_{key}": text
            for name in PASSES
            if ratios
            for key, text in ratio_columns(ratios[name]).items()
        }
        lines.append({**about, "against": ratios.get("to", ""), **times, **passes, **costs})
    return lines


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def ratio_columns(ratio: Row) -> dict[str, str]:
    """Write a ratio and its quartiles as columns of CSV."""
    return {
        "ratio": f"{ratio['median']:.3f}",
        "quartiles": f"{ratio['low']:.3f}-{ratio['high']:.3f}",
    }


CASES = Table(
    [
        "name",
        "library",
        "shape",
        "precision",
        "tokens",
        "trainable",
        "against",
        *(f"{name}_{what}" for name in PASSES for what in ("ms", "ratio", "quartiles")),
        *(f"{name}_flops" for name in FLOPS),
        "rounds",
        "floor_ms",
        "held_bytes",
        "kept_bytes",
        "peak_bytes",
        "checkpoint_bytes",
    ],
    case_lines,
)
