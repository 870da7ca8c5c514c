"""A census in a terminal, in 80 columns."""

import textwrap

from zoo.pages.data import Data
from zoo.pages.numbers import decimals, interval, number_of, percent
from zoo.pages.table import Column, Table
from zoo.pages.terminal import table
from zoo.studies.census.frames import flat
from zoo.studies.census.tables import counts_table

LEGEND = """k90: share of the coefficients, largest first, that holds 90 % of the energy.
null: the same singular values in random directions. structured: beyond it, at a
false discovery rate of 5 %; [low, high]: 95 % interval, an author counted once."""


def printed(census: Data) -> str:
    """Return counts, structure by transform, and claims beside their nulls."""
    summary = census["summary"]
    analysed = number_of(summary["counts"].get("analysed", 0), "adapter")
    head = (
        f"{analysed} analysed, of {number_of(summary['clusters'], 'author')}; matrices: "
        f"{summary['matrices']}"
    )
    parts = [
        "\n".join(table(counts_table(census))),
        textwrap.fill(head, 80),
        "\n".join(table(_structure(summary))),
        "\n".join(table(_claims(summary))),
        LEGEND,
    ]
    return "\n\n".join(parts)


def _structure(summary: Data) -> Table:
    by = {(row["transform"], row["measure"]): row for row in summary["measures"]}
    rows = [
        {
            **row,
            **{f"k90_{end}": by[row["transform"], "k90"][end]["mean"] for end in ("value", "null")},
        }
        for row in summary["structure"]
    ]
    columns = [
        Column("", lambda row: row.transform, left=True),
        Column("k90", lambda row: decimals(row.k90_value)),
        Column("null", lambda row: decimals(row.k90_null)),
        Column("structured", lambda row: f"{row.found} of {row.adapters}"),
        Column("share", lambda row: percent(row.share, 0)),
        Column("[low, high]", lambda row: interval(100 * row.low, 100 * row.high, 0)),
    ]
    return Table(flat(rows), columns)


def _claims(summary: Data) -> Table:
    columns = [
        Column("", lambda row: row.words, left=True),
        Column("mean", lambda row: decimals(row.value_mean, 2)),
        Column("null", lambda row: decimals(row.null_mean, 2)),
        Column(
            "difference",
            lambda row: (
                f"{decimals(row.gap_mean, 2, '+')} {interval(row.gap_low, row.gap_high, 2, '+')}"
            ),
        ),
    ]
    return Table(flat(summary["claims"]), columns)
