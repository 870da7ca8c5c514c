"""The page of `zoo analyze`."""

from zoo.pages.data import Data, runs_of
from zoo.pages.html import PAGE, Drawings, render
from zoo.studies.analyze import tables


def analysis_page(analysis: Data, drawings: Drawings, layout: str = PAGE) -> str:
    """Return an analysis.json as a page: verdicts, groups, figures, correlations and matrices.

    Args:
        analysis: as analysis.json holds it.
        drawings: of `zoo.studies.analyze.figures.analysis_figures`.
        layout: the template that the content is put into.
    """
    runs, groups, transforms = (analysis[key] for key in ("runs", "groups", "transforms"))
    what = "an update" if len(runs) == 1 else f"{len(runs)} updates"
    return render(
        "studies/analyze/page.html.j2",
        f"What is in {what}, beyond the singular values",
        analysis,
        layout,
        verdicts=tables.verdicts_table(groups, "group", transforms),
        run_verdicts=tables.verdicts_table(runs, "name", transforms),
        verdict=tables.verdict_cell,
        by_group=[run for group in groups for run in runs_of(analysis, group)],
        notes=_notes(runs),
        groups=[tables.ranks_table(analysis), *tables.spectra_tables(analysis)],
        drawings=drawings,
        correlations=tables.correlations_table(runs),
        averages=tables.averages_table,
        matrices=tables.matrices_table,
    )


def _notes(runs: list[Data]) -> list[str]:
    notes = [f"{run['name']}: {note}" for run in runs for note in run["notes"]]
    weights = [run["name"] for run in runs if run["what"] == "W"]
    if weights:
        notes.append(f"Trained from scratch, so that W itself is analysed: {', '.join(weights)}")
    return notes
