"""Loss against compute over networks of several sizes: the frontier, and exponents of each method.

Comparisons that differ in nothing but the sizes of their network and their steps are one family.
Of each method the best loss at each compute is fitted by

    L(C) = E + A C^-b,

A and b of the method and E, what no compute takes away, of all together (Hoffmann et al., arXiv
2203.15556, without their split of C into sizes and tokens).
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from zoo.files.flat import Flat, frozen
from zoo.runs.names import short
from zoo.studies.report.costs import ALIKE, unbeaten

SIZES = ("width", "layers", "heads", "steps", "planned_steps")
"""Last words of conditions that may differ in a family."""
FEWEST = 3
"""Networks, and amounts of compute of a method that is fitted, that make a family."""


def scalings(
    comparisons: Sequence[tuple[Flat, dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Find families of networks, and return of each its points, frontier and fits.

    Args:
        comparisons: each with the conditions that its runs share.
    """
    groups: dict[Any, list[tuple[Flat, dict[str, Any]]]] = defaultdict(list)
    for conditions, comparison in comparisons:
        rest = {k: v for k, v in conditions.items() if k.rpartition(".")[2] not in SIZES}
        groups[frozen(rest)].append((conditions, comparison))
    found = []
    for group in groups.values():
        points = [point for each in group for point in _points(*each)]
        if len(group) >= FEWEST and points:
            first = group[0][1]
            found.append(
                {
                    # What the family has in common: not the sizes that tell its members apart.
                    "name": re.sub(rf", ({'|'.join(SIZES)})=[^,]*", "", first["name"]),
                    "metric": first["metric"],
                    "better": first["better"],
                    "points": points,
                    "frontier": frontier(points, first["better"]),
                    "fits": fit(points) if first["better"] == "lower" else [],
                }
            )
    return found


def _points(conditions: Flat, comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a point for each method whose compute and mean are known."""
    sizes = {
        key.rpartition(".")[2]: short(value)
        for key, value in conditions.items()
        if key.rpartition(".")[2] in SIZES
    }
    points = []
    for method in comparison["methods"]:
        flops = (method["cost"] or {}).get("total_training_flops")
        if flops and method["mean"] is not None:
            kept = {key: method[key] for key in ("method", "mean", "low", "high", "n", "lr")}
            points.append({**kept, "values": method["values"], "flops": flops, "sizes": sizes})
    return points


def frontier(points: Sequence[Mapping[str, Any]], better: str) -> list[int]:
    """Return the numbers of the points that none beats at as little compute, the cheapest first."""
    sign = -1 if better == "higher" else 1
    return unbeaten([(point["flops"], sign * point["mean"]) for point in points])


def envelope(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the points of a method that are best at their compute, the cheapest first."""
    kept: list[Mapping[str, Any]] = []
    for point in sorted(points, key=lambda point: point["flops"]):
        if kept and point["flops"] <= ALIKE * kept[-1]["flops"]:
            if point["mean"] < kept[-1]["mean"]:
                kept[-1] = point
        else:
            kept.append(point)
    return kept


def fit(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fit L = E + A C^-b to the runs of each method's envelope, with one E for all.

    Args:
        points: with method, flops, mean and values.

    Returns:
        A row for each method of at least `FEWEST` amounts of compute: method, exponent b, its 95 %
        interval from low to high, coefficient A at C in units of 10^12 FLOPs, and the asymptote E
        with its own interval; low and high are None where there are no more runs than unknowns.
        Nothing, if no fit is found.
    """
    methods = {
        name: envelope([point for point in points if point["method"] == name])
        for name in dict.fromkeys(point["method"] for point in points)
    }
    methods = {name: kept for name, kept in methods.items() if len(kept) >= FEWEST}
    rows = [
        (i, math.log(point["flops"] / 1e12), value)
        for i, kept in enumerate(methods.values())
        for point in kept
        for value in point["values"]
        if value is not None
    ]
    if not rows:
        return []
    which, compute, loss = (np.array(column) for column in zip(*rows, strict=True))

    def residuals(unknown: np.ndarray) -> np.ndarray:
        asymptote, scales, exponents = _parts(unknown)
        modelled: np.ndarray = asymptote + np.exp(scales[which] - exponents[which] * compute)
        return modelled - loss

    count, lowest = len(methods), float(loss.min())
    start = np.concatenate([[0.5 * lowest], np.full(count, math.log(0.5 * lowest)), [0.1] * count])
    low = np.concatenate([[0.0], np.full(2 * count, -np.inf)])
    high = np.concatenate([[lowest], np.full(2 * count, np.inf)])
    found = optimize.least_squares(residuals, start, bounds=(low, high), x_scale="jac")
    if not found.success:
        return []
    freedom, half = len(loss) - len(start), np.full(len(start), np.nan)
    if freedom > 0:
        inverse = np.linalg.pinv(found.jac.T @ found.jac)
        variance = np.diag(inverse) * 2 * found.cost / freedom
        half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    asymptote, scales, exponents = _parts(found.x)
    return [
        {
            "method": name,
            "exponent": float(exponents[i]),
            **_ends(exponents[i], half[1 + count + i]),
            "coefficient": float(np.exp(scales[i])),
            "asymptote": float(asymptote),
            **{f"asymptote_{key}": value for key, value in _ends(asymptote, half[0]).items()},
            "flops": [point["flops"] for point in kept],
        }
        for i, (name, kept) in enumerate(methods.items())
    ]


def _parts(unknown: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return E, and by method log A and b."""
    count = len(unknown) // 2
    return unknown[0], unknown[1 : 1 + count], unknown[1 + count :]


def _ends(value: float, half: float) -> dict[str, float | None]:
    if not math.isfinite(half):
        return {"low": None, "high": None}
    return {"low": float(value - half), "high": float(value + half)}
