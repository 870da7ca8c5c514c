"""Each figure of `zoo report`: loss by parameters and by stable rank, over training and by learning rate, and gaps.

They take report data, or one comparison of it. None stands for a figure that there is no data for.
"""

import math
import statistics
from itertools import pairwise
from typing import Any

import numpy as np

from zoo.pages import style
from zoo.pages.style import Axes, Data, Figure, number, numbers
from zoo.studies.figures import slug
from zoo.studies.report.families import (
    Family,
    at_edge,
    beyond,
    by_budget,
    families,
    limits,
    mean_curve,
    reference_of,
    reported,
    share,
)

BESIDE = 1.12
"""Families of one budget stand at most so far from their place, as a factor."""
SETTLED = 0.3
"""Share of training after which a loss is as low as the axis has to show."""


def figures(data: Data) -> dict[str, Figure]:
    """The figures of a report, by name; of several comparisons, each has its own at the end of the name.

    Returns:
        For each comparison loss_by_parameters, gaps, loss_by_stable_rank, rank_over_training,
        loss_over_training and rate_sensitivity, less those without data.
    """
    found: dict[str, Figure] = {}
    for comparison, suffix in zip(data["comparisons"], suffixes(data), strict=True):
        own = {
            "loss_by_parameters": loss_by_parameters(comparison),
            "gaps": gaps(comparison, data["margin"]),
            "loss_by_stable_rank": loss_by_stable_rank(comparison),
            "rank_over_training": over_training(comparison, "stable_rank"),
            "loss_over_training": over_training(comparison, "value"),
            "rate_sensitivity": rate_sensitivity(comparison),
        }
        found |= {name + suffix: figure for name, figure in own.items() if figure is not None}
    return found


def suffixes(data: Data) -> list[str]:
    """What ends the names of each comparison's figures: nothing for a single one."""
    found: list[str] = []
    for comparison in data["comparisons"] if len(data["comparisons"]) > 1 else ():
        own = f"_{slug(comparison['name'])}"
        while own in found:  # names that differ in signs alone, or far behind
            own += "-"
        found.append(own)
    return found or [""] * len(data["comparisons"])


def loss_by_parameters(comparison: Data) -> Figure | None:
    """Mean and interval against the number of coefficients, a series per family, the reference across."""
    reference, methods = reference_of(comparison), comparison["methods"]
    shown = limits(
        numbers(methods, "mean"),
        [numbers(methods, end) for end in ("low", "high")],
        comparison["better"],
    )
    if shown is None:
        return None
    figure, (ax,) = style.panels(_title(comparison, "by number of coefficients"), 1, 1, 3.3)
    style.tidy(
        ax,
        "",
        "trainable coefficients, and their share of the weights they replace",
        _metric(comparison),
    )
    ax.set_ylim(*shown)
    handles: list[Any] = []
    if reference is not None and reference["mean"] is not None:
        ax.axhline(reference["mean"], color=style.NULL, linestyle="--", label="reference")
        handles.append(style.key(reference["method"], style.NULL, "--"))
        if reference["low"] is not None:
            ax.axhspan(
                reference["low"], reference["high"], color=style.NULL, alpha=0.2, linewidth=0
            )
    found = [family for family in families(comparison) if family.methods != [reference]]
    out = 0
    for family in found:
        x = numbers(family.methods, "coefficients") * [
            _beside(method, found) for method in family.methods
        ]
        y, low, high = (numbers(family.methods, field) for field in ("mean", "low", "high"))
        ax.plot(
            x, y, color=family.color, linestyle=family.dash, linewidth=1, alpha=0.6, label="line"
        )
        ax.vlines(x, low, high, color=family.color, linewidth=1.4)
        ax.plot(x, y, label=family.name, **family.points())
        out += at_edge(ax, x, y, family.color)
    handles += [family.key() for family in found]
    _count_ticks(ax, [method for family in found for method in family.methods] or methods)
    if any(method["low"] is not None for method in methods):
        handles.append(style.key("95 % interval over seeds", style.MUTED, marker="|"))
    style.legend(figure, handles, beyond(out))
    return figure


