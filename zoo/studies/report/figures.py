"""Figures of `zoo report`: loss by parameters, stable rank, step and learning rate, and gaps.

They take report data, or one comparison of it. None stands for a figure that there is no data for.
"""

import math
import statistics
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter

from zoo.pages import style
from zoo.pages.data import Data, field_values, or_nan, unique
from zoo.pages.numbers import engineering
from zoo.pages.style import Axes, Figure
from zoo.studies.figures import distinct, present, slug
from zoo.studies.report.cost_figure import loss_by_cost
from zoo.studies.report.families import (
    Family,
    at_edge,
    beside,
    beyond,
    by_budget,
    families,
    limits,
    mean_curve,
    reference_of,
    reported,
    share,
    sorted_budgets,
)
from zoo.studies.report.scaling_figure import loss_by_compute

SETTLED = 0.3
"""Share of training after which a loss is as low as the axis has to show."""


@style.styled
def figures(data: Data) -> dict[str, Figure]:
    """Draw the figures of a report, by name, which ends with the comparison's if there are several.

    Returns:
        For each comparison loss_by_parameters, loss_by_cost, gaps, loss_by_stable_rank,
        rank_over_training, loss_over_training and rate_sensitivity, less those without data; and of
        each family of sizes loss_by_compute.
    """
    drawn: dict[str, Figure] = {}
    for i, scaling in enumerate(data.get("scalings", ())):
        drawn[compute_name(i)] = loss_by_compute(scaling)
    for comparison, suffix in zip(data["comparisons"], suffixes(data), strict=True):
        of_comparison = {
            "loss_by_parameters": loss_by_parameters(comparison),
            "loss_by_cost": loss_by_cost(comparison),
            "gaps": gaps(comparison, data["margin"]),
            "loss_by_stable_rank": loss_by_stable_rank(comparison),
            "rank_over_training": over_training(comparison, "stable_rank"),
            "loss_over_training": over_training(comparison, "value"),
            "rate_sensitivity": rate_sensitivity(comparison),
        }
        drawn |= {name + suffix: figure for name, figure in present(of_comparison).items()}
    return drawn


def compute_name(number: int) -> str:
    """Return the name of the figure of a family of sizes."""
    return f"loss_by_compute{f'_{number + 1}' * (number > 0)}"


def suffixes(data: Data) -> list[str]:
    """Return what ends the names of each comparison's figures: nothing for a single one."""
    return distinct(
        f"_{slug(c['name'])}" if len(data["comparisons"]) > 1 else "" for c in data["comparisons"]
    )


def loss_by_parameters(comparison: Data) -> Figure | None:
    """Draw mean and interval against the number of coefficients, the reference across."""
    reference, methods = reference_of(comparison), comparison["methods"]
    ends = [field_values(methods, end) for end in ("low", "high")]
    shown = limits(field_values(methods, "mean"), ends, comparison["better"])
    if shown is None:
        return None
    x_label = "trainable coefficients, and their share of the weights they replace"
    figure, ax = _one_panel(comparison, "by number of coefficients", 3.3, x_label)
    ax.set_ylim(*shown)
    handles: list[Any] = []
    if reference is not None and reference["mean"] is not None:
        ax.axhline(reference["mean"], color=style.NULL, linestyle="--", label="reference")
        handles.append(style.key(reference["method"], style.NULL, "--"))
        if reference["low"] is not None:
            low, high = reference["low"], reference["high"]
            ax.axhspan(low, high, color=style.NULL, alpha=0.2, linewidth=0)
    drawn = [family for family in families(comparison) if family.methods != [reference]]
    out = 0
    for family in drawn:
        beside = [_beside(method, drawn) for method in family.methods]
        x = field_values(family.methods, "coefficients") * beside
        y, low, high = (field_values(family.methods, field) for field in ("mean", "low", "high"))
        ax.plot(x, y, **family.line(1), alpha=0.6, label="line")
        ax.vlines(x, low, high, color=family.color, linewidth=1.4)
        ax.plot(x, y, label=family.name, **family.points())
        out += at_edge(ax, x, y, family.color)
    handles += [family.key() for family in drawn]
    _count_ticks(ax, [method for family in drawn for method in family.methods] or methods)
    if any(method["low"] is not None for method in methods):
        handles.append(style.key("95 % interval over seeds", style.MUTED, marker="|"))
    style.legend(figure, handles, beyond(out))
    return figure


