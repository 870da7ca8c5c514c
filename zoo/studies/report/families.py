"""Families of a report's methods: alike in all but their budget.

A family has one colour, marker and dash in every figure.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo.pages import style
from zoo.pages.data import Data, or_nan, unique
from zoo.pages.style import Axes, Figure, Line2D
from zoo.runs.names import BUDGET_ARGUMENTS, said

USUAL = "adamw"
"""An optimizer that is not named."""
FILLS = ("full", "none", "left")
WIDE = 3
"""An interval widens an axis by at most so many times what the means take."""
FAR = 1.5
"""A loss so many times the best may be that of a run that diverged."""
BESIDE = 1.12
"""Points of one place stand at most so far from it, as a factor."""
CURVE = 200
"""Points of a curve that are drawn."""


class Family(NamedTuple):
    """Methods that differ in their budget alone, by their number of coefficients."""

    name: str
    methods: list[Data]
    color: str
    marker: str
    dash: str
    fill: Any

    def points(self, marker: str | None = None, **more: Any) -> Data:
        """Return the style of its points, with its marker or one that says something else."""
        return {
            "color": self.color,
            "marker": marker or self.marker,
            "fillstyle": self.fill,
            "linestyle": "",
            "markersize": 5.5,
            **more,
        }

    def line(self, width: float) -> Data:
        """Return the style of a line through its points."""
        return {"color": self.color, "linestyle": self.dash, "linewidth": width, "marker": ""}

    def key(self) -> Line2D:
        """Make its entry in a legend."""
        handle = style.key(self.name, self.color, self.dash, self.marker)
        handle.set_fillstyle(self.fill)
        handle.set_markerfacecolor("none" if self.fill == "none" else self.color)
        return handle


def families(comparison: Data) -> list[Family]:
    """Return the families of a comparison's methods, those of most budgets first.

    A reference with no other budget is grey.
    """
    methods = comparison["methods"]
    groups: dict[str, list[Data]] = {}
    for method in methods:
        name = family_name(method, methods)
        if any(other["budget"] == method["budget"] for other in groups.get(name, ())):
            # Two of a family with one budget: alike in nothing that tells them apart.
            name = method["method"]
        groups.setdefault(name, []).append(method)
    drawn: list[Family] = []
    for name, alike in sorted(groups.items(), key=lambda item: -len(item[1])):
        ordered = sorted(alike, key=lambda method: or_nan(method["coefficients"]))
        if [method["method"] for method in alike] == [comparison["reference"]]:
            drawn.append(Family(name, ordered, style.NULL, "o", "--", "full"))
            continue
        i = sum(family.color != style.NULL for family in drawn)
        turn = i // len(style.PALETTE)
        dash, fill = style.DASHES[turn % len(style.DASHES)], FILLS[turn % len(FILLS)]
        drawn.append(Family(name, ordered, dash=dash, fill=fill, **style.look(i)))
    return drawn


def family_name(method: Data, methods: Sequence[Data]) -> str:
    """Return the parameterization, and what tells a method from others besides its budget."""
    alike = [other for other in methods if other["parameterization"] == method["parameterization"]]
    arguments, settings = method["arguments"], method["other"]
    differing = [
        key
        for key, value in arguments.items()
        if key not in BUDGET_ARGUMENTS
        and value is not None
        and len({str(o["arguments"].get(key)) for o in alike}) > 1
    ]
    unusual = [
        key
        for key, value in settings.items()
        if key.split(".")[-1] not in BUDGET_ARGUMENTS and value not in (None, False)
    ]
    several = len({other["optimizer"] for other in methods}) > 1
    optimizer = [str(method["optimizer"])] * (several and method["optimizer"] != USUAL)
    told = [*said(arguments, differing), *optimizer, *said(settings, unusual)]
    return " ".join([method["parameterization"], *told])


def reference_of(comparison: Data) -> Data | None:
    """Return the method that gaps are taken to."""
    return next((m for m in comparison["methods"] if m["method"] == comparison["reference"]), None)


def reported(comparison: Data, method: Data) -> list[Data]:
    """Return the runs that a method's means are over: not those that diverged."""
    seeds = method["seeds"]
    return [
        run
        for run in comparison["runs"]
        if run["value"] is not None
        and run["method"] == method["method"]
        and run["lr"] == method["lr"]
        and run["seed"] in seeds
    ]


