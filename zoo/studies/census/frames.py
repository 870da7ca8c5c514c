"""The numbers of a census as data frames, a row for each observation, in full precision."""

from collections.abc import Mapping

import pandas as pd

from zoo.pages.data import Data
from zoo.studies.census.summary import analysed, architecture
from zoo.studies.frames import frame
from zoo.studies.verdicts import PRIMARY

HEAD = ("adapter", "status", "why", "cluster")
ENDS = {"value": "", "null": "_null", "sd": "_sd", "z": "_z", "p": "_p", "draws": "_draws"} | {
    "shuffled": "_shuffled"
}
"""Fields of a measure, and what a column of each ends in."""


def adapters(census: Data) -> pd.DataFrame:
    """Return a row for each adapter that was asked for, analysed or not."""
    rows = [(each, _adapter(each)) for each in census["adapters"]]
    ours = {key for _, row in rows for key in row} - {"architecture"}
    return frame(
        (
            {
                **{key: row[key] for key in HEAD},
                # A list may have any columns, those of an earlier census too.
                **{f"{k}_listed" if k in ours else k: v for k, v in each["entry"]["about"].items()},
                **row,
            }
            for each, row in rows
        ),
        whole=["matrices", "least_rank", "most_rank"],
    )


def matrices(census: Data) -> pd.DataFrame:
    """Return a row for each matrix of those that were analysed."""
    return frame(
        (
            {
                "adapter": each["entry"]["name"],
                **{key: m[key] for key in ("layer", "block", "kind")},
                "rows": m["shape"][0],
                "columns": m["shape"][1],
                "rank": m["numerical_rank"],
                **{key: m[key] for key in ("norm", "stable_rank", "effective_rank")},
                **_measures(m["spectra"], PRIMARY),
            }
            for each in analysed(census["adapters"])
            for m in each["matrices"]
        ),
        whole=["block", "rank"],
    )


def _adapter(each: Data) -> Data:
    entry = each["entry"]
    row = {
        "adapter": entry["name"],
        "status": each["status"],
        "why": each.get("why", ""),
        "cluster": entry["cluster"],
    }
    if each["status"] != "analysed":
        return row
    ranks = [m["numerical_rank"] for m in each["matrices"]]
    return {
        **row,
        "architecture": architecture(each),
        "format": each["facts"]["format"],
        "matrices": len(ranks),
        "least_rank": min(ranks),
        "most_rank": max(ranks),
        **_measures(each["mean"], PRIMARY),
        **{f"{key}_q": found["q"] for key, found in each["structured"].items()},
        **_correlations(each["correlation"]),
        "seconds": each["seconds"],
    }


def _measures(spectra: Mapping[str, Data], names: tuple[str, ...]) -> Data:
    return {
        f"{key}_{name}{end}": values[name][field]
        for key, values in spectra.items()
        for name in names
        for field, end in ENDS.items()
    }


def _correlations(correlation: Mapping[str, Data]) -> Data:
    return {
        f"{key}_{pair}_{statistic}{'' if field == 'value' else '_null'}": found[field]
        for key, pairs in list(correlation.items())[:1]
        for pair, statistics in pairs.items()
        for statistic, found in statistics.items()
        for field in ("value", "null")
    }


def structure(census: Data) -> pd.DataFrame:
    """Return how many adapters have structure under each transform."""
    return frame(census["summary"]["structure"])


def flat(rows: list[Data]) -> pd.DataFrame:
    """Return rows whose fields may be means with intervals, as `value_mean` and `value_low`."""
    return frame(
        {
            name: value
            for key, item in row.items()
            for name, value in (
                {f"{key}_{end}": number for end, number in item.items()}.items()
                if isinstance(item, dict)
                else [(key, item)]
            )
        }
        for row in rows
    )
