"""The page of `zoo report`."""

from zoo.pages.data import Data, unique
from zoo.pages.html import PAGE, Drawings, render
from zoo.pages.numbers import typeset
from zoo.studies.report import sentences
from zoo.studies.report.figures import compute_name, suffixes
from zoo.studies.report.scaling_figure import fits_table
from zoo.studies.report.tables import methods_table, runs_table, search_table


def page(data: Data, drawings: Drawings, layout: str = PAGE) -> str:
    """Return a report.json as a page: of each comparison its table, search, figures and runs.

    Args:
        data: of `zoo report`.
        drawings: of `zoo.studies.report.figures.figures`.
        layout: the template that the content is put into.
    """
    methods = unique(m["method"] for c in data["comparisons"] for m in c["methods"])
    title = f"{len(methods)} methods compared" if len(methods) != 1 else "Report of 1 method"
    comparisons = [
        _comparison(
            data, comparison, {name: svg for name, svg in drawings.items() if name.endswith(suffix)}
        )
        for comparison, suffix in zip(data["comparisons"], suffixes(data), strict=True)
    ]
    scalings = [
        {
            "name": scaling["name"],
            "fits": fits_table(scaling),
            "drawings": {compute_name(i): drawings[compute_name(i)]},
        }
        for i, scaling in enumerate(data.get("scalings", ()))
    ]
    found = {"comparisons": comparisons, "scalings": scalings}
    return render("studies/report/page.html.j2", title, data, layout, **found)


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
        "drawings": drawings,
        "runs": runs_table(comparison),
    }
