"""The tables of a mask: scores with their tests, and bytes on disk, of a group of runs."""

from functools import partial
from typing import Any

import pandas as pd

from zoo.pages.data import Data, runs_of
from zoo.pages.numbers import decimals, general, human_bytes, p_value, plus_minus
from zoo.pages.table import Cell, Column, Table, fixed, mean_sd
from zoo.studies.verdicts import LEVEL


def scores(group: Data, mask: Data) -> pd.DataFrame:
    """Return the scores of a group, a row for each mask, by order and budget."""
    return _by_order(pd.DataFrame(group["points"]).astype({"p_holm": float}), mask)


def sizes(group: Data, mask: Data) -> pd.DataFrame:
    """Return the bytes of a group's masked updates, means over its runs, a row for each mask."""
    masks = ["transform", "order", "budget"]
    points = pd.DataFrame(
        {**{key: point[key] for key in masks}, **point["bytes"]}
        for run in runs_of(mask, group)
        for point in run["points"]
    )
    grouped = points.astype({"file": float}).groupby(masks, as_index=False)
    means = grouped[["values", "places", "file"]].mean()
    encodings = grouped["encoding"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    return _by_order(means.assign(encoding=encodings["encoding"]), mask)


def trained_sizes(group: Data, mask: Data) -> pd.Series:
    """Return bytes of dW, of what it was trained as, and of what else is: means over runs."""
    return pd.DataFrame(run["bytes"] for run in runs_of(mask, group)).astype(float).mean()


def _by_order(points: pd.DataFrame, mask: Data) -> pd.DataFrame:
    orders = pd.Categorical(points["order"], mask["orders"])
    return points.assign(order=orders).sort_values(["order", "budget"])


# ---- Pages ---------------------------------------------------------------------------------------


def scores_tables(group: Data, mask: Data) -> list[Table]:
    """Return scores and their tests against the unmasked network, a table for each transform."""
    columns = [
        *_masks(),
        Column(group["metric"] or "score", mean_sd("mean", "sd", 4)),
        Column("Difference", fixed("difference", 4)),
        Column("t", fixed("t", 2)),
        Column("p", lambda p: p_value(p.p)),
        Column("Holm p", lambda p: Cell(p_value(p.p_holm), strong=p.p_holm < LEVEL)),
    ]
    return _by_transform(scores(group, mask), columns, mask)


def sizes_tables(group: Data, mask: Data) -> list[Table]:
    """Return bytes on disk, a table for each transform."""
    whole = trained_sizes(group, mask)

    def times(size: Any, of: str, digits: int) -> str:
        return decimals((size.values + size.places) / whole[of] if whole[of] else None, digits)

    columns = [
        *_masks(),
        Column("Values (B)", lambda size: f"{size.values:,.0f}"),
        Column("Places (B)", lambda size: f"{size.places:,.0f}"),
        Column("Encoding", lambda size: size.encoding),
        Column("Together", lambda size: human_bytes(size.values + size.places)),
        Column("File (B)", lambda size: f"{size.file:,.0f}" if size.file == size.file else "-"),
        Column("Times dense", partial(times, of="dense", digits=3)),
        Column("Times trained", partial(times, of="trained", digits=2)),
    ]
    return _by_transform(sizes(group, mask), columns, mask)


def _masks() -> list[Column]:
    return [
        Column("Order", lambda point: point.order, left=True),
        Column("Kept", lambda point: f"{general(point.budget)} %"),
    ]


def _by_transform(frame: pd.DataFrame, columns: list[Column], mask: Data) -> list[Table]:
    return [
        Table(frame[frame["transform"] == transform], columns, transform)
        for transform in mask["transforms"]
    ]


# ---- In the terminal -----------------------------------------------------------------------------


def terminal_tables(group: Data, mask: Data) -> list[Table]:
    """Return a row a budget and a column an order; bytes are of the first order."""
    points = scores(group, mask).merge(sizes(group, mask), on=["transform", "order", "budget"])
    fields = ["mean", "sd", "p_holm", "values", "places"]
    tables = []
    for transform in mask["transforms"]:
        wide = points[points["transform"] == transform].pivot(
            index="budget", columns="order", values=fields
        )
        wide.columns = pd.Index(map("_".join, wide.columns))  # such as mean_magnitude
        columns = [
            Column(transform, lambda row: f"{general(row.budget)} %", left=True),
            *(Column(f"{order} ", partial(_score, order=order)) for order in mask["orders"]),
            Column("bytes", partial(_bytes, order=mask["orders"][0])),
        ]
        tables.append(Table(wide.reset_index(), columns))
    return tables


def _score(row: Any, order: str) -> str:
    mean, sd, p = (getattr(row, f"{field}_{order}") for field in ("mean", "sd", "p_holm"))
    return score(mean, sd) + ("*" if p < LEVEL else " ")


def _bytes(row: Any, order: str) -> str:
    return f"{getattr(row, f'values_{order}') + getattr(row, f'places_{order}'):,.0f}"


def score(mean: float, sd: float | None) -> str:
    """Return a score with four decimals, or with three beside its standard deviation."""
    return plus_minus(mean, sd, 4 if sd is None or sd != sd else 3)
