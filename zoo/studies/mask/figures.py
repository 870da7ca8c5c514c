"""Each figure of `zoo mask`: score, energy and bytes against the share of coefficients that is kept.

They take a whole mask.json, or a group of it. None stands for a figure that there is no data for.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.pages import style
from zoo.pages.style import Axes, Data, Figure, numbers
from zoo.studies.figures import each, present
from zoo.studies.verdicts import LEVEL

KEPT = "coefficients kept (%)"


def score_by_budget(group: Data, mask: Data) -> Figure:
    """Score against budget, a line per order with sd over runs, a panel per transform (SpectralLoRA, figs. 1, 2)."""
    transforms = mask["transforms"]
    title = f"Score of a masked update, by share of coefficients kept\n{style.wrapped(group['group'], 80)}"
    figure, axes, columns = _grid(title, len(transforms), sharex=True, sharey=True)
    unmasked, sd = style.number(group["unmasked"]["mean"]), style.number(group["unmasked"]["sd"])
    for i, transform in enumerate(transforms):
        ax = axes[i]
        style.tidy(
            ax,
            transform if len(transforms) > 1 else "",
            KEPT,
            _score_name(group) if i % columns == 0 else "",
        )
        ax.axhspan(unmasked - sd, unmasked + sd, color=style.NULL, alpha=0.25, linewidth=0)
        ax.axhline(unmasked, color=style.NULL, linestyle="--", label="unmasked")
        for j, order in enumerate(mask["orders"]):
            points = _points(group, transform, order)
            x, y, spread = (numbers(points, field) for field in ("budget", "mean", "sd"))
            colour = style.look(j)["color"]
            ax.fill_between(x, y - spread, y + spread, color=colour, alpha=0.18, linewidth=0)
            ax.plot(x, y, color=colour, label=order)
            found = np.array(
                [p["p_holm"] is not None and p["p_holm"] < LEVEL for p in points], bool
            )
            for where, face, label in ((~found, style.SURFACE, "open"), (found, colour, "filled")):
                ax.plot(
                    x[where],
                    y[where],
                    linestyle="",
                    markersize=5.5,
                    markerfacecolor=face,
                    label=f"{order}, {label}",
                    **style.look(j),
                )
        _budget_ticks(ax, mask["budgets"], columns)
    handles = [*_order_keys(mask), style.key("unmasked", style.NULL, "--")]
    if group["unmasked"]["sd"] is not None:
        handles.append(style.band(f"± sd over {group['n']} runs", style.NULL))
    if any(p["p_holm"] is not None for p in group["points"]):
        handles.append(style.key(f"filled: Holm p < {LEVEL}", style.MUTED, "", "o"))
    style.legend(figure, handles)
    return figure


def score_by_budget_all(mask: Data) -> Figure | None:
    """Score over that of the unmasked model against budget, all groups (SpectralLoRA, fig. 3).

    Groups whose unmasked score is not above 0 are left out: a share of it means nothing.
    """
    groups = [group for group in mask["groups"] if (group["unmasked"]["mean"] or 0) > 0]
    if len(groups) < 2:
        return None
    order = "magnitude" if "magnitude" in mask["orders"] else mask["orders"][0]
    title = f"Score of a masked update over the unmasked one ({mask['transforms'][0]}, {order})"
    figure, (ax,) = style.panels(title, 1, 1, 3.0)
    style.tidy(ax, "", KEPT, "score / unmasked score")
    ax.axhline(1, color=style.NULL, linestyle="--", label="unmasked")
    handles = []
    for i, group in enumerate(groups):
        points = _points(group, mask["transforms"][0], order)
        y = numbers(points, "mean") / group["unmasked"]["mean"]
        ax.plot(numbers(points, "budget"), y, label=group["group"], markersize=5, **style.look(i))
        lower = ", lower is better" if group["better"] == "lower" else ""
        handles.append(
            style.key(f"{group['group']} ({_score_name(group)}{lower})", **style.look(i))
        )
    style.percent(ax.yaxis)
    _budget_ticks(ax, mask["budgets"])
    style.legend(figure, handles)
    return figure


def energy_by_budget(mask: Data) -> Figure:
    """Share of the update's energy that a mask keeps against budget, mean over runs; a panel per group."""
    groups, transforms = mask["groups"], mask["transforms"]
    figure, axes, columns = _grid(
        "Energy of the update that a mask keeps", len(groups), sharex=True, sharey=True
    )
    for i, group in enumerate(groups):
        style.tidy(
            axes[i],
            style.wrapped(group["group"], 40),
            KEPT,
            "energy kept" if i % columns == 0 else "",
        )
        for j, order in enumerate(mask["orders"]):
            for dash, transform in zip(style.DASHES, transforms, strict=False):
                points = _run_means(
                    style.runs_of(mask, group), transform, order, lambda point: point["energy"]
                )
                x, y, label = list(points), list(points.values()), f"{order}, {transform}"
                axes[i].plot(x, y, linestyle=dash, markersize=4, label=label, **style.look(j))
        _budget_ticks(axes[i], mask["budgets"], columns)
        style.percent(axes[i].yaxis)
    dashes = [
        style.key(t, style.MUTED, dash) for t, dash in zip(transforms, style.DASHES, strict=False)
    ]
    style.legend(figure, [*_order_keys(mask), *(dashes if len(dashes) > 1 else [])])
    return figure


