"""The numbers of an analysis as data frames, a row for each observation, in full precision."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from zoo.pages.data import Data
from zoo.studies.frames import frame

RANKS = ("stable_rank", "effective_rank", "numerical_rank")
MEASURE = {"value": "value", "null": "null", "sd": "null_sd", "z": "z", "p": "p"} | {
    "shuffled": "shuffled",
    "shuffled_p": "shuffled_p",
}
"""What is known of a measure, and what a frame calls it."""


def runs(analysis: Data) -> pd.DataFrame:
    """Return what is known of each run or network."""
    fields = ("group", "path", "what", "task", "model", "parameterization", "seed")
    return frame(
        (
            {
                "run": run["name"],
                **{key: run[key] for key in (*fields, "loss", "score", "metric")},
                "notes": "; ".join(run["notes"]),
            }
            for run in analysis["runs"]
        ),
        whole=["seed"],
        numbers=["loss", "score"],
    )


def matrices(analysis: Data) -> pd.DataFrame:
    """Return shape, norm and ranks of each matrix."""
    return frame(
        (
            {
                **_layer(run, matrix),
                "rows": matrix["shape"][0],
                "columns": matrix["shape"][1],
                **{key: matrix[key] for key in ("norm", *RANKS)},
            }
            for run, matrix in _matrices(analysis)
        ),
        whole=["block"],
    )


def spectra(analysis: Data) -> pd.DataFrame:
    """Return each measure of each matrix under each transform, beside its nulls."""
    return frame(
        (
            {**_layer(run, matrix), "transform": transform, **measured}
            for run, matrix in _matrices(analysis)
            for transform, spectrum in matrix["spectra"].items()
            for measured in _measured(spectrum)
        ),
        whole=["block"],
        numbers=MEASURE.values(),
    )


def averages(analysis: Data) -> pd.DataFrame:
    """Return the same of means: over a run's matrices, over those of a block and of a kind."""
    return frame(
        (
            {
                "run": run["name"],
                "group": run["group"],
                "over": "all" if over == "run" else over,
                "name": name,
                "matrices": average["matrices"],
                **{key: average[key] for key in RANKS},
                "transform": transform,
                **measured,
            }
            for run in analysis["runs"]
            for over, sets in run["averages"].items()
            for name, average in sets.items()
            for transform, spectrum in average["spectra"].items()
            for measured in _measured(spectrum)
        ),
        numbers=MEASURE.values(),
    )


def singular_values(analysis: Data) -> pd.DataFrame:
    """Return the singular values of each matrix beside those of Gaussian matrices of its norm."""
    return frame(
        (
            {
                **_layer(run, matrix),
                "i": i + 1,
                "value": value,
                "gaussian_mean": gaussian["mean"][i],
                "gaussian_sd": gaussian["sd"][i],
            }
            for run, matrix in _matrices(analysis)
            for gaussian in [matrix["gaussian_singular_values"]]
            for i, value in enumerate(matrix["singular_values"])
        ),
        whole=["block"],
    )


def curves(analysis: Data) -> pd.DataFrame:
    """Return the share of the energy that shares of the coefficients hold, in hundredths."""
    share = np.linspace(0, 1, 101)
    return frame(
        (
            {
                **_layer(run, matrix),
                "transform": transform,
                "share": share[i],
                **{key: line[i] for key, line in lines.items()},
            }
            for run, matrix in _matrices(analysis)
            for transform, lines in matrix["curves"].items()
            for i in range(101)
        ),
        whole=["block"],
    )


def correlations(analysis: Data) -> pd.DataFrame:
    """Return each correlation with its bootstrap interval and its null."""
    numbers = ("value", "low", "high", "null", "null_sd")
    return frame(
        (
            {
                "run": run["name"],
                "transform": transform,
                "pair": pair,
                "statistic": statistic,
                **{key: found[key] for key in (*numbers, "n")},
            }
            for run in analysis["runs"]
            for transform, pairs in run["correlation"].items()
            for pair, statistics in pairs.items()
            for statistic, found in statistics.items()
        ),
        numbers=numbers,
    )


def verdicts(analysis: Data) -> pd.DataFrame:
    """Return the verdict on each run and, without a run, on each group of them."""
    judged = [(run["group"], run["name"], run) for run in analysis["runs"]]
    judged += [(group["group"], None, group) for group in analysis["groups"]]
    return frame(
        {"group": group, "run": run, "transform": transform, **verdict}
        for group, run, of in judged
        for transform, verdict in of["verdicts"].items()
    )


def groups(analysis: Data) -> pd.DataFrame:
    """Return means over the runs of each group: ranks, loss and score, and their deviations."""
    shown = (*RANKS, "loss", "score")
    return frame(
        (
            {
                **{key: group[key] for key in ("group", "task", "model", "parameterization")},
                "n": len(group["runs"]),
                **_means({key: group[key] for key in shown}),
            }
            for group in analysis["groups"]
        ),
        numbers=[f"{key}_{end}" for key in shown for end in ("mean", "sd")],
    )


def group_spectra(analysis: Data) -> pd.DataFrame:
    """Return means over the runs of each group of the measures of their means over matrices."""
    numbers = ("mean", "sd", "null", "null_sd")
    return frame(
        (
            {
                "group": group["group"],
                "transform": transform,
                "measure": measure,
                **{key: values[key] for key in numbers},
            }
            for group in analysis["groups"]
            for transform, spectrum in group["spectra"].items()
            for measure, values in spectrum.items()
        ),
        numbers=numbers,
    )


def _matrices(analysis: Data) -> Iterator[tuple[Data, Data]]:
    return ((run, matrix) for run in analysis["runs"] for matrix in run["matrices"])


def _layer(run: Data, matrix: Data) -> Data:
    names = {key: matrix[key] for key in ("layer", "block", "kind")}
    return {"run": run["name"], "group": run["group"], **names}


def _measured(spectrum: Data) -> Iterable[Data]:
    for measure, values in spectrum.items():
        yield {"measure": measure} | {name: values[key] for key, name in MEASURE.items()}


def _means(fields: Data) -> Data:
    return {
        f"{key}_{end}": None if values is None else values[end]
        for key, values in fields.items()
        for end in ("mean", "sd")
    }
