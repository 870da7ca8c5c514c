"""`zoo.report`: runs side by side, for Python."""

import math
import os
import time
from collections.abc import Sequence
from os import PathLike

from zoo.errors import UserError, as_arguments, option
from zoo.files.trust import Trust
from zoo.studies.folder import check_out, facts
from zoo.studies.options import listed, need_extra
from zoo.studies.report.result import Report
from zoo.studies.sources import call_in_words

Folder = str | PathLike[str]


def report(
    runs: Folder | Sequence[Folder],
    *,
    margin: float = 0.024,
    reference: str | None = None,
    trust: str | Sequence[str] = (),
    out: Folder | None = None,
    force: bool = False,
) -> Report:
    """Compare runs: means over seeds, gaps to a reference, equivalence, the search, and costs.

    It is what `zoo report` does, with runs as `zoo fit` leaves them.

        >>> import zoo
        >>> found = zoo.report("runs")  # doctest: +SKIP
        >>> found.methods[["method", "n", "mean", "gap", "gap_p"]]  # doctest: +SKIP
        >>> zoo.report("nowhere")
        Traceback (most recent call last):
        zoo.errors.UserError: 'nowhere' is no folder: give a run's folder, or one that contains runs

    Args:
        runs: a run, or a folder that contains some at any depth; or a list of these.
        margin: two methods are the same if they differ by less, in units of the metric.
        reference: that gaps are taken to, as the table calls it; by default Dense under AdamW.
        trust: modules or classes of your own that runs may name.
        out: a new folder for report.html, report.md, report.csv, report.json and figures.
        force: replace an earlier report in `out`.

    Returns:
        The tables as data frames, and figures; a notebook shows it as the command's page.

    Raises:
        UserError: for an argument out of range, folders without finished runs, or a folder that
            holds something.
    """
    given = {key: value for key, value in locals().items() if key != "runs"}
    several = [runs] if isinstance(runs, str | os.PathLike) else runs
    if not isinstance(several, Sequence) or not all(
        isinstance(each, str | os.PathLike) for each in several
    ):
        raise UserError(f"runs are a folder or a list of folders, got {runs!r:.60}")
    with as_arguments():
        return report_of(
            [os.fspath(each) for each in several],
            margin=margin,
            reference=reference,
            trust=Trust(tuple(listed(trust)) if trust else ()),
            out=out,
            force=force,
            command=call_in_words(report, runs, given),
        )


def report_of(
    runs: Sequence[str],
    *,
    margin: float,
    reference: str | None,
    trust: Trust,
    out: Folder | None,
    force: bool,
    command: str,
) -> Report:
    """Do what `report` and the command do, whose arguments it takes.

    `trust` says which classes besides zoo's own the runs may name, and `command` how all was asked
    for, as it stands on top of the page.
    """
    start = time.perf_counter()
    if not 0 < margin < math.inf:
        raise UserError(f"{option('margin')} must be above 0, got {margin}")
    if not runs:
        raise UserError("there is nothing to compare: give a folder with runs")
    folder = check_out(out, Report.file, force)
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
    result = Report({**facts(command, start), **data})
    if folder is not None:
        result.write(folder)
    return result
