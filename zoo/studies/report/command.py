"""`zoo report`: runs side by side: means and intervals over seeds, gaps to dense, equivalence, and what was searched.

Only runs on one corpus or task with one network and as many steps are compared. A method's learning
rate is the best one on the seeds that have several; the other seeds are reported.
"""

import textwrap
import time
from pathlib import Path
from typing import Any

from zoo.cli.arguments import TRUST, parse
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines
from zoo.studies.terminal import check_out, facts, is_ours, need_extra

WIDTH = 80
OPTIONS: dict[str, dict[str, Any]] = {
    "runs": {
        "nargs": "+",
        "metavar": "RUNS",
        "help": "runs, or folders that contain some at any depth",
    },
    "--out": {
        "default": None,
        "metavar": "DIR",
        "help": "a new folder for report.html, report.md, report.csv, report.json and figures",
    },
    "--margin": {
        "type": float,
        "default": 0.024,
        "metavar": "X",
        "help": "two methods are the same if they differ by "
        "less, in units of the metric; by default 0.024",
    },
    "--reference": {
        "default": None,
        "metavar": "METHOD",
        "help": "that gaps are taken to, as the table calls it; by default Dense under AdamW",
    },
    "--force": {"action": "store_true", "help": "replace an earlier report in --out"},
    **TRUST,
}
MANY = 10
"""Runs that were left out that are named."""


def main(argv: list[str]) -> int:
    """Print the tables, and write the report if asked to."""
    options = vars(parse("report", __doc__ or "", argv, OPTIONS)) | {"trust": Trust.of(argv)}
    print(lines(report(argv=argv[1:], **options)))
    return 0


def report(
    runs: list[str],
    out: str | None,
    margin: float,
    reference: str | None,
    force: bool,
    argv: list[str],
    trust: Trust = NOBODY,
) -> str:
    """Compare and write; what is to be printed.

    Raises:
        UserError: for an option out of range, folders without finished runs, or a folder that holds
            something.
    """
    start = time.perf_counter()
    if not 0 < margin < float("inf"):
        raise UserError(f"--margin must be above 0, got {margin}")
    folder = check_out(out, "report", force)
    need_extra()
    from zoo.runs import experiments
    from zoo.studies.report import comparison

    found, skipped = experiments.read(runs, trust)
    found, more = comparison.usable(found)
    skipped = sorted([*skipped, *more])
    if not found:
        path, why = skipped[0]
        others = f", and {len(skipped) - 1} more like it" if len(skipped) > 1 else ""
        raise UserError(
            f"no finished run in '{runs[0]}': '{path}': {why}{others}; train some with zoo fit"
        )
    data = comparison.compare(found, skipped, margin, reference, trust)
    parts = [describe(each, data) for each in data["comparisons"]]
    parts += [_skipped(data["skipped"])] if data["skipped"] else []
    if folder is not None:
        _write(folder, {**facts("report", argv, start), **data}, force)
        parts.append(f"written to  {folder}\nlook        {folder}/report.html")
    return "\n\n".join(parts)


def _write(folder: Path, data: dict[str, Any], force: bool) -> None:
    """All files of the report, or none."""
    from zoo.files.access import new_folder, write_text
    from zoo.pages.page import finite, write_report
    from zoo.pages.texts import table
    from zoo.studies.report.figures import figures
    from zoo.studies.report.page import page
    from zoo.studies.report.tables import markdown, rows

    data = finite(data)
    with new_folder(folder, "--out", is_ours(folder, "report"), force) as part:
        found = rows(data)
        write_text(part / "report.md", markdown(data))
        write_text(part / "report.csv", table(list(found[0]), found))
        write_report(
            part, "report", data, figures(data), page, [part / "report.md", part / "report.csv"]
        )


# ---- In the terminal -----------------------------------------------------------------------------


def describe(comparison: dict[str, Any], data: dict[str, Any]) -> str:
    """A comparison in 80 columns: its settings, a row for each method, the search and notes."""
    from zoo.studies.report.tables import notes

    settings = ", ".join(f"{key} {value}" for key, value in comparison["settings"].items())
    said = [comparison["name"], *_wrapped(settings), "", *_rows(comparison), ""]
    if any(method["tuned_on_reported"] for method in comparison["methods"]):
        said.append("*       the rate is the best of several on the seeds that are reported")
    said += _wrapped(f"search  {comparison['search']['words']}")
    if comparison["reference"] and any(method["gap"] for method in comparison["methods"]):
        level = f"{100 * (1 - data['level']):g} %"
        said += _wrapped(
            f"gap     mean minus {comparison['reference']}'s over the seeds of both, with its paired "
            f"{level} interval; same: within {data['margin']:g} by TOST at {100 * data['level']:g} %"
        )
    for note in dict.fromkeys([*notes(comparison), *comparison["notes"]]):
        said += _wrapped(f"note    {note}".replace("−", "-"))
    return "\n".join(said)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * 8, break_on_hyphens=False) or [""]


def _rows(comparison: dict[str, Any]) -> list[str]:
    """The table; a column that nothing is in is left out, and long names go over several lines."""
    head = (
        "method",
        "share",
        "lr",
        "n",
        comparison["metric"],
        "sd",
        "gap",
        "[low, high]",
        "same",
        "rank",
    )
    cells = [head, *map(_cells, comparison["methods"])]
    remarks = [[], *map(_remarks, comparison["methods"])]
    used = [i for i, column in enumerate(zip(*cells[1:], strict=True)) if any(column)]
    cells = [tuple(row[i] for i in used) for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][1:]
    name_width = max(12, WIDTH - sum(widths) - len(widths))
    said = []
    for (name, *values), more in zip(cells, remarks, strict=True):
        first, *others = textwrap.wrap(name, name_width, break_on_hyphens=False)
        numbers = " ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        said += [
            f"{first:<{name_width}} {numbers}".rstrip(),
            *(f"  {other}" for other in [*others, *more]),
        ]
    return said


def _cells(method: dict[str, Any]) -> tuple[str, ...]:
    gap, test, rank = method["gap"], method["tost"], method["stable_rank"]
    return (
        method["method"],
        f"{100 * method['budget']:.3g}%",
        f"{method['lr']:g}{'*' * method['tuned_on_reported']}",
        str(method["n"]),
        _number(method["mean"]),
        _number(method["sd"]),
        _number(gap["mean"], "+") if gap else "",
        f"[{_number(gap['low'], '+')},{_number(gap['high'], '+')}]"
        if gap and gap["low"] is not None
        else "",
        ("yes" if test["equivalent"] else "no") if test else "",
        f"{rank['mean']:.1f}" if rank else "",
    )


def _remarks(method: dict[str, Any]) -> list[str]:
    """What stands below a row: a count that is not its budget's, seeds without a result, devices."""
    from zoo.studies.report.tables import NEAR

    off = [f"count {100 * method['count_off']:+.1f} %"] * (abs(method["count_off"]) > NEAR)
    diverged = [f"{len(method['diverged'])} diverged"] * bool(method["diverged"])
    return [*off, *diverged, *[f"{len(method['devices'])} devices"] * (len(method["devices"]) > 1)]


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"


def _skipped(skipped: list[dict[str, str]]) -> str:
    """How many runs were left out, and which."""
    said = [f"left out  {len(skipped)} run{'s' * (len(skipped) > 1)}"]
    said += [f"  {item['path']}: {item['why']}" for item in skipped[:MANY]]
    return "\n".join([*said, *[f"  and {len(skipped) - MANY} more"] * (len(skipped) > MANY)])
