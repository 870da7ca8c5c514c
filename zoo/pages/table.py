"""A table: a data frame, and columns that say what is shown of its rows, wherever that is."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.pages.numbers import decimals, plus_minus, typeset

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


def _cell(shown: Cell | str) -> Cell:
    return shown if isinstance(shown, Cell) else Cell(shown)


# ---- Formats: what makes a cell of the fields of a row -------------------------------------------


def fixed(field: str, digits: int = 3, sign: str = "", missing: str = "-") -> Callable[[Any], str]:
    """Show a field with so many decimals."""
    return lambda row: decimals(getattr(row, field), digits, sign, missing)


def mean_sd(mean: str, sd: str, digits: int = 3) -> Callable[[Any], str]:
    """Show a field, and beside it the one that is its standard deviation."""
    return lambda row: plus_minus(getattr(row, mean), getattr(row, sd), digits)


def over(shown: Callable[[Any], str], *below: Callable[[Any], str]) -> Callable[[Any], Cell]:
    """Show one above others."""
    return lambda row: Cell(shown(row), [each(row) for each in below])
