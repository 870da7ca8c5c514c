"""A table: a data frame, and columns that say what is shown of its rows, wherever that is."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.pages.numbers import typeset

if TYPE_CHECKING:
    import pandas as pd

EMPTY = {"", "-"}


class Cell(NamedTuple):
    """A text in a table, what stands below it, whether it is set off, and its mark on a page."""

    text: str = "-"
    below: Sequence[str] = ()
    strong: bool = False
    mark: str = ""
    """A class of `page.css` that a word has: word, word yes or word some."""


class Column(NamedTuple):
    """A header, what makes a cell of a row, and whether it is of words, set to the left."""

    header: str
    cell: Callable[[Any], Cell | str]
    left: bool = False

    def typeset(self, text: str) -> str:
        """Return a text as a page or Markdown has it: words and markup stay as they are."""
        return text if self.left or hasattr(text, "__html__") else typeset(text)


class Table:
    """A data frame as it is shown.

    Args:
        frame: raw numbers, a row each; columns read its fields by name.
        columns: from left to right.
        caption: above it.
    """

    def __init__(self, frame: "pd.DataFrame", columns: Iterable[Column], caption: str = "") -> None:
        self.columns, self.caption = list(columns), caption
        self.rows = [
            [_cell(column.cell(row)) for column in self.columns]
            for row in frame.itertuples(index=False)
        ]

    def filled(self, keep: int = 1, empty: Iterable[str] = ()) -> "Table":
        """Leave out columns in which nothing is, in place.

        Args:
            keep: the first so many columns stay.
            empty: texts that are nothing, besides a dash.
        """
        nothing = EMPTY | set(empty)
        used = [
            i
            for i in range(len(self.columns))
            if i < keep or any(row[i].text not in nothing for row in self.rows)
        ]
        self.columns = [self.columns[i] for i in used]
        self.rows = [[row[i] for i in used] for row in self.rows]
        return self


def _cell(found: Cell | str) -> Cell:
    return found if isinstance(found, Cell) else Cell(found)