def gaps(comparison: Data, margin: float | None) -> Figure | None:
    """Mean gap to the reference with its paired interval, best first; equivalence is inside the band."""
    sign = 1 if comparison["better"] == "lower" else -1
    owners = {
        method["method"]: family for family in families(comparison) for method in family.methods
    }
    rows = [
        method
        for method in comparison["methods"]
        if method["gap"] and method["gap"]["mean"] is not None
    ]
    rows.sort(key=lambda method: sign * method["gap"]["mean"])
    if not rows:
        return None
    names = [style.wrapped(method["method"], 36) for method in rows]
    heights = np.array([0.1 + 0.13 * (name.count("\n") + 1) for name in names])
    y = np.cumsum(heights) - heights / 2
    title = f"Gap to {style.wrapped(comparison['reference'], 60)}, over the seeds that both have"
    figure, (ax,) = style.panels(title, 1, 1, 0.8 + heights.sum())
    style.tidy(
        ax,
        "",
        f"{comparison['metric']} minus the reference's, {comparison['better']} is better",
        grid="x",
    )
    found = [method["gap"] for method in rows]
    mean, low, high = (numbers(found, field) for field in ("mean", "low", "high"))
    base = number((reference_of(comparison) or {"mean": 0.0})["mean"])
    outer = ((-(margin or 0.0), low), (margin or 0.0, high))
    shown = limits(
        [base, *(base + mean)], [[base + o, *(base + e)] for o, e in outer], comparison["better"]
    )
    left, right = np.subtract(shown, base) if shown else (-1.0, 1.0)
    ax.set_xlim(left, right)
    if margin:
        ax.axvspan(-margin, margin, color=style.NULL, alpha=0.2, linewidth=0)
    ax.axvline(0, color=style.NULL, linestyle="--", label="reference")
    out = 0
    for i, method in enumerate(rows):
        family = owners[method["method"]]
        ax.hlines(y[i], low[i], high[i], color=family.color, linewidth=1.4)
        equivalent = bool(method["tost"] and method["tost"]["equivalent"])
        ax.plot(
            [mean[i]],
            [y[i]],
            label=method["method"],
            **family.points(
                "o", fillstyle="full", markerfacecolor=family.color if equivalent else style.SURFACE
            ),
        )
        for edge, beyond_it, marker in ((left, mean[i] < left, 4), (right, mean[i] > right, 5)):
            if beyond_it:
                ax.plot(
                    [edge], [y[i]], marker=marker, color=family.color, linestyle="", label="beyond"
                )
                out += 1
    ax.set_yticks(y, names)
    ax.set_ylim(heights.sum() + 0.05, -0.05)
    ax.tick_params(axis="y", length=0)
    handles: list[Any] = [style.key("reference", style.NULL, "--")]
    if np.isfinite(low).any():
        handles.append(style.key("95 % interval, paired by seed", style.MUTED))
    if margin:
        handles.append(style.band(f"margin of equivalence, ± {margin:g}", style.NULL))
    if any(method["tost"] for method in rows):
        handles.append(style.key("filled: equivalent", style.MUTED, "", "o"))
        handles.append(style.key("open: not shown to be", style.MUTED, "", "o", filled=False))
    style.legend(figure, handles, beyond(out))
    return figure


def loss_by_stable_rank(comparison: Data) -> Figure | None:
    """Each run by its stable rank, a marker per budget, a line through the means of a family's budgets."""
    budgets = style.unique(method["budget"] for method in comparison["methods"])
    budgets.sort(key=lambda budget: -number(budget) if budget is not None else 1.0)
    marks = {budget: style.MARKERS[i % len(style.MARKERS)] for i, budget in enumerate(budgets)}
    points = {
        m["method"]: [
            (run["stable_rank"], run["value"])
            for run in reported(comparison, m)
            if run["stable_rank"]
        ]
        for m in comparison["methods"]
    }
    ranks, values = np.array([point for own in points.values() for point in own]).reshape(-1, 2).T
    shown = limits(values, better=comparison["better"])
    if shown is None:
        return None
    figure, (ax,) = style.panels(_title(comparison, "by stable rank, run by run"), 1, 1, 3.5)
    style.tidy(ax, "", "mean stable rank of the replaced weights", _metric(comparison))
    ax.set_ylim(*shown)
    out, handles = 0, []
    for family in families(comparison):
        own = [
            (method, points[method["method"]])
            for method in family.methods
            if points[method["method"]]
        ]
        if not own:
            continue
        x, y = np.array([np.mean(found, 0) for _, found in own]).T
        ax.plot(x, y, color=family.color, linestyle=family.dash, linewidth=1.2, label=family.name)
        for method, found in own:
            x, y = np.array(found).T
            look = family.points(marks[method["budget"]], markersize=4.5, alpha=0.85)
            ax.plot(x, y, label=method["method"], **look)
            out += at_edge(ax, x, y, family.color)
        handles.append(style.key(family.name, family.color, family.dash))
    style.log_ticks(ax, ranks)
    if len(budgets) > 1:
        handles += [style.key(share(budget), style.MUTED, "", marks[budget]) for budget in budgets]
    style.legend(figure, handles, beyond(out))
    return figure


def over_training(comparison: Data, field: str) -> Figure | None:
    """Stable rank or metric against the step, mean over seeds with sd, a panel per budget and the reference in each."""
    curves = {
        m["method"]: mean_curve(reported(comparison, m), field) for m in comparison["methods"]
    }
    if not any(len(steps) > 1 for steps, _, _ in curves.values()):
        return None
    rank = field == "stable_rank"
    what = "Stable rank" if rank else _metric(comparison)
    title = "Stable rank over training" if rank else _title(comparison, "over training")
    have = [name for name, (steps, _, _) in curves.items() if len(steps)]
    figure, panels = by_budget(comparison, title, "step", what, have)
    drawn: dict[str, Family] = {}
    settled = np.concatenate(
        [mean[steps >= SETTLED * steps[-1]] for steps, mean, _ in curves.values() if len(steps)]
    )
    for ax, pairs in panels:
        for family, method in pairs:
            steps, mean, sd = curves[method["method"]]
            ax.fill_between(
                steps, mean - sd, mean + sd, color=family.color, alpha=0.18, linewidth=0
            )
            ax.plot(
                steps,
                mean,
                color=family.color,
                linestyle=family.dash,
                linewidth=1.4,
                label=method["method"],
            )
            drawn[family.name] = family
        if rank:
            everything = np.concatenate([mean for _, mean, _ in curves.values()])
            style.log_ticks(ax, everything, axis="y")
        elif shown := limits(settled, better=comparison["better"]):
            ax.set_ylim(*shown)
        ax.locator_params(axis="x", nbins=4)
    handles: list[Any] = [
        style.key(family.name, family.color, family.dash) for family in drawn.values()
    ]
    if any(np.isfinite(sd).any() for _, _, sd in curves.values()):
        handles.append(style.band("± sd over seeds", style.MUTED))
    style.legend(figure, handles)
    return figure


