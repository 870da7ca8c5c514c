"""Figures of `zoo mask`: score, energy and bytes against the share of coefficients kept.

They take a whole mask.json, or a group of it. None stands for a figure that there is no data for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter

from zoo.pages import style
from zoo.pages.data import Data, field_values, or_nan, runs_of
from zoo.pages.style import Axes, Figure
from zoo.studies.figures import each, present
from zoo.studies.verdicts import LEVEL

KEPT = "coefficients kept (%)"


def score_by_budget(group: Data, mask: Data) -> Figure:
    """Draw score against budget, a line per order with sd over runs, a panel per transform.

    After SpectralLoRA, figs. 1 and 2.
    """
    transforms = mask["transforms"]
    name = style.wrapped(group["group"], 80)
    title = f"Score of a masked update, by share of coefficients kept\n{name}"
    figure, axes = _panels(title, len(transforms), KEPT, _score_name(group), shared=True)
    unmasked, sd = or_nan(group["unmasked"]["mean"]), or_nan(group["unmasked"]["sd"])
    for ax, transform in zip(axes, transforms, strict=True):
        ax.set_title(transform if len(transforms) > 1 else "")
        ax.axhspan(unmasked - sd, unmasked + sd, color=style.NULL, alpha=0.25, linewidth=0)
        ax.axhline(unmasked, color=style.NULL, linestyle="--", label="unmasked")
        for j, order in enumerate(mask["orders"]):
            points = _points(group, transform, order)
            x, y, sds = (field_values(points, field) for field in ("budget", "mean", "sd"))
            look = style.look(j)
            colour = look["color"]
            ax.fill_between(x, y - sds, y + sds, color=colour, alpha=0.18, linewidth=0)
            ax.plot(x, y, color=colour, label=order)
            differs = field_values(points, "p_holm") < LEVEL  # NaN, which no test has, does not
            for where, face, label in (
                (~differs, style.SURFACE, "open"),
                (differs, colour, "filled"),
            ):
                face_and_label = {"markerfacecolor": face, "label": f"{order}, {label}"}
                ax.plot(x[where], y[where], linestyle="", markersize=5.5, **face_and_label, **look)
        style.log_ticks(ax, mask["budgets"])
    handles = [*_order_keys(mask), style.key("unmasked", style.NULL, "--")]
    if group["unmasked"]["sd"] is not None:
        handles.append(style.band(f"± sd over {group['n']} runs", style.NULL))
    if any(p["p_holm"] is not None for p in group["points"]):
        handles.append(style.key(f"filled: Holm p < {LEVEL}", style.MUTED, "", "o"))
    style.legend(figure, handles)
    return figure


def score_by_budget_all(mask: Data) -> Figure | None:
    """Draw the score over that of the unmasked model against budget, all groups.

    After SpectralLoRA, fig. 3. Groups whose unmasked score is not above 0 are left out: a share of
    it means nothing.
    """
    groups = [group for group in mask["groups"] if (group["unmasked"]["mean"] or 0) > 0]
    if len(groups) < 2:
        return None
    order = "magnitude" if "magnitude" in mask["orders"] else mask["orders"][0]
    title = f"Score of a masked update over the unmasked one ({mask['transforms'][0]}, {order})"
    figure, (ax,) = _panels(title, 1, KEPT, "score / unmasked score")
    ax.axhline(1, color=style.NULL, linestyle="--", label="unmasked")
    handles = []
    for i, group in enumerate(groups):
        points = _points(group, mask["transforms"][0], order)
        y = field_values(points, "mean") / group["unmasked"]["mean"]
        ax.plot(field_values(points, "budget"), y, label=group["group"], **style.look(i))
        lower = ", lower is better" if group["better"] == "lower" else ""
        name = f"{group['group']} ({_score_name(group)}{lower})"
        handles.append(style.key(name, **style.look(i)))
    style.percent(ax.yaxis)
    style.log_ticks(ax, mask["budgets"])
    style.legend(figure, handles)
    return figure


def energy_by_budget(mask: Data) -> Figure:
    """Draw the share of an update's energy that masks keep, mean over runs, a panel per group."""
    groups, transforms = mask["groups"], mask["transforms"]
    title = "Energy of the update that a mask keeps"
    figure, axes = _panels(title, len(groups), KEPT, "energy kept", shared=True)
    for ax, group in zip(axes, groups, strict=True):
        ax.set_title(style.wrapped(group["group"], 40))
        runs = runs_of(mask, group)
        for j, order in enumerate(mask["orders"]):
            for dash, transform in zip(style.DASHES, transforms, strict=False):
                points = _run_means(runs, transform, order, lambda point: point["energy"])
                x, y, label = list(points), list(points.values()), f"{order}, {transform}"
                ax.plot(x, y, linestyle=dash, label=label, **style.look(j))
        style.log_ticks(ax, mask["budgets"])
        style.percent(ax.yaxis)
    dashes = [
        style.key(t, style.MUTED, dash) for t, dash in zip(transforms, style.DASHES, strict=False)
    ]
    style.legend(figure, [*_order_keys(mask), *(dashes if len(dashes) > 1 else [])])
    return figure


