"""`zoo report`: runs side by side: means over seeds, gaps to dense, equivalence, the search.

Means and gaps stand with their intervals. Only runs on one corpus or task with one network and as
many steps are compared. A method's learning rate is the best one on the seeds that have several;
the other seeds are reported.
"""

import time
from pathlib import Path
from typing import Annotated, Any

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines
from zoo.studies.folder import check_out, facts, is_ours
from zoo.studies.options import need_extra

MANY = 10
"""Runs that were left out that are named."""
COST = (
    "trained numbers; bytes of a checkpoint, and read to decode a token; FLOPs of linear layers a "
    "token, forward and with backward, and of the whole training"
)
"""What the columns of costs are."""


def main(argv: list[str]) -> int:
    """Print the tables, and write the report if asked to."""
    print(lines(call(report, argv, argv=argv[1:])))
    return 0


def report(
    runs: Annotated[list[str], "RUNS"],
    *,
    out: Annotated[str | None, "DIR"] = None,
    margin: Annotated[float, "X"] = 0.024,
    reference: Annotated[str | None, "METHOD"] = None,
    force: bool = False,
    trust: Trust = NOBODY,
    argv: list[str],
) -> str:
    """Compare runs, and write a report if asked to; returns what is to be printed.

    Args:
        runs: runs, or folders that contain some at any depth.
        out: a new folder for report.html, report.md, report.csv, report.json and figures.
        margin: two methods are the same if they differ by less, in units of the metric; by default
            0.024.
        reference: that gaps are taken to, as the table calls it; by default Dense under AdamW.
        force: replace an earlier report in --out.
        trust: which classes besides zoo's own the runs may name.
        argv: the words of the command line after `zoo report`.

    Raises:
        UserError: for an option out of range, folders without finished runs, or a folder that holds
            something.
    """
    start = time.perf_counter()
    if not 0 < margin < float("inf"):
        raise UserError(f"--margin must be above 0, got {margin}")
    folder = check_out(out, "report", force)
    need_extra()
    from zoo.runs import finished_runs
    from zoo.studies.report import comparison

    finished, skipped = finished_runs.read(runs, trust)
    finished, more = comparison.usable(finished)
    skipped = sorted([*skipped, *more])
    if not finished:
        path, why = skipped[0]
        others = f", and {len(skipped) - 1} more like it" if len(skipped) > 1 else ""
        raise UserError(
            f"no finished run in '{runs[0]}': '{path}': {why}{others}; train some with zoo fit"
        )
    data = comparison.compare(finished, skipped, margin, reference, trust)
    parts = [describe(each, data) for each in data["comparisons"]]
    parts += [_skipped(data["skipped"])] if data["skipped"] else []
    if folder is not None:
        _write(folder, {**facts("report", argv, start), **data}, force)
        parts.append(f"written to  {folder}\nlook        {folder}/report.html")
    return "\n\n".join(parts)


def _write(folder: Path, data: dict[str, Any], force: bool) -> None:
    """Write all files of the report, or none."""
    from zoo.files.access import new_folder, write_text
    from zoo.pages.page import finite, write_report
    from zoo.pages.texts import csv_text
    from zoo.studies.report.figures import figures
    from zoo.studies.report.markdown import markdown
    from zoo.studies.report.page import page
    from zoo.studies.report.tables import exported

    data = finite(data)
    with new_folder(folder, "--out", is_ours(folder, "report"), force) as part:
        rows = exported(data)
        write_text(part / "report.md", markdown(data))
        write_text(part / "report.csv", csv_text(list(rows), rows.to_dict("records")))
        write_report(
            part, "report", data, figures(data), page, [part / "report.md", part / "report.csv"]
        )


# ---- In the terminal -----------------------------------------------------------------------------


def describe(comparison: dict[str, Any], data: dict[str, Any]) -> str:
    """Return a comparison in 80 columns: its settings, methods, search and notes."""
    from zoo.pages.terminal import hanging, table
    from zoo.studies.report.sentences import notes
    from zoo.studies.report.tables import cost_table, terminal_table

    settings = ", ".join(f"{key} {value}" for key, value in comparison["settings"].items())
    said = [comparison["name"], hanging(settings), ""]
    said += [*table(terminal_table(comparison), gap=1), ""]
    if any(method["tuned_on_reported"] for method in comparison["methods"]):
        said.append(
            hanging("*       the rate is the best of several on the seeds that are reported")
        )
    said.append(hanging(f"search  {comparison['search']['words']}"))
    if comparison["reference"] and any(method["gap"] for method in comparison["methods"]):
        words = (
            f"mean minus {comparison['reference']}'s over the seeds of both, with its paired "
            f"{100 * (1 - data['level']):g} % interval; same: within {data['margin']:g} by TOST at "
            f"{100 * data['level']:g} %"
        )
        said.append(hanging(f"gap     {words}"))
    if (costs := cost_table(comparison)) is not None:
        said += ["", *table(costs, gap=2), "", hanging(f"cost    {COST}")]
    return "\n".join([*said, *(hanging(f"note    {note}") for note in notes(comparison))])


def _skipped(skipped: list[dict[str, str]]) -> str:
    """Say how many runs were left out, and which."""
    said = [f"left out  {len(skipped)} run{'s' * (len(skipped) > 1)}"]
    said += [f"  {item['path']}: {item['why']}" for item in skipped[:MANY]]
    return "\n".join([*said, *[f"  and {len(skipped) - MANY} more"] * (len(skipped) > MANY)])
