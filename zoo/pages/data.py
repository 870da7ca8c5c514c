"""The data of a report, as its tables, its figures and its page read it."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Data = dict[str, Any]


def runs_of(data: Data, group: Data) -> list[Data]:
    """Return the runs of a group."""
    return [run for run in data["runs"] if run["group"] == group["group"]]


def unique(values: Iterable[Any]) -> list[Any]:
    """Return each value once, in the order in which they come."""
    return list(dict.fromkeys(values))


def or_nan(value: float | None) -> float:
    """Return a number that may be missing as matplotlib takes it: NaN is a gap."""
    return math.nan if value is None else float(value)


def field_values(items: Iterable[Data], field: str) -> np.ndarray:
    """Return a field of each item; NaN where it is missing."""
    return np.array([or_nan(item[field]) for item in items])
