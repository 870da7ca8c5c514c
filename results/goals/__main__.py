"""Measure where this project is beside what it wants to reach: `python -m results.goals [NAMES]`.

Each goal is a ratio of two things that are measured side by side in one run.
"""

import os
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

# Before torch is imported, whose profiler announces itself otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from results.goals import rows
from results.goals.goals import Goal
from zoo.__main__ import guarded, prepare_process
from zoo.cli.arguments import OneLineParser
from zoo.errors import UserError
from zoo.studies.bench.command import about
from zoo.studies.bench.options import device_of, path
from zoo.studies.bench.rows import Results, Row, Table, ratio_columns
from zoo.studies.bench.terminal import WIDTH, spread
from zoo.studies.terminal import Bar, columns


def main(argv: Sequence[str]) -> int:
    """Measure the project's goals and print each beside what is measured.

    Returns 0, or 2 for a mistake of the user's.
    """
    parser = OneLineParser(prog="python -m results.goals", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="?", help=f"some of {','.join(rows.ROWS)}; by default all")
    parser.add_argument(
        "--threads", type=int, help="of the processor; by default as many as torch takes"
    )
    parser.add_argument("--json", metavar="FILE", help="all that is measured")
    parser.add_argument(
        "--csv", metavar="FILE", help="a line for each goal, added to those that are there"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier --json")
    return guarded(lambda: measure(vars(parser.parse_args(argv)), argv, time.perf_counter()))


def measure(options: dict[str, Any], argv: Sequence[str], start: float) -> int:
    """Measure what the options say; returns 0.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    if options["threads"] is not None and options["threads"] < 1:
        raise UserError(f"--threads must be at least 1, got {options['threads']}")
    names = [name.strip() for name in (options["names"] or "").split(",") if name.strip()] or None
    device = device_of("cpu", options["threads"])
    results = Results(
        path(options["json"]),
        path(options["csv"]),
        GOALS,
        {"goals": names, "device": str(device)},
        lambda: {
            **about(argv, start, device),
            "command": f"python -m results.goals {' '.join(argv)}",
        },
        options["force"],
    )
    results.rows.clear()  # ratios of one run, so an interrupted one starts again
    bar = Bar("goals")
    try:
        rows.measure(
            names,
            bar.bar.set_description,
            lambda found: results.add([goal_row(goal) for goal in found]),
        )
    finally:
        bar.close()
    results.write(finished=True)
    print(table(results.rows))
    if written := [str(file) for file in (results.path, results.csv_path) if file is not None]:
        print(f"\nwritten to  {', '.join(written)}")
    return 0


def goal_row(goal: Goal) -> Row:
    """Return a goal as a row that also says whether it is met."""
    return {**goal._asdict(), "median": goal.measured, "met": goal.met}


def goal_lines(row: Row) -> list[dict[str, object]]:
    """Return the line of CSV for a goal."""
    about_it = {"case": row["case"], "goal": f"{'>=' if row['at_least'] else '<='} {row['goal']:g}"}
    measured = {f"measured_{key}": text for key, text in ratio_columns(row).items()}
    return [{**about_it, **measured, "met": "yes" if row["met"] else "no", "note": row["note"]}]


GOALS = Table(["case", "goal", "measured_ratio", "measured_quartiles", "met", "note"], goal_lines)


def table(rows: Sequence[Row]) -> str:
    """Lay out a row for each goal, with its note below, within 80 columns."""
    cells: list[tuple[str, ...]] = [("goal", "", "measured", "met")]
    notes = [""]
    for row in rows:
        sign = ">=" if row["at_least"] else "<="
        cells.append(
            (row["case"], f"{sign} {row['goal']:g}", spread(row), "yes" if row["met"] else "NO")
        )
        notes.append(row["note"])
    wide = max(len(row[0]) for row in cells)
    room = WIDTH - max(
        len(line) - wide for line in columns([(" " * wide, *row[1:]) for row in cells], 1)
    )
    lines = []
    for (case, *values), note in zip(cells, notes, strict=True):
        first, *others = textwrap.wrap(case, room, break_on_hyphens=False)
        lines.append((first, values, [*others, *textwrap.wrap(note, WIDTH - 4)]))
    heads = columns([(first, *values) for first, values, _ in lines], 1)
    return "\n".join(
        line
        for row, (_, _, more) in zip(heads, lines, strict=True)
        for line in (row, *(f"  {other}" for other in more))
    )


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
