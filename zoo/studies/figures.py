"""Figures of a report by the names of their files.

Where there are several groups, a figure of one group has the group at the end of its name. What has
no data is left out.
"""

import re
from collections.abc import Callable, Iterable

from zoo.pages.data import Data, runs_of
from zoo.pages.style import Figure


def slug(text: str) -> str:
    """Return a name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "group"


def distinct(names: Iterable[str]) -> list[str]:
    """Append dashes to names that were there before: they differ in signs alone, or far behind."""
    taken: list[str] = []
    for name in names:
        while name in taken:
            name += "-"
        taken.append(name)
    return taken


def each(
    name: str, data: Data, make: Callable[[Data, list[Data]], Figure | None]
) -> dict[str, Figure | None]:
    """Make a figure of each group and its runs: `name`, and of several groups the group's."""
    groups = data["groups"]
    ends = [f"_{slug(group['group'])}" if len(groups) > 1 else "" for group in groups]
    names = distinct(name + end for end in ends)
    return {
        key: make(group, runs_of(data, group)) for key, group in zip(names, groups, strict=True)
    }


def present(figures: dict[str, Figure | None]) -> dict[str, Figure]:
    """Return those figures that there are."""
    return {name: figure for name, figure in figures.items() if figure is not None}
