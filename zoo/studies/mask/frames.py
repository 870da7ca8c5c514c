"""The numbers of masks as data frames, a row for each observation, in full precision."""

from collections.abc import Iterator

import pandas as pd

from zoo.pages.data import Data
from zoo.studies.frames import frame

MASK = ("transform", "order", "budget")


def runs(mask: Data) -> pd.DataFrame:
    """Return what is known of each run or network, and its score with all coefficients."""
    fields = ("path", "what", "task", "model", "parameterization", "seed", "metric", "better")
    return frame(
        (
            {
                "run": run["name"],
                "group": run["group"],
                **{key: run[key] for key in (*fields, "unmasked", "reported")},
                **{f"{key}_bytes": size for key, size in run["bytes"].items()},
                "notes": "; ".join(run["notes"]),
            }
            for run in mask["runs"]
        ),
        whole=["seed"],
        numbers=["unmasked", "reported"],
    )


def masks(mask: Data) -> pd.DataFrame:
    """Return what each mask leaves of each run: coefficients, energy, score and bytes."""
    return frame(
        (
            {
                **_names(run, point),
                "kept": point["kept"],
                "energy": point["energy"],
                "value": point["value"],
                "values_bytes": point["bytes"]["values"],
                "places_bytes": point["bytes"]["places"],
                "encoding": point["bytes"]["encoding"],
                "file_bytes": point["bytes"]["file"],
            }
            for run, point in _points(mask)
        ),
        whole=["file_bytes"],
        numbers=["value"],
    )


def draws(mask: Data) -> pd.DataFrame:
    """Return the score of each draw of each mask, of which random ones have several."""
    return frame(
        (
            {**_names(run, point), "draw": draw, "value": value}
            for run, point in _points(mask)
            for draw, value in enumerate(point["values"])
        ),
        numbers=["value"],
    )


def scores(mask: Data) -> pd.DataFrame:
    """Return means over the runs of a group, and their tests against all coefficients."""
    numbers = ("mean", "sd", "difference", "t", "p", "p_holm")
    return frame(
        (
            {
                "group": group["group"],
                "metric": group["metric"],
                "better": group["better"],
                "n": group["n"],
                "unmasked": group["unmasked"]["mean"],
                **{key: point[key] for key in (*MASK, *numbers)},
            }
            for group in mask["groups"]
            for point in group["points"]
        ),
        numbers=["unmasked", *numbers],
    )


def _points(mask: Data) -> Iterator[tuple[Data, Data]]:
    return ((run, point) for run in mask["runs"] for point in run["points"])


def _names(run: Data, point: Data) -> Data:
    return {"run": run["name"], "group": run["group"], **{key: point[key] for key in MASK}}
