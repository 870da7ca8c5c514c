"""The tables of a census: who was asked, what was found, and what would have been."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from zoo.pages.data import Data
from zoo.pages.numbers import decimals, interval, percent
from zoo.pages.table import Cell, Column, Table, fixed
from zoo.studies.census.frames import flat
from zoo.studies.census.summary import analysed, architecture
from zoo.studies.spectra import MEASURE_LABELS


def counts_table(census: Data) -> Table:
    """Return how many adapters were asked for, by what became of them."""
    rows = [{"status": k, "count": v} for k, v in census["summary"]["counts"].items()]
    columns = [
        Column("Adapters", lambda row: row.status, left=True),
        Column("Count", lambda row: str(row.count_)),
    ]
    return Table(pd.DataFrame(rows).rename(columns={"count": "count_"}), columns)


def structure_table(census: Data) -> Table:
    """Return how many adapters have structure beyond their null, by transform."""
    columns = [
        Column("Transform", lambda row: row.transform, left=True),
        Column("Structured", lambda row: f"{row.found} of {row.adapters}"),
        Column("Share, an author once", lambda row: _share(row)),
        Column("p < 0.05 alone", lambda row: f"{row.nominal} of {row.adapters}"),
        Column("Matrices, alone", lambda row: f"{row.matrices_nominal} of {row.matrices}"),
    ]
    return Table(pd.DataFrame(census["summary"]["structure"]), columns)


def _share(row: Any) -> Cell:
    return Cell(percent(row.share, 0), [interval(100 * row.low, 100 * row.high, 0)])


def with_interval(field: str, digits: int = 3, sign: str = "") -> Callable[[Any], Cell]:
    """Show a mean over its interval."""

    def cell(row: Any) -> Cell:
        mean, low, high = (getattr(row, f"{field}_{end}") for end in ("mean", "low", "high"))
        below = interval(low, high, digits, sign)
        return Cell(decimals(mean, digits, sign), [below] if below else [])

    return cell


def _compared() -> list[Column]:
    return [
        Column("Mean", with_interval("value")),
        Column("Null", with_interval("null")),
        Column("Mean minus null", with_interval("gap", 4, "+")),
    ]


def measures_table(census: Data) -> Table:
    """Return each measure of adapters beside its null."""
    columns = [
        Column("Transform", lambda row: row.transform, left=True),
        Column("Measure", lambda row: MEASURE_LABELS[row.measure], left=True),
        *_compared(),
        Column("Mean minus shuffled", with_interval("order", 4, "+")),
        Column("|z| > 3", lambda row: str(row.far)),
    ]
    return Table(flat(census["summary"]["measures"]), columns)


def claims_table(census: Data) -> Table:
    """Return correlations within adapters beside those of their nulls."""
    columns = [
        Column("Of", lambda row: row.words, left=True),
        *_compared(),
        Column("Adapters", lambda row: str(row.value_adapters)),
    ]
    return Table(flat(census["summary"]["claims"]), columns)


def groups_table(census: Data, by: str) -> Table:
    """Return k90 and its null by one sort of thing."""
    rows = [row for row in census["summary"]["groups"] if row["by"] == by]
    gaps = [key for key in rows[0] if key.startswith("gap_")] if rows else []
    columns = [
        Column(by.capitalize(), lambda row: row.name, left=True),
        Column("Adapters", lambda row: str(row.value_adapters)),
        Column("Matrices", lambda row: str(row.matrices)),
        Column("k90", with_interval("value")),
        Column("Null", with_interval("null")),
        *(
            Column(f"k90 minus null, {key.removeprefix('gap_')}", with_interval(key, 4, "+"))
            for key in gaps
        ),
    ]
    return Table(flat(rows), columns)


def power_table(census: Data, transforms: Iterable[str]) -> Table:
    """Return in how many adapters planted structure was found."""
    rows: dict[tuple[str, float], Data] = {}
    for each in census["summary"]["power"]:
        row = rows.setdefault(
            (each["kind"], each["strength"]),
            {key: each[key] for key in ("kind", "strength", "adapters")},
        )
        row[f"at_{each['transform']}"] = each["share"]
    columns = [
        Column("Planted", lambda row: row.kind, left=True),
        Column("Share of energy", lambda row: percent(row.strength, 0) if row.strength else "-"),
        *(Column(key, partial(_power, key=f"at_{key}")) for key in transforms),
    ]
    return Table(pd.DataFrame(list(rows.values())), columns)


def _power(row: Any, key: str) -> str:
    return percent(getattr(row, key), 0)


def tails_table(census: Data) -> Table:
    """Return whether draws of a null are as Student's law has them."""
    rows = [
        {
            **{k: tail[k] for k in ("adapter", "layer", "shape", "rank", "draws")},
            "measure": m,
            **tail[m],
        }
        for tail in census["tails"]
        for m in ("k90", "low_25")
    ]
    columns = [
        Column("Adapter", lambda row: row.adapter, left=True),
        Column("Shape", lambda row: " × ".join(map(str, row.shape))),
        Column("Rank", lambda row: str(row.rank)),
        Column("Measure", lambda row: MEASURE_LABELS[row.measure], left=True),
        Column("Skew", lambda row: decimals(row.skew, 2)),
        Column("Kurtosis", lambda row: decimals(row.kurtosis, 2)),
        Column("p < 0.05", lambda row: percent(row.below_05)),
        Column("p < 0.01", lambda row: percent(row.below_01)),
        Column("uniform, p", lambda row: decimals(row.ks, 2)),
    ]
    return Table(pd.DataFrame(rows), columns)


def adapters_table(census: Data) -> Table:
    """Return the adapters that were analysed, each beside its null."""
    key = census["transforms"][0]
    rows = [
        {
            "name": each["entry"]["name"],
            "base": architecture(each),
            "matrices": len(each["matrices"]),
            "rank": _range([m["numerical_rank"] for m in each["matrices"]]),
            **each["mean"][key]["k90"],
            "found": [t for t, found in each["structured"].items() if found["found"]],
        }
        for each in analysed(census["adapters"])
    ]
    columns = [
        Column("Adapter", lambda row: row.name, left=True),
        Column("Base", lambda row: row.base, left=True),
        Column("Matrices", lambda row: str(row.matrices)),
        Column("Rank", lambda row: row.rank),
        Column("k90", fixed("value")),
        Column("Null", fixed("null")),
        Column("z", fixed("z", 1)),
        Column("Structured under", lambda row: ", ".join(row.found) or "-", left=True),
    ]
    return Table(pd.DataFrame(rows), columns)


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def left_table(left: Sequence[Data]) -> Table:
    """Return adapters that were left out, and why."""
    rows = [{"name": e["entry"]["name"], "status": e["status"], "why": e["why"]} for e in left]
    columns = [
        Column("Adapter", lambda row: row.name, left=True),
        Column("", lambda row: row.status, left=True),
        Column("Why", lambda row: row.why, left=True),
    ]
    return Table(pd.DataFrame(rows), columns)
