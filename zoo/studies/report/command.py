"""`zoo report`: runs side by side: means over seeds, gaps to dense, equivalence, the search.

Means and gaps stand with their intervals. Only runs on one corpus or task with one network and as
many steps are compared. A method's learning rate is the best one on the seeds that have several;
the other seeds are reported.
"""

from typing import Annotated

from zoo.cli.arguments import call
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines
from zoo.studies.folder import written
from zoo.studies.report.public import report_of


def main(argv: list[str]) -> int:
    """Print the tables, and write the report if asked to."""
    print(call(report, argv, argv=argv[1:]))
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
    found = report_of(
        runs,
        out=out,
        margin=margin,
        reference=reference,
        force=force,
        trust=trust,
        command=" ".join(["zoo", "report", *argv]),
    )
    return f"{found}{lines(written(out, found.file))}"
