"""Figures of a report by the names of their files.

Where there are several groups, a figure of one group has the group at the end of its name. What has
no data is left out.
"""

import re
from collections.abc import Callable

from zoo.pages.style import Data, Figure, runs_of


def slug(text: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "group"


def each(
    name: str, data: Data, make: Callable[[Data, list[Data]], Figure | None]
) -> dict[str, Figure | None]:
    """One figure per group, made of it and its runs: `name` for a single one, else `name` and the group's."""
    figures: dict[str, Figure | None] = {}
    for group in data["groups"]:
        own = f"{name}_{slug(group['group'])}" if len(data["groups"]) > 1 else name
        while own in figures:  # groups whose names differ in signs alone, or far behind
            own += "-"
        figures[own] = make(group, runs_of(data, group))
    return figures


def present(figures: dict[str, Figure | None]) -> dict[str, Figure]:
    """Those figures that there are."""
    return {name: figure for name, figure in figures.items() if figure is not None}
