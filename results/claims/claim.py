"""A claim, the rules by which one holds, and how its numbers are written."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from results.rows import Row, gap
from zoo.studies.statistics import interval

HOLDS, WITH_NULL = "holds", "holds and so does its null"
FAILS, OPEN = "does not hold", "not tested"


class Claim(NamedTuple):
    """A row of the table."""

    of: str
    claim: str
    verdict: str
    number: str
    n: str
    command: str


def holds(condition: bool, null: bool = False) -> str:
    """Say whether what was measured bears a claim, and whether its null does as well."""
    return (WITH_NULL if null else HOLDS) if condition else FAILS


def below(*samples: Sequence[float]) -> bool:
    """Tell whether the 95 % interval of each mean difference lies below 0."""
    bounds = [interval(sample) for sample in samples]
    return all(each is not None and each[1] < 0 for each in bounds)


def includes_zero(sample: Sequence[float]) -> bool:
    """Tell whether the 95 % interval of a mean difference has 0 in it."""
    bounds = interval(sample)
    return bounds is None or bounds[0] <= 0 <= bounds[1]


def listed(numbers: Mapping[str, str]) -> str:
    """Write several numbers, each with what it is of."""
    return "; ".join(f"{name}: {number}" for name, number in numbers.items())


def gaps(samples: Mapping[str, Sequence[float]], digits: int = 3) -> str:
    """Write differences with their intervals, each with what it is of."""
    return listed({name: gap(sample, digits) for name, sample in samples.items()})


def quartiles(row: Row, before: str = "") -> str:
    """Write a ratio with its quartiles."""
    low, _, high = row[f"{before}quartiles"].partition("-")
    ratio, low, high = (f"{float(x):.2f}" for x in (row[f"{before}ratio"], low, high))
    return f"{ratio} (quartiles {low} to {high})"


def link(*names: str) -> str:
    """Link tables."""
    return ", ".join(f"[{name}.csv]({name}.csv)" for name in names)
