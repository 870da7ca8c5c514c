"""The tables of an analysis: ranks, measures beside their nulls, correlations and verdicts."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from zoo.pages.data import Data, runs_of
from zoo.pages.numbers import decimals, interval, p_value
from zoo.pages.table import Cell, Column, Table, fixed, mean_sd, over
from zoo.studies.spectra import MEASURE_LABELS
from zoo.studies.verdicts import EMPTY, in_words

RANKS = {
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "numerical_rank": "numerical rank",
}
PAIRS = {
    "energies": ("energies σ², largest coefficients²", "sigma^2, coefficients^2"),
    "k90_stable_rank": ("k90, stable rank",) * 2,
    "k90_effective_rank": ("k90, effective rank",) * 2,
    "k90_block": ("k90, block",) * 2,
}
"""What is correlated: on a page, and in a terminal."""


def flat(spectra: Data) -> Data:
    """Return measures of a transform as fields, such as k90_value and k90_null."""
    return {
        f"{measure}_{key}": value
        for measure, values in spectra.items()
        for key, value in values.items()
    }


# ---- Runs ----------------------------------------------------------------------------------------


def averages(run: Data, transforms: Iterable[str]) -> pd.DataFrame:
    """Return averages of a run: of all its matrices, of each block and each kind of layer."""
    rows = [
        {
            "transform": transform,
            "what": what,
            "name": name,
            **average,
            **flat(average["spectra"][transform]),
        }
        for transform in transforms
        for what, sets in run["averages"].items()
        for name, average in sets.items()
    ]
    return pd.DataFrame(rows)


def averages_table(run: Data, transform: str) -> Table:
    """Return the averages of a run under one transform."""
    columns = [
        Column("Mean of", lambda a: "all" if a.what == "run" else f"{a.what} {a.name}", left=True),
        Column("Matrices", lambda a: str(a.matrices)),
        *_measured(),
    ]
    return Table(averages(run, [transform]), columns, f"{transform}: averages")


def matrices_table(run: Data, transform: str) -> Table:
    """Return the matrices of a run under one transform."""
    rows = [{**matrix, **flat(matrix["spectra"][transform])} for matrix in run["matrices"]]
    columns = [
        Column("Layer", lambda m: m.layer, left=True),
        Column("Shape", lambda m: " × ".join(map(str, m.shape))),
        Column("Norm", lambda m: f"{m.norm:.3g}"),
        *_measured(),
    ]
    return Table(pd.DataFrame(rows), columns, f"{transform}: matrices")


def _measured() -> list[Column]:
    """Return columns of ranks, and of measures over their nulls: rotated, and shuffled."""
    return [
        *(Column(label, fixed(rank, 2)) for rank, label in RANKS.items()),
        Column("z of k90", fixed("k90_z", 1)),
        Column("p", lambda row: p_value(row.k90_p)),
        *(
            Column(
                label, over(*(fixed(f"{key}_{field}") for field in ("value", "null", "shuffled")))
            )
            for key, label in MEASURE_LABELS.items()
        ),
    ]


def correlations(runs: Iterable[Data]) -> pd.DataFrame:
    """Return the correlations of runs, a row for each transform and pair."""
    rows = [
        {"run": run["name"], "transform": transform, "pair": pair, **flat(correlation)}
        for run in runs
        for transform, pairs in run["correlation"].items()
        for pair, correlation in pairs.items()
    ]
    return pd.DataFrame(rows)


def correlations_table(runs: Iterable[Data]) -> Table:
    """Return the correlations of runs, each with its interval and its null."""
    columns = [
        Column("Run", lambda c: c.run, left=True),
        Column("Transform", lambda c: c.transform, left=True),
        Column("Of", lambda c: PAIRS.get(c.pair, (c.pair,))[0], left=True),
    ]
    for kind in ("pearson", "spearman"):
        columns += [
            Column(kind.capitalize(), partial(_correlation, kind=kind)),
            Column("null", mean_sd(f"{kind}_null", f"{kind}_null_sd")),
        ]
    return Table(correlations(runs), [*columns, Column("Matrices", lambda c: f"{c.pearson_n:.0f}")])


def _correlation(row: Any, kind: str, digits: int = 3) -> str:
    value, low, high = (getattr(row, f"{kind}_{end}") for end in ("value", "low", "high"))
    return f"{decimals(value, digits)} {interval(low, high, digits)}".rstrip()


# ---- Groups --------------------------------------------------------------------------------------


def ranks_table(analysis: Data) -> Table:
    """Return ranks and scores of groups, over their runs."""
    shown = {"stable_rank": 2, "effective_rank": 2, "loss": 4, "score": 4}
    missing = {"mean": None, "sd": None}
    rows = [
        {
            "group": group["group"],
            "runs": len(group["runs"]),
            "metrics": {run["metric"] for run in runs_of(analysis, group)} - {None},
            **flat({field: group[field] or missing for field in shown}),
        }
        for group in analysis["groups"]
    ]
    numbers = [
        Column(
            field.replace("_", " ").capitalize(), mean_sd(f"{field}_mean", f"{field}_sd", digits)
        )
        for field, digits in shown.items()
    ]
    columns = [
        Column("Group", lambda g: g.group, left=True),
        Column("Runs", lambda g: str(g.runs)),
        *numbers,
        Column("Metric", lambda g: ", ".join(sorted(g.metrics))),
    ]
    return Table(pd.DataFrame(rows), columns)


def spectra_tables(analysis: Data) -> list[Table]:
    """Return the measures of groups over their nulls: by size, and by frequency."""
    rows = [
        {"group": group["group"], "transform": transform, **flat(group["spectra"][transform])}
        for group in analysis["groups"]
        for transform in analysis["transforms"]
    ]
    named = [
        Column("Group", lambda g: g.group, left=True),
        Column("Transform", lambda g: g.transform, left=True),
    ]
    measures = [
        Column(label, over(mean_sd(f"{m}_mean", f"{m}_sd"), mean_sd(f"{m}_null", f"{m}_null_sd")))
        for m, label in MEASURE_LABELS.items()
    ]
    frame = pd.DataFrame(rows)
    return [
        Table(frame, [*named, *measures[:3]], "Largest first; below each, its null"),
        Table(frame, [*named, *measures[3:]], "Lowest frequencies first; below each, its null"),
    ]


# ---- Verdicts ------------------------------------------------------------------------------------


def verdicts_table(judged: Sequence[Data], name: str, transforms: Sequence[str]) -> Table:
    """Return the verdicts of groups or runs, a column for each transform.

    Args:
        judged: groups or runs.
        name: `group` or `name`, the field that names them.
        transforms: of the analysis.
    """
    columns = [
        Column(transform, partial(_verdict_at, transform=transform), left=True)
        for transform in transforms
    ]
    head = Column("Run" if name == "name" else "Group", lambda row: getattr(row, name), left=True)
    return Table(pd.DataFrame(judged, dtype=object), [head, *columns])


def _verdict_at(row: Any, transform: str) -> Cell:
    return verdict_cell(row.verdicts[transform])


def verdict_cell(verdict: Data) -> Cell:
    """Return a verdict in a word, over its p."""
    below = [in_words(verdict["p"])]
    if not verdict["structured"]:
        return Cell("no structure beyond the null", below, mark="word")
    if verdict["zeros"] > EMPTY:
        return Cell("structured by construction", below, mark="word some")
    if not verdict["ordered"]:
        return Cell("structured, not by frequency", below, mark="word some")
    return Cell("structured", below, mark="word yes")


# ---- In the terminal -----------------------------------------------------------------------------


def terminal_tables(run: Data) -> list[Table]:
    """Return ranks, measures and correlations of a run, as a terminal has room for them."""
    transforms = list(run["correlation"])
    kinds = _by_kind(averages(run, transforms))
    ranks = [
        Column("", lambda a: a.kind, left=True),
        Column("matrices", lambda a: str(a.matrices)),
        Column("stable rank", fixed("stable_rank", 2)),
        Column("effective", fixed("effective_rank", 2)),
        Column("numerical", fixed("numerical_rank", 1)),
    ]
    measures = [Column("", lambda a: a.transform if a.what == "run" else f"  {a.kind}", left=True)]
    for header, measure in (("k90", "k90"), ("low 25 %", "low_25")):
        measures += [
            Column(header, fixed(f"{measure}_value")),
            Column("null", fixed(f"{measure}_null")),
            Column("z", fixed(f"{measure}_z", 1, "+", "")),
            Column("p", partial(_short_p, field=f"{measure}_p")),
        ]
    pairs = [
        Column("", lambda c: c.transform if c.first else "", left=True),
        Column("correlation of", lambda c: PAIRS[c.pair][1], left=True),
        Column("Pearson", partial(_correlation, kind="pearson", digits=2)),
        Column("null", fixed("pearson_null", 2)),
        Column("Spearman", fixed("spearman_value", 2)),
        Column("null", fixed("spearman_null", 2)),
    ]
    correlated = correlations([run])
    correlated["first"] = ~correlated["transform"].duplicated()
    return [
        Table(kinds[kinds["transform"] == transforms[0]], ranks),
        Table(kinds, measures),
        Table(correlated, pairs),
    ]


def _by_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the averages of all matrices, and of each kind of layer if there are several."""
    kinds = frame.loc[frame["what"] == "kind", "name"].unique()
    prefix = os.path.commonprefix(list(kinds)).rpartition(".")[0]
    wanted = ["run", "kind"] if len(kinds) > 1 else ["run"]
    shown = frame[frame["what"].isin(wanted)]
    names = [
        "all" if row.what == "run" else short(row.name.removeprefix(f"{prefix}."))
        for row in shown.itertuples()
    ]
    return shown.assign(kind=names)


def short(name: str) -> str:
    """Return the end of a name that is too long for the table."""
    return name if len(name) <= 18 else f"..{name[-16:]}"


def _short_p(row: Any, field: str) -> str:
    p = getattr(row, field)
    return "<.0001" if p < 1e-4 else decimals(p, 4).removeprefix("0")
