"""The page of `zoo report`."""

from zoo.pages.html import Drawings, captioned, render
from zoo.pages.numbers import typeset
from zoo.pages.style import Data, unique
from zoo.studies.report import sentences
from zoo.studies.report.figures import suffixes
from zoo.studies.report.tables import methods_table, runs_table, search_table

CAPTIONS = {
    "loss_by_parameters": "Mean over seeds with its 95 % interval; the dashed line and band are the reference. Lines "
    "join the budgets of a family. Families of one budget stand side by side around its tick, so that they can be told "
    "apart; counts are in the table. An interval that leaves the axis goes on.",
    "gaps": "Mean difference to the reference over the seeds that both have. An interval that leaves out 0 is a "
    "difference; a filled marker is one that the test finds equivalent, within the band; an open marker on the band "
    "is neither shown: more seeds would tell.",
    "loss_by_stable_rank": "One point for each reported run. If a line falls from left to right, budgets and methods "
    "that keep a higher stable rank reach a lower loss (a score: if it rises); points far from it say that rank is "
    "not all.",
    "rank_over_training": "Mean over seeds of the stable rank, as it was logged; bands are the standard deviation. The "
    "reference is in every panel. A line that falls to that of a low-rank method is a collapse.",
    "loss_over_training": "Mean over seeds of the validation metric, from the last 70 % of the training; bands are the "
    "standard deviation. The reference is in every panel.",
    "rate_sensitivity": "Every run of the search, lines through the mean at each rate; a ring marks the rate that was "
    "chosen. A ring at the end of its line says that the search was too narrow, and a flat line that the rate matters "
    "little.",
}


def page(data: Data, drawings: Drawings) -> str:
    """Return report data as a page: of each comparison its settings, table, search, figures and runs.

    Args:
        data: of `zoo report`.
        drawings: of `zoo.studies.report.figures.figures`.
    """
    methods = unique(m["method"] for c in data["comparisons"] for m in c["methods"])
    title = f"{len(methods)} methods compared" if len(methods) != 1 else "Report of 1 method"
    comparisons = [
        _comparison(
            data, comparison, {name: svg for name, svg in drawings.items() if name.endswith(suffix)}
        )
        for comparison, suffix in zip(data["comparisons"], suffixes(data), strict=True)
    ]
    return render("studies/report/page.html.j2", title, data, comparisons=comparisons)


def _comparison(data: Data, comparison: Data, drawings: Drawings) -> Data:
    """Return what the page shows of a comparison."""
    legend = sentences.legend(data, comparison)
    return {
        "name": comparison["name"],
        "settings": f"{sentences.settings(comparison)}.",
        "answers": [typeset(answer) for answer in sentences.answers(data, comparison)],
        "methods": methods_table(comparison, data["level"]),
        "legend": legend[0].upper() + legend[1:],
        "notes": [typeset(note) for note in sentences.notes(comparison)],
        "search": sentences.search(comparison),
        "trials": search_table(comparison),
        "figures": captioned(drawings, CAPTIONS),
        "runs": runs_table(comparison),
    }
