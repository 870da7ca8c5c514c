"""Text from files, which may come from anyone, on its way to a terminal, a page or a table."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BLANK = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]")
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a terminal's cursor, turns text around, or cannot be written in UTF-8."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def printable(text: object) -> str:
    """Return anything as one line of characters that are to be seen.

    A line end is a blank then, and any other such character U+FFFD.
    """
    return CONTROL.sub("\ufffd", BLANK.sub(" ", str(text)))


def lines(text: str) -> str:
    """Return a text of several lines, each printable."""
    return "\n".join(map(printable, text.split("\n")))


def clean(value: Any) -> Any:
    """Return plain data in which all strings are printable, keys too."""
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def cell(value: object) -> object:
    """Return a value as CSV has it: a `'` before what a spreadsheet took for a formula."""
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return ("'" if is_formula else "") + printable(value)


def csv_text(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], header: bool = True
) -> str:
    """Return the text of a CSV file, or of more lines for one."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    if header:
        writer.writerow({name: cell(name) for name in columns})
    writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()
