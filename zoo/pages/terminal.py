"""Tables and sentences in a terminal: plain text, aligned, within 80 columns."""

import textwrap
from collections.abc import Sequence

from zoo.pages.table import Table
from zoo.pages.texts import printable

WIDTH = 80
LEAST = 12
"""Characters that a first column keeps, however wide the others are."""


def table(shown: Table, gap: int = 2) -> list[str]:
    """Return the lines of a table, what stands below the first cell of a row under it."""
    left = sum(column.left for column in shown.columns)
    cells = [
        ["\n".join(map(printable, (row[0].text, *row[0].below))), *(cell.text for cell in row[1:])]
        for row in shown.rows
    ]
    return aligned([[column.header for column in shown.columns], *cells], left, gap)


def aligned(
    rows: Sequence[Sequence[str]], left: int = 1, gap: int = 2, width: int = WIDTH
) -> list[str]:
    """Return rows of cells, aligned, as lines.

    Args:
        rows: of as many cells each. A first cell that has no room goes over several lines; what
            stands below its own line has lines to itself.
        left: the first so many columns are set to the left, the others to the right.
        gap: blanks between columns.
        width: characters that a line has room for.
    """
    names, remarks = zip(*(row[0].partition("\n")[::2] for row in rows), strict=True)
    widths = [max(map(len, cells)) for cells in list(zip(*rows, strict=True))[1:]]
    room = max(LEAST, width - sum(widths) - gap * len(widths))
    wrapped = [_wrapped(name, room, _lead(name)) for name in names]
    widths.insert(0, max(len(line) for name in wrapped for line in name))
    lines = []
    for (first, *others), row, remark in zip(wrapped, rows, remarks, strict=True):
        cells = zip([first, *row[1:]], widths, strict=True)
        shown = [f"{cell:{'<' if i < left else '>'}{w}}" for i, (cell, w) in enumerate(cells)]
        lines += [(" " * gap).join(shown).rstrip(), *others]
        for line in remark.split("\n") if remark else ():
            indent = f"{_lead(first)}  "
            lines += _wrapped(indent + line, width, indent)
    return lines


def _lead(text: str) -> str:
    return " " * (len(text) - len(text.lstrip()))


def _wrapped(text: str, room: int, indent: str) -> list[str]:
    return textwrap.wrap(text, room, subsequent_indent=f"{indent}  ", break_on_hyphens=False) or [
        ""
    ]


def hanging(text: str, indent: int = 8) -> str:
    """Return a text in lines, all but the first further to the right: its first word names it."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