def gaps(comparison: Data, margin: float | None) -> Figure | None:
    """Draw mean gaps to the reference with paired intervals, best first, the margin as a band."""
    better = comparison["better"]
    rows = [m for m in comparison["methods"] if m["gap"] and m["gap"]["mean"] is not None]
    rows.sort(key=lambda method: method["gap"]["mean"], reverse=better == "higher")
    if not rows:
        return None
    names = [style.wrapped(method["method"], 36) for method in rows]
    heights = np.array([0.1 + 0.13 * (name.count("\n") + 1) for name in names])
    y = np.cumsum(heights) - heights / 2
    title = f"Gap to {style.wrapped(comparison['reference'], 60)}, over the seeds that both have"
    x_label = f"{comparison['metric']} minus the reference's, {better} is better"
    figure, (ax,) = style.panels(title, 1, 1, 0.8 + heights.sum(), x_label)
    ax.grid(False, axis="y")
    of_rows = [method["gap"] for method in rows]
    mean, low, high = (field_values(of_rows, field) for field in ("mean", "low", "high"))
    base = or_nan((reference_of(comparison) or {"mean": 0.0})["mean"])
    ends = [base + np.array([-(margin or 0.0), *low]), base + np.array([margin or 0.0, *high])]
    shown = limits([base, *(base + mean)], ends, better)
    left, right = np.subtract(shown, base) if shown else (-1.0, 1.0)
    ax.set_xlim(left, right)
    if margin:
        ax.axvspan(-margin, margin, color=style.NULL, alpha=0.2, linewidth=0)
    ax.axvline(0, color=style.NULL, linestyle="--", label="reference")
    owners = {m["method"]: family for family in families(comparison) for m in family.methods}
    out = 0
    for i, method in enumerate(rows):
        family = owners[method["method"]]
        ax.hlines(y[i], low[i], high[i], color=family.color, linewidth=1.4)
        equivalent = method["tost"] and method["tost"]["equivalent"]
        face = family.color if equivalent else style.SURFACE
        point = family.points("o", fillstyle="full", markerfacecolor=face)
        ax.plot([mean[i]], [y[i]], label=method["method"], **point)
        for edge, is_beyond, marker in ((left, mean[i] < left, 4), (right, mean[i] > right, 5)):
            if is_beyond:
                arrow: Data = {"marker": marker, "color": family.color, "label": "beyond"}
                ax.plot([edge], [y[i]], linestyle="", **arrow)
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
    """Draw each run by its stable rank, a marker per budget, a line through a family's means."""
    budgets = sorted_budgets(comparison["methods"])
    marks = {budget: style.MARKERS[i % len(style.MARKERS)] for i, budget in enumerate(budgets)}
    points = {
        m["method"]: [
            (r["stable_rank"], r["value"]) for r in reported(comparison, m) if r["stable_rank"]
        ]
        for m in comparison["methods"]
    }
    values = [value for of_method in points.values() for _, value in of_method]
    shown = limits(values, better=comparison["better"])
    if shown is None:
        return None
    x_label = "mean stable rank of the replaced weights"
    figure, ax = _one_panel(comparison, "by stable rank, run by run", 3.5, x_label)
    ax.set_ylim(*shown)
    out, handles = 0, []
    for family in families(comparison):
        methods = [method for method in family.methods if points[method["method"]]]
        if not methods:
            continue
        x, y = np.array([np.mean(points[method["method"]], 0) for method in methods]).T
        ax.plot(x, y, **family.line(1.2), label=family.name)
        for method in methods:
            x, y = np.array(points[method["method"]]).T
            look = family.points(marks[method["budget"]], markersize=4.5, alpha=0.85)
            ax.plot(x, y, label=method["method"], **look)
            out += at_edge(ax, x, y, family.color)
        handles.append(style.key(family.name, family.color, family.dash))
    style.log_axis(ax.xaxis)
    if len(budgets) > 1:
        handles += [style.key(share(budget), style.MUTED, "", marks[budget]) for budget in budgets]
    style.legend(figure, handles, beyond(out))
    return figure


