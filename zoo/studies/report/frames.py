"""The numbers of a report as data frames, a row for each observation, in full precision."""

from collections.abc import Iterator

import pandas as pd

from zoo.pages.data import Data
from zoo.studies.frames import frame
from zoo.studies.report.tables import exported, ordered

WHOLE = (
    "coefficients",
    "trainable",
    "n",
    "cost_rows",
    "checkpoint_bytes",
    "decode_bytes",
    "search_trials",
)
WORDS = ("comparison", "method", "parameterization", "optimizer", "seeds", "devices")


def methods(report: Data) -> pd.DataFrame:
    """Return what report.csv holds: a row for each method of each comparison."""
    rows = exported(report)
    kinds = {key: "float64" for key in rows if key not in (*WORDS, "equivalent")}
    kinds |= {key: "Int64" for key in WHOLE if key in rows}
    return rows.astype({**kinds, "equivalent": "boolean"})


def comparisons(report: Data) -> pd.DataFrame:
    """Return what runs are compared within: the metric, the reference, and what all share."""
    return frame(
        {
            "comparison": comparison["name"],
            **{key: comparison[key] for key in ("metric", "better", "reference")},
            "methods": len(comparison["methods"]),
            "runs": len(comparison["runs"]),
            "search": comparison["search"]["words"],
            "settings": ", ".join(f"{k} {v}" for k, v in comparison["settings"].items()),
        }
        for comparison in report["comparisons"]
    )


def runs(report: Data) -> pd.DataFrame:
    """Return every run with its results."""
    fields = ("lr", "seed", "value", "loss", "score", "stable_rank", "coefficients", "steps")
    more = ("terminal_sd", "searched", "device", "command", "date")
    return frame(
        (
            {
                "comparison": comparison["name"],
                "run": run["name"],
                **{key: run[key] for key in ("path", "method", *fields, *more)},
            }
            for comparison, run in _runs(report)
        ),
        numbers=["lr", "value", "loss", "score", "stable_rank", "terminal_sd"],
    )


def curves(report: Data) -> pd.DataFrame:
    """Return the validation metric and the stable rank of every run by step."""
    return frame(
        (
            {
                "comparison": comparison["name"],
                **{key: run[key] for key in ("path", "method", "lr", "seed")},
                "quantity": quantity,
                "step": step,
                "value": value,
            }
            for comparison, run in _runs(report)
            for quantity, curve in run["curves"].items()
            for step, value in curve
        ),
        numbers=["lr", "value"],
    )


def search(report: Data) -> pd.DataFrame:
    """Return every trial of the searches, and whether its rate was chosen."""
    return frame(
        (
            {
                "comparison": comparison["name"],
                "method": method["method"],
                **trial,
                "chosen": trial["lr"] == method["lr"],
            }
            for comparison in report["comparisons"]
            for method in ordered(comparison)
            for trial in method["search"]
        ),
        numbers=["lr", "value"],
    )


def skipped(report: Data) -> pd.DataFrame:
    """Return what was left out, and why."""
    return pd.DataFrame(report["skipped"], columns=["path", "why"])


def _runs(report: Data) -> Iterator[tuple[Data, Data]]:
    return ((each, run) for each in report["comparisons"] for run in each["runs"])
