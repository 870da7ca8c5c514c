"""Markdown: names from files read as they are, and tables of cells."""

import re

from zoo.pages.table import Cell, Column, Table
from zoo.pages.texts import printable

MARKUP = re.compile(r"[\\`*~|\[\]]|!(?=\[)|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for more than itself; an underscore inside a word is one."""


def escape(text: object) -> str:
    """Return anything as one line of Markdown that reads as it is.

    No link, image, emphasis, cell or HTML comes of it. GitHub makes links of bare addresses too,
    hence the backslashes in them, and the space of no width after an `@`.
    """
    words = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(printable(text).split()))
    words = MARKUP.sub(r"\\\g<0>", words.replace("<", "&lt;").replace(">", "&gt;"))
    words = re.sub(r"(?i)\b(www)\.", r"\1\\.", words.replace("://", ":\\//"))
    return words.replace("@", "@&#8203;")


def code(text: object) -> str:
    """Return anything as code in Markdown, within more backticks than it has in a row."""
    words = " ".join(printable(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def table(shown: Table) -> str:
    """Return a table, what stands below a value behind it."""
    rows = [
        [escape(column.header) for column in shown.columns],
        ["---" if column.left else "---:" for column in shown.columns],
        *(list(map(_cell, row, shown.columns)) for row in shown.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell, column: Column) -> str:
    """Return a cell in one line; an interval is ours, and needs no escapes."""
    value, *below = map(column.typeset, (cell.text, *cell.below))
    shown = f"**{escape(value)}**" if cell.strong else escape(value)
    return " ".join([shown, *(each if each[0] == "[" else escape(f"({each})") for each in below)])