def bytes_by_score(mask: Data) -> Figure:
    """Score against bytes on disk, values and places, a line per order; beside dense dW and the run's own numbers."""
    groups, transform = mask["groups"], mask["transforms"][0]
    figure, axes, _ = _grid(f"Score against bytes on disk ({transform})", len(groups))
    for ax, group in zip(axes, groups, strict=False):
        runs = style.runs_of(mask, group)
        style.tidy(
            ax, style.wrapped(group["group"], 40), "bytes of values and places", _score_name(group)
        )
        dense, trained = (
            float(np.mean([run["bytes"][key] for run in runs])) for key in ("dense", "trained")
        )
        ax.axvline(dense, color=style.INK, linestyle="-.", linewidth=1.2, label="dense")
        ax.axvline(trained, color=style.INK, linestyle=":", linewidth=1.6, label="trained")
        ax.axhline(
            style.number(group["unmasked"]["mean"]),
            color=style.NULL,
            linestyle="--",
            label="unmasked",
        )
        shown = [dense, trained]
        for i, order in enumerate(mask["orders"]):
            x = list(_run_means(runs, transform, order, _total_bytes).values())
            y = list(_run_means(runs, transform, order, lambda point: point["value"]).values())
            ax.plot(x, y, markersize=4, label=order, **style.look(i))
            shown += x
        style.log_ticks(ax, shown, style.human_bytes)
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
    """A group's or run's points of one transform and order, by budget."""
    own = [p for p in data["points"] if (p["transform"], p["order"]) == (transform, order)]
    return sorted(own, key=lambda p: p["budget"])


def _run_means(
    runs: list[Data], transform: str, order: str, value: Callable[[Data], float | None]
) -> dict[float, float]:
    """By budget, the mean over runs of what `value` takes from a point."""
    found: dict[float, list[float]] = {}
    for run in runs:
        for point in _points(run, transform, order):
            found.setdefault(point["budget"], []).append(style.number(value(point)))
    return {budget: float(np.mean(values)) for budget, values in sorted(found.items())}


def _total_bytes(point: Data) -> float:
    return point["bytes"]["values"] + point["bytes"]["places"]


def _order_keys(mask: Data) -> list[Any]:
    return [style.key(order, **style.look(i)) for i, order in enumerate(mask["orders"])]


def _grid(title: str, count: int, **shared: bool) -> tuple[Figure, list[Axes], int]:
    """Axes in one column or two, and how many columns."""
    columns = min(2, count)
    figure, axes = style.panels(
        title, math.ceil(count / columns), columns, (3.0, 2.4)[columns - 1], **shared
    )
    style.hide(axes[count:])
    return figure, axes, columns


def _budget_ticks(ax: Axes, budgets: list[float], columns: int = 1) -> None:
    """A logarithmic axis with a tick at each budget, and its label where there is room, from the largest down."""
    x = sorted(budgets)
    low, high = x[0] / 1.2, x[-1] * 1.2
    labels: list[str] = []
    last = math.inf
    for budget in reversed(x):
        room = math.log(last / budget) > 0.04 * columns * math.log(high / low)
        labels.insert(0, f"{budget:g}" if room else "")
        last = budget if room else last
    ax.set_xscale("log")
    ax.set_xticks(x, labels)
    ax.set_xlim(low, high)
    ax.minorticks_off()
    ax.tick_params(labelbottom=True)


def mask_figures(mask: Data) -> dict[str, Figure]:
    """The figures of a mask.json, by name.

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