def mean_curve(runs: Iterable[Data], field: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average curves over runs at the steps that all runs with a curve have.

    Args:
        runs: of one method.
        field: of their curves.

    Returns:
        steps, mean, sd: (n,) each, n at most CURVE; sd is NaN for one run.
    """
    curves = [
        {step: or_nan(value) for step, value in run["curves"].get(field) or ()} for run in runs
    ]
    curves = [curve for curve in curves if curve]
    steps = np.array(sorted(set.intersection(*map(set, curves))) if curves else [], float)
    steps = steps[
        np.unique(np.linspace(0, len(steps) - 1, min(CURVE, len(steps))).round().astype(int))
    ]
    values = np.array([[curve[step] for step in steps] for curve in curves]).reshape(
        len(curves), len(steps)
    )
    if not len(steps):
        return steps, steps, steps
    sd = values.std(0, ddof=1) if len(curves) > 1 else np.full(len(steps), math.nan)
    return steps, values.mean(0), sd


def beside(i: int, n: int) -> float:
    """Return a factor, within BESIDE, that puts the i-th of n points of one place beside it."""
    return float(min(1.04, BESIDE ** (2 / max(1, n - 1))) ** (i - (n - 1) / 2))


def limits(
    values: Iterable[float | None],
    ends: Sequence[Iterable[float | None]] = (),
    better: str = "lower",
) -> tuple[float, float] | None:
    """Find an axis on which a run that diverged, or a wide interval, does not squash all others.

    Losses are left out that are FAR times the best, and further from it than 4 times the median is.

    Args:
        values: to be shown.
        ends: all lows and all highs of their intervals, which widen the axis by at most WIDE times
            what values take.
        better: lower or higher.

    Returns:
        Where the axis starts and ends, if there is any value.
    """
    shown, *bounds = (np.array([or_nan(value) for value in some]) for some in (values, *ends))
    kept = np.isfinite(shown)
    if not kept.any():
        return None
    best = shown[kept].min()
    if better == "lower" and best > 0:
        kept &= shown <= max(FAR * best, best + 4 * (np.median(shown[kept]) - best))
    low, high = shown[kept].min(), shown[kept].max()
    room = WIDE * (high - low) if high > low else math.inf
    finite = [end for bound in bounds for end in bound[kept] if math.isfinite(end)]
    low, high = max(min([low, *finite]), low - room), min(max([high, *finite]), high + room)
    pad = 0.06 * (high - low) or 0.02 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def at_edge(ax: Axes, x: Iterable[float], y: Iterable[float | None], color: str) -> int:
    """Draw arrows at the edge of the axes for values beyond it, and return how many there are."""
    low, high = ax.get_ylim()
    out = [(a, b) for a, b in zip(x, map(or_nan, y), strict=True) if b > high or b < low]
    for a, b in out:
        edge, marker = (high, 6) if b > high else (low, 7)
        ax.plot([a], [edge], marker=marker, color=color, linestyle="", label="beyond")
    return len(out)


def beyond(count: int) -> str:
    """Return a note on values that are not on the axes."""
    return f"{count} value{'s' * (count != 1)} beyond the axis, at the arrows" if count else ""


def by_budget(
    comparison: Data, title: str, x: str, y: str, shown: Sequence[str]
) -> tuple[Figure, list[tuple[Axes, list[Any]]]]:
    """Make axes for each budget, largest first, with its methods, and the reference last.

    Args:
        comparison: of report data.
        title: of the figure.
        x: label.
        y: label.
        shown: methods that there is something to show of.

    Returns:
        The figure; for each axes, pairs of a family and a method.
    """
    reference = reference_of(comparison)
    pairs = [
        (family, m)
        for family in families(comparison)
        for m in family.methods
        if m["method"] in shown
    ]
    others = [pair for pair in pairs if pair[1] is not reference]
    budgets = sorted_budgets(method for _, method in others or pairs)
    columns, height = 2 if len(budgets) == 4 else 3, 2.9 if len(budgets) == 1 else 2.4
    figure, axes = style.panels(
        title, len(budgets), columns, height, x, y, sharex=True, sharey=True
    )
    paired = []
    for ax, budget in zip(axes, budgets, strict=True):
        ax.set_title(share(budget) if len(budgets) > 1 else "")
        of_budget = [pair for pair in others if pair[1]["budget"] == budget]
        paired.append((ax, of_budget + [pair for pair in pairs if pair[1] is reference]))
    return figure, paired


def sorted_budgets(methods: Iterable[Data]) -> list[float | None]:
    """Return the budgets of methods, largest first; None comes last."""
    budgets = unique(method["budget"] for method in methods)
    return sorted(budgets, key=lambda budget: 1.0 if budget is None else -or_nan(budget))


def share(budget: float | None) -> str:
    """Say a budget in words."""
    return "no budget" if budget is None else f"{100 * budget:.3g} % of the weights"
