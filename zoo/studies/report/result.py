"""A report for Python: data frames, figures and the page of runs side by side."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.pages.texts import lines
from zoo.studies.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from zoo.pages.html import Drawings
    from zoo.pages.style import Figure


class Report(Result):
    """Runs side by side: only those of one comparison share data, network and steps.

    Losses and scores are in units of their metric, times in seconds; FLOPs and bytes are counted,
    and of the linear layers and the trained numbers alone.
    """

    file = "report"

    def __str__(self) -> str:
        from zoo.studies.report.terminal import printed

        return lines(printed(self.data))

    def __repr__(self) -> str:
        comparisons = self.data["comparisons"]
        runs = sum(len(comparison["runs"]) for comparison in comparisons)
        return f"<Report on {', '.join(each['name'] for each in comparisons)}: {runs} runs>"

    @cached_property
    def methods(self) -> "pd.DataFrame":
        """What report.csv holds, a row for each method of each comparison.

        `mean`, `sd`, and the 95 % interval from `low` to `high` are over the n seeds; `gap` is the
        mean difference to the reference over the seeds of both, with its paired interval and p;
        `tost_p` and `equivalent` say whether it is shown to be within `margin`.
        """
        from zoo.studies.report import frames

        return frames.methods(self._plain)

    @cached_property
    def comparisons(self) -> "pd.DataFrame":
        """What runs are compared within: the metric, the reference, and what all share."""
        from zoo.studies.report import frames

        return frames.comparisons(self._plain)

    @cached_property
    def runs(self) -> "pd.DataFrame":
        """Every run; `value` is its loss or score, `searched` whether it served the search."""
        from zoo.studies.report import frames

        return frames.runs(self._plain)

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """By step the validation metric (`quantity` is `value`) and the `stable_rank` of a run."""
        from zoo.studies.report import frames

        return frames.curves(self._plain)

    @cached_property
    def search(self) -> "pd.DataFrame":
        """Every trial of the searches of learning rates; `chosen` are those at the best rate."""
        from zoo.studies.report import frames

        return frames.search(self._plain)

    @cached_property
    def skipped(self) -> "pd.DataFrame":
        """What was left out, and why."""
        from zoo.studies.report import frames

        return frames.skipped(self._plain)

    @cached_property
    def _plain(self) -> dict[str, Any]:
        """The data as JSON has it, where None stands for numbers that it lacks."""
        from zoo.pages.page import finite

        return finite(self.data)

    def _draw(self) -> "Mapping[str, Figure]":
        from zoo.studies.report.figures import figures

        return figures(self._plain)

    def _page(self, data: dict[str, Any], drawings: "Drawings", layout: str) -> str:
        from zoo.studies.report.page import page

        return page(data, drawings, layout)

    def _write_more(self, part: Path) -> list[Path]:
        from zoo.files.access import write_text
        from zoo.pages.texts import csv_text
        from zoo.studies.report.markdown import markdown
        from zoo.studies.report.tables import exported

        rows = exported(self._plain)
        table, words = part / "report.csv", part / "report.md"
        write_text(words, markdown(self._plain))
        write_text(table, csv_text(list(rows), rows.to_dict("records")))
        return [words, table]
