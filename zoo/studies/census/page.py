"""The page of `zoo census`."""

from typing import Any

from zoo.pages.html import PAGE, Drawings, render
from zoo.pages.numbers import number_of
from zoo.studies.census import tables
from zoo.studies.census.planted import KINDS

SORTS = ("architecture", "rank", "size", "module", "depth")
MOST_LEFT_OUT = 200
"""How many of those that were left out a page names; adapters.csv has all."""


def census_page(census: dict[str, Any], drawings: Drawings, layout: str = PAGE) -> str:
    """Return a census.json as a page: answers, figures, groups, power, and who was left out.

    Args:
        census: as census.json holds it.
        drawings: of `zoo.studies.census.figures.census_figures`.
        layout: the template that the content is put into.
    """
    # Not those of which the list itself says why there is none.
    left = [e for e in census["adapters"] if e["status"] != "analysed" and not e["entry"]["status"]]
    return render(
        "studies/census/page.html.j2",
        f"What is in {number_of(census['summary']['counts'].get('analysed', 0), 'adapter')}, "
        "beyond their singular values",
        census,
        layout,
        drawings=drawings,
        structure=tables.structure_table(census),
        claims=tables.claims_table(census),
        measures=tables.measures_table(census),
        groups=[tables.groups_table(census, by) for by in SORTS],
        power=tables.power_table(census, census["transforms"]),
        planted=[f"{kind}: {what}" for kind, what in KINDS.items()],
        tails=tables.tails_table(census),
        counts=tables.counts_table(census),
        analysed=tables.adapters_table(census),
        left=tables.left_table(left[:MOST_LEFT_OUT]),
        more=len(left[MOST_LEFT_OUT:]),
    )
