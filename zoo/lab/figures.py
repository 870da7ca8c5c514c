"""Figures of analysis.json and mask.json: a dictionary in, matplotlib figures out, by the names of their files.

They follow those of SpectralLoRA (arXiv 2604.10649), with the rotation null beside what the paper shows alone. Where
there are several groups, a figure of one group has the group at the end of its name. What has no data is left out.
"""

import re
from collections.abc import Callable

from zoo.lab.analysis_figures import cumulative_energy, k90_by_task, k90_heatmap, rank_against_loss, singular_values
from zoo.lab.mask_figures import bytes_by_score, energy_by_budget, score_by_budget, score_by_budget_all
from zoo.lab.style import Data, Figure, runs_of


def analysis_figures(analysis: Data) -> dict[str, Figure]:
    """The figures of an analysis.json, by name.

    Returns:
        k90_by_task, rank_against_loss; for each group cumulative_energy and singular_values of its first run, and
        k90_heatmap over all of its runs. Of several transforms, k90_by_task shows all, the others the first.
    """
    transform = analysis["transforms"][0]
    return _present({
        "k90_by_task": k90_by_task(analysis),
        **_each("cumulative_energy", analysis, lambda group, runs: cumulative_energy(runs[0], transform)),
        **_each("k90_heatmap", analysis, lambda group, runs: k90_heatmap(runs, transform)),
        **_each("singular_values", analysis, lambda group, runs: singular_values(runs[0])),
        "rank_against_loss": rank_against_loss(analysis),
    })  # fmt: skip


def mask_figures(mask: Data) -> dict[str, Figure]:
    """The figures of a mask.json, by name.

    Returns:
        score_by_budget for each group; score_by_budget_all where there are several; energy_by_budget; bytes_by_score.
    """
    return _present({
        **_each("score_by_budget", mask, lambda group, runs: score_by_budget(group, mask)),
        "score_by_budget_all": score_by_budget_all(mask),
        "energy_by_budget": energy_by_budget(mask),
        "bytes_by_score": bytes_by_score(mask),
    })  # fmt: skip


def slug(text: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "group"


def _each(name: str, data: Data, make: Callable[[Data, list[Data]], Figure | None]) -> dict[str, Figure | None]:
    """One figure per group, made of it and its runs: `name` for a single one, else `name` and the group's."""
    figures: dict[str, Figure | None] = {}
    for group in data["groups"]:
        own = f"{name}_{slug(group['group'])}" if len(data["groups"]) > 1 else name
        while own in figures:  # groups whose names differ in signs alone, or far behind
            own += "-"
        figures[own] = make(group, runs_of(data, group))
    return figures


def _present(figures: dict[str, Figure | None]) -> dict[str, Figure]:
    return {name: figure for name, figure in figures.items() if figure is not None}
