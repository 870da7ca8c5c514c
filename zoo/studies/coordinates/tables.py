"""The tables of the coordinate check: exponents of sizes, and errors of rebuilt matrices."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from zoo.pages.data import Data
from zoo.pages.numbers import decimals, plus_minus, typeset
from zoo.pages.table import Column, Table
from zoo.pages.terminal import WIDTH
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.recording import BLOCKS, LAYERS, LOGITS
from zoo.studies.coordinates.sizes import LAST, SIZE_MEASURES

WHOLE = (LAYERS, BLOCKS, LAST, LOGITS)
"""Groups that are of no kind of layer alone."""
MARKS = {"grows": "word some", "flat": "word", "shrinks": "word yes"}
LEFT = max(len(measure.label) for measure in SIZE_MEASURES)
CELL = len("-0.00 shrinks")
"""Characters of a terminal's first column, and of an exponent."""
SHORT = ("size", "float32", "bf16 W", "bf16 module", "bf16 bases")
"""A size and the ways to build W, as a terminal has room for them."""


# ---- Exponents -----------------------------------------------------------------------------------


def slopes(report: Data, along: str, groups: Collection[str]) -> pd.DataFrame:
    """Return a row for each measure, and slope, error and reading for each parameterization.

    Args:
        report: of the coordinate check.
        along: `width` or `depth`.
        groups: whose slopes; each measure is of one of them.

    Returns:
        Columns `measure`, `slope_0`, `error_0`, `reading_0`, `slope_1` and so on.
    """
    frame = pd.DataFrame(report["slopes"])
    frame = frame[(frame["along"] == along) & frame["group"].isin(groups)]
    numbers = {name: str(i) for i, name in enumerate(report["parameterizations"])}
    wide = frame.assign(number=frame["parameterization"].map(numbers)).pivot(
        index="measure", columns="number", values=["slope", "error", "reading"]
    )
    wide.columns = pd.Index(map("_".join, wide.columns))
    labels = [measure.label for measure in SIZE_MEASURES if measure.label in wide.index]
    return wide.loc[labels].reset_index()


def slopes_table(report: Data, along: str, groups: Collection[str], caption: str) -> Table:
    """Return exponents as a page shows them."""
    names = report["parameterizations"]
    columns = [Column(name, partial(_slope, number=i)) for i, name in enumerate(names)]
    return Table(slopes(report, along, groups), [_measure(), *columns], caption)


def _measure() -> Column:
    return Column("", lambda row: row.measure, left=True)


def _fields(row: Any, number: int) -> list[Any]:
    return [getattr(row, f"{field}_{number}") for field in ("slope", "error", "reading")]


def _slope(row: Any, number: int) -> str:
    slope, error, reading = _fields(row, number)
    shown = typeset(plus_minus(slope, error, 2))
    return Markup('{} <span class="{}">{}</span>').format(
        shown, MARKS.get(reading, "word"), reading
    )


def terminal_tables(report: Data, along: str) -> Iterator[Table]:
    """Return exponents, of as many parameterizations at once as a terminal has room for."""
    names = report["parameterizations"]
    frame = slopes(report, along, WHOLE)
    for part in parts(names):
        columns = [Column(name, partial(_short_slope, number=names.index(name))) for name in part]
        yield Table(frame, [_measure(), *columns])


def _short_slope(row: Any, number: int) -> str:
    slope, _, reading = _fields(row, number)
    shown = decimals(slope, 2, "+")
    return shown if shown == "-" else f"{shown} {reading:>7}"


def parts(names: Sequence[str]) -> Iterator[list[str]]:
    """Return as many names at once as columns of a table have room."""
    part: list[str] = []
    for name in names:
        if part and LEFT + sum(max(CELL, len(each)) + 2 for each in [*part, name]) > WIDTH:
            yield part
            part = []
        part = [*part, name]
    yield part


# ---- Rebuilt matrices ----------------------------------------------------------------------------


def errors_table(report: Data, headers: Sequence[str] = ("Size", *PATHS)) -> Table:
    """Return the relative errors of rebuilt matrices.

    Args:
        report: of the coordinate check.
        headers: of the size and of the ways to build W.
    """
    columns = [
        Column(header, partial(_error, path=path))
        for header, path in zip(headers[1:], PATHS, strict=True)
    ]
    named = Column("", lambda row: row.parameterization, left=True)
    return Table(
        pd.DataFrame(report["rebuild"]),
        [named, Column(headers[0], lambda row: f"{row.size:,}"), *columns],
    )


def _error(row: Any, path: str) -> str:
    error = getattr(row, path)
    return "-" if error is None or error != error else f"{error:.2e}"