def over_training(comparison: Data, field: str) -> Figure | None:
    """Draw stable rank or metric against the step, mean over seeds with sd, a panel per budget."""
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
    for ax, pairs in panels:
        for family, method in pairs:
            steps, mean, sd = curves[method["method"]]
            band: Data = {"color": family.color, "alpha": 0.18, "linewidth": 0}
            ax.fill_between(steps, mean - sd, mean + sd, **band)
            ax.plot(steps, mean, **family.line(1.4), label=method["method"])
            drawn[family.name] = family
        ax.locator_params(axis="x", nbins=4)
    settled = [
        mean[steps >= SETTLED * steps[-1]] for steps, mean, _ in curves.values() if len(steps)
    ]
    if rank:
        style.log_axis(ax.yaxis)
    elif shown := limits(np.concatenate(settled), better=comparison["better"]):
        ax.set_ylim(*shown)
    handles: list[Any] = [
        style.key(family.name, family.color, family.dash) for family in drawn.values()
    ]
    if any(np.isfinite(sd).any() for _, _, sd in curves.values()):
        handles.append(style.band("± sd over seeds", style.MUTED))
    style.legend(figure, handles)
    return figure


def rate_sensitivity(comparison: Data) -> Figure | None:
    """Draw the metric by learning rate in the search, a panel per budget, a ring at the chosen."""
    methods = comparison["methods"]
    searches = {
        m["method"]: [s for s in m["search"] or () if s["value"] is not None] for m in methods
    }
    every = [search for searched in searches.values() for search in searched]
    shown = limits([search["value"] for search in every], better=comparison["better"])
    if shown is None or all(len({s["lr"] for s in some}) < 2 for some in searches.values()):
        return None
    title = _title(comparison, "by learning rate, in the search")
    have = [name for name, searched in searches.items() if searched]
    figure, panels = by_budget(comparison, title, "learning rate", _metric(comparison), have)
    drawn: dict[str, Family] = {}
    out = 0
    for ax, pairs in panels:
        ax.set_ylim(*shown)
        for family, method in pairs:
            searched = searches[method["method"]]
            x, y = ([search[field] for search in searched] for field in ("lr", "value"))
            means = {
                rate: float(np.mean([s["value"] for s in searched if s["lr"] == rate]))
                for rate in sorted(set(x))
            }
            ax.plot(list(means), list(means.values()), **family.line(1.2), label=method["method"])
            ax.plot(x, y, label="searched", **family.points(markersize=4))
            if method["lr"] in means:
                ring = family.points("o", markersize=10, fillstyle="none")
                ax.plot([method["lr"]], [means[method["lr"]]], label="chosen", **ring)
            out += at_edge(ax, x, y, family.color)
            drawn[family.name] = family
        style.log_ticks(ax, [search["lr"] for search in every])
    chosen = style.key("chosen", style.MUTED, "", "o", filled=False)
    chosen.set_markersize(10)
    missing = sum(s["value"] is None for m in methods for s in m["search"] or ())
    note = [beyond(out), f"{missing} of the search diverged" if missing else ""]
    handles = [*(family.key() for family in drawn.values()), chosen]
    style.legend(figure, handles, "; ".join(filter(None, note)))
    return figure


def _beside(method: Data, drawn: list[Family]) -> float:
    """Return the factor that puts families of one budget side by side."""
    same = [
        each for family in drawn for each in family.methods if each["budget"] == method["budget"]
    ]
    # By count, or the place that is made for one were that of another.
    same.sort(key=lambda each: or_nan(each["coefficients"]))
    return beside(same.index(method), len(same))


def _count_ticks(ax: Axes, methods: list[Data]) -> None:
    """Put a tick at the most common count of each budget, or round ones where those would crowd."""
    style.log_axis(ax.xaxis, EngFormatter(sep=""))
    ticks = {
        budget: statistics.mode(m["coefficients"] for m in methods if m["budget"] == budget)
        for budget in unique(m["budget"] for m in methods)
        if budget is not None
    }
    places = sorted(ticks.values())
    low, high = ax.get_xlim()
    if places and all(math.log(b / a) > 0.1 * math.log(high / low) for a, b in pairwise(places)):
        labels = [f"{engineering(count)}\n{100 * budget:.3g} %" for budget, count in ticks.items()]
        ax.set_xticks(list(ticks.values()), labels)


def _one_panel(comparison: Data, rest: str, height: float, x: str) -> tuple[Figure, Axes]:
    figure, (ax,) = style.panels(_title(comparison, rest), 1, 1, height, x, _metric(comparison))
    return figure, ax


def _title(comparison: Data, rest: str) -> str:
    better = " (higher is better)" if comparison["better"] == "higher" else ""
    return f"{_metric(comparison)} {rest}{better}"


def _metric(comparison: Data) -> str:
    return f"Validation {comparison['metric']}"