def bytes_by_score(mask: Data) -> Figure:
    """Draw score against bytes on disk, a line per order, beside dense dW and the trained run."""
    groups, transform = mask["groups"], mask["transforms"][0]
    title = f"Score against bytes on disk ({transform})"
    figure, axes = _panels(title, len(groups), "bytes of values and places")
    for ax, group in zip(axes, groups, strict=True):
        runs = runs_of(mask, group)
        ax.set_title(style.wrapped(group["group"], 40))
        ax.set_ylabel(style.plain(_score_name(group)))
        dense, trained = (
            float(np.mean([run["bytes"][key] for run in runs])) for key in ("dense", "trained")
        )
        ax.axvline(dense, color=style.INK, linestyle="-.", linewidth=1.2, label="dense")
        ax.axvline(trained, color=style.INK, linestyle=":", linewidth=1.6, label="trained")
        unmasked = or_nan(group["unmasked"]["mean"])
        ax.axhline(unmasked, color=style.NULL, linestyle="--", label="unmasked")
        for i, order in enumerate(mask["orders"]):
            x = _run_means(runs, transform, order, _total_bytes).values()
            y = _run_means(runs, transform, order, lambda point: point["value"]).values()
            ax.plot(list(x), list(y), label=order, **style.look(i))
        style.log_axis(ax.xaxis, EngFormatter("B"))
    marks = (
        ("dense dW", style.INK, "-."),
        ("the update as trained", style.INK, ":"),
        ("unmasked", style.NULL, "--"),
    )
    style.legend(figure, [*_order_keys(mask), *(style.key(*mark) for mark in marks)])
    return figure


def _score_name(group: Data) -> str:
    return group["metric"] or "score"


def _points(data: Data, transform: str, order: str) -> list[Data]:
    """Return a group's or run's points of one transform and order, by budget."""
    points = [p for p in data["points"] if (p["transform"], p["order"]) == (transform, order)]
    return sorted(points, key=lambda p: p["budget"])


def _run_means(
    runs: list[Data], transform: str, order: str, value: Callable[[Data], float | None]
) -> dict[float, float]:
    """Average over runs what `value` takes from a point, by budget."""
    values: dict[float, list[float]] = {}
    for run in runs:
        for point in _points(run, transform, order):
            values.setdefault(point["budget"], []).append(or_nan(value(point)))
    return {budget: float(np.mean(some)) for budget, some in sorted(values.items())}


def _total_bytes(point: Data) -> float:
    return point["bytes"]["values"] + point["bytes"]["places"]


def _order_keys(mask: Data) -> list[Any]:
    return [style.key(order, **style.look(i)) for i, order in enumerate(mask["orders"])]


def _panels(
    title: str, count: int, x: str, y: str = "", shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make axes in one column or two, which are then lower."""
    height = 3.0 if count == 1 else 2.4
    return style.panels(title, count, 2, height, x, y, sharex=shared, sharey=shared)


@style.styled
def mask_figures(mask: Data) -> dict[str, Figure]:
    """Draw the figures of a mask.json, by name.

    Returns:
        score_by_budget for each group; score_by_budget_all where there are several;
        energy_by_budget; bytes_by_score.
    """
    return present(
        {
            **each("score_by_budget", mask, lambda group, runs: score_by_budget(group, mask)),
            "score_by_budget_all": score_by_budget_all(mask),
            "energy_by_budget": energy_by_budget(mask),
            "bytes_by_score": bytes_by_score(mask),
        }
    )
