"""The page of `zoo mask`."""

from zoo.pages.data import Data, runs_of, unique
from zoo.pages.html import PAGE, Drawings, render
from zoo.pages.numbers import decimals, number_of, plus_minus, typeset
from zoo.studies.mask.tables import scores_tables, sizes_tables, trained_sizes

SCORED = {
    "task": "the network is evaluated in float32 on the validation data",
    "function": "the network is given to the function that scores it",
    "energy": "the share of |dW|² that is left stands in place of a score",
}
"""What gives the scores, as the page says it."""


def mask_page(mask: Data, drawings: Drawings, layout: str = PAGE) -> str:
    """Return a mask.json as a page: what was masked, figures, scores and bytes on disk.

    Args:
        mask: as mask.json holds it.
        drawings: of `zoo.studies.mask.figures.mask_figures`.
        layout: the template that the content is put into.
    """
    count = len(mask["runs"])
    by = unique(run.get("scored_by", "task") for run in mask["runs"])
    return render(
        "studies/mask/page.html.j2",
        f"How far {'an update' if count == 1 else f'{count} updates'} can be cut down",
        mask,
        layout,
        drawings=drawings,
        scored=", or ".join(SCORED[each] for each in by),
        groups=[
            {
                "name": group["group"],
                "about": typeset(_about(group, mask)),
                "scores": scores_tables(group, mask),
                "whole": trained_sizes(group, mask),
                "sizes": sizes_tables(group, mask),
            }
            for group in mask["groups"]
        ],
    )


def _about(group: Data, mask: Data) -> str:
    unmasked = plus_minus(group["unmasked"]["mean"], group["unmasked"]["sd"], 4)
    about = (
        f"{group['metric'] or 'score'}, {group['better']} is better; unmasked {unmasked} over "
        f"{number_of(group['n'], 'run')}."
    )
    reported = [run["reported"] for run in runs_of(mask, group)]
    if None in reported:
        return about
    scores = ", ".join(decimals(score, 4) for score in reported)
    return f"{about} As they trained, in the precision of training: {scores}."
