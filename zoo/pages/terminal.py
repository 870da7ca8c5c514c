"""Tables and sentences in a terminal: plain text, aligned, within 80 columns."""

import textwrap
from collections.abc import Sequence

from zoo.pages.table import EMPTY, Table

WIDTH = 80
LEAST = 12
"""Characters that a first column keeps, however wide the others are."""


def table(shown: Table, gap: int = 2) -> list[str]:
    """Return the lines of a table; what is missing is blank, and a row's remarks stand below its name."""
    left = sum(column.left for column in shown.columns)
    cells = [
        [
            "\n".join([row[0].text, *row[0].below]),
            *("" if c.text in EMPTY else c.text for c in row[1:]),
        ]
        for row in shown.rows
    ]
    return aligned([[column.header for column in shown.columns], *cells], left, gap)


def aligned(rows: Sequence[Sequence[str]], left: int = 1, gap: int = 2) -> list[str]:
    """Return rows of cells, aligned, as lines.

    Args:
        rows: of as many cells each. A first cell that has no room goes over several lines, as does
            one that has several.
        left: the first so many columns are set to the left, the others to the right.
        gap: blanks between columns.
    """
    widths = [max(map(len, cells)) for cells in list(zip(*rows, strict=True))[1:]]
    room = max(LEAST, WIDTH - sum(widths) - gap * len(widths))
    names = [_wrapped(row[0], room) for row in rows]
    widths.insert(0, max(len(line) for name in names for line in name))
    lines = []
    for (first, *more), row in zip(names, rows, strict=True):
        cells = [
            f"{cell:{'<' if i < left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip([first, *row[1:]], widths, strict=True))
        ]
        lines += [(" " * gap).join(cells).rstrip(), *more]
    return lines


def _wrapped(name: str, room: int) -> list[str]:
    if len(name) <= room and "\n" not in name:
        return [name]
    first, *others = textwrap.wrap(
        name.split("\n")[0], room, subsequent_indent="  ", break_on_hyphens=False
    )
    return [first, *others, *(f"  {line}" for line in name.split("\n")[1:])]


def hanging(text: str, indent: int = 8) -> str:
    """Return a text in lines, all but the first further to the right: its first word names it."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