def rate_sensitivity(comparison: Data) -> Figure | None:
    """Metric against learning rate in the search, a panel per budget, the reference in each; the chosen rate ringed."""
    found = {
        m["method"]: [s for s in m["search"] or () if s["value"] is not None]
        for m in comparison["methods"]
    }
    every = [search for own in found.values() for search in own]
    shown = limits([search["value"] for search in every], better=comparison["better"])
    if shown is None or all(len({search["lr"] for search in own}) < 2 for own in found.values()):
        return None
    title = _title(comparison, "by learning rate, in the search")
    have = [name for name, own in found.items() if own]
    figure, panels = by_budget(comparison, title, "learning rate", _metric(comparison), have)
    rates = sorted({search["lr"] for search in every})
    drawn: dict[str, Family] = {}
    out = 0
    for ax, pairs in panels:
        ax.set_ylim(*shown)
        for family, method in pairs:
            own = found[method["method"]]
            x, y = ([search[field] for search in own] for field in ("lr", "value"))
            tried = sorted(set(x))
            mean = [
                float(np.mean([search["value"] for search in own if search["lr"] == rate]))
                for rate in tried
            ]
            ax.plot(
                tried,
                mean,
                color=family.color,
                linestyle=family.dash,
                linewidth=1.2,
                label=method["method"],
            )
            ax.plot(x, y, label="searched", **family.points(markersize=4))
            if method["lr"] in tried:
                best = mean[tried.index(method["lr"])]
                ax.plot(
                    [method["lr"]],
                    [best],
                    linestyle="",
                    marker="o",
                    markersize=10,
                    markerfacecolor="none",
                    color=family.color,
                    label="chosen",
                )
            out += at_edge(ax, x, y, family.color)
            drawn[family.name] = family
        style.log_ticks(ax, rates)
        if len(rates) <= 6:
            ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
            ax.minorticks_off()
    ring = style.key("chosen", style.MUTED, "", "o", filled=False)
    ring.set_markersize(10)
    missing = sum(
        search["value"] is None
        for method in comparison["methods"]
        for search in method["search"] or ()
    )
    note = [beyond(out), f"{missing} of the search diverged" if missing else ""]
    style.legend(
        figure, [*(family.key() for family in drawn.values()), ring], "; ".join(filter(None, note))
    )
    return figure


def _beside(method: Data, found: list[Family]) -> float:
    """A factor in [1 / BESIDE, BESIDE], by which families of one budget stand side by side on a logarithmic axis."""
    same = [
        each for family in found for each in family.methods if each["budget"] == method["budget"]
    ]
    same.sort(
        key=lambda each: number(each["coefficients"])
    )  # or a place of its own were that of another's
    n = len(same)
    return float(min(1.04, BESIDE ** (2 / max(1, n - 1))) ** (same.index(method) - (n - 1) / 2))


def _count_ticks(ax: Axes, methods: list[Data]) -> None:
    """A tick at the most common count of each budget, or round ones where those would crowd."""
    counts = numbers(methods, "coefficients")
    style.log_ticks(ax, [*(counts / BESIDE), *(counts * BESIDE)], _short)
    ticks = {
        budget: statistics.mode(m["coefficients"] for m in methods if m["budget"] == budget)
        for budget in style.unique(m["budget"] for m in methods)
        if budget is not None
    }
    places = sorted(ticks.values())
    low, high = ax.get_xlim()
    if places and all(math.log(b / a) > 0.1 * math.log(high / low) for a, b in pairwise(places)):
        ax.set_xticks(
            list(ticks.values()),
            [f"{_short(c)}\n{100 * budget:.3g} %" for budget, c in ticks.items()],
        )
        ax.minorticks_off()


def _title(comparison: Data, rest: str) -> str:
    better = " (higher is better)" if comparison["better"] == "higher" else ""
    return f"{_metric(comparison)} {rest}{better}"


def _metric(comparison: Data) -> str:
    return f"Validation {comparison['metric']}"


def _short(count: float) -> str:
    """500, 20k, 7M."""
    power = min(3, max(0, int(math.log10(max(count, 1)) + 1e-4) // 3))
    return f"{count / 1000**power:.3g}{('', 'k', 'M', 'G')[power]}"
