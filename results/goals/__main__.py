"""Measure where this project is beside what it wants to reach: `python -m results.goals [NAMES]`.

Each goal is a ratio of two things that are measured side by side in one run.
"""

import os
import sys
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
from zoo.pages.terminal import aligned
from zoo.studies.bench.command import about
from zoo.studies.bench.options import device_of, path
from zoo.studies.bench.rows import Results, Row, Table, ratio_columns
from zoo.studies.bench.terminal import median_and_half
from zoo.studies.progress import Bar


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
            lambda goals: results.add([goal_row(goal) for goal in goals]),
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
    cells = [("goal", "", "measured", "met")]
    for row in rows:
        sign = ">=" if row["at_least"] else "<="
        case = "\n".join(filter(None, (row["case"], row["note"])))
        met = "yes" if row["met"] else "NO"
        cells.append((case, f"{sign} {row['goal']:g}", median_and_half(row), met))
    return "\n".join(aligned(cells))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
