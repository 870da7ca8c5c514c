"""The figure of loss by cost: a panel for each cost, the frontier as a line, its methods named."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from zoo.pages import style
from zoo.pages.data import Data, field_values
from zoo.pages.style import Axes, Figure
from zoo.studies.report.costs import ALIKE, PANELS, cost_of, frontiers, priced
from zoo.studies.report.families import at_edge, beside, beyond, families, limits

DECADES = 0.6
"""An axis of costs has at least so many, so that what is alike looks alike."""
TIED = 3
"""Of one cost and mean so many are named each, and of more the first alone."""
NEAR = 5
"""How far, in points, a name stands from its marker at least."""
PLACES = np.array(
    sorted(
        (
            (side * (NEAR + right), level * (NEAR + up))
            for side, level in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            for right, up in product((0, 30, 60, 90, 120), (0, 11, 22, 33, 44))
        ),
        key=lambda place: math.hypot(*place),
    )
)
"""Where a name may stand, the nearest first, below before above: a frontier has nothing there."""


def loss_by_cost(comparison: Data) -> Figure | None:
    """Draw mean and interval against each cost that is known, and the frontier as a line."""
    methods = comparison["methods"]
    fields = [field for field in PANELS if priced(methods, field)]
    ends = [field_values(methods, end) for end in ("low", "high")]
    shown = limits(field_values(methods, "mean"), ends, comparison["better"])
    if shown is None or not fields:
        return None
    on_line = frontiers(methods, comparison["better"])
    higher = comparison["better"] == "higher"
    title = f"Validation {comparison['metric']} by cost{' (higher is better)' * higher}"
    figure, axes = style.panels(title, len(fields), 1, 2.5, "", comparison["metric"])
    drawn, out, named = families(comparison), 0, []
    owners = {m["method"]: family for family in drawn for m in family.methods}
    for ax, field in zip(axes, fields, strict=True):
        ax.set(ylim=shown, xlabel=PANELS[field])
        points = _points(priced(methods, field), field)
        for method in methods:
            if method["method"] in points:
                family, (x, y) = owners[method["method"]], points[method["method"]]
                ax.vlines(x, *_ends(method), color=family.color, linewidth=1.4, alpha=0.6)
                ax.plot([x], [y], label=method["method"], **family.points())
                out += at_edge(ax, [x], [y], family.color)
        frontier = {name: points[name] for name in on_line[field]}
        line: Data = {"color": style.INK, "linewidth": 1, "zorder": 1.5, "label": "frontier"}
        ax.plot(*zip(*frontier.values(), strict=True), drawstyle="steps-post", **line)
        style.log_axis(ax.xaxis, EngFormatter(sep=""), DECADES)
        named.append((ax, points, _labels(priced(methods, field), field, frontier)))
    handles: list[Any] = [family.key() for family in drawn]
    for handle in handles:
        handle.set_linestyle("")
    handles.append(style.key("frontier: none is as cheap and as good", style.INK))
    if any(method["low"] is not None for method in methods):
        handles.append(style.key("95 % interval over seeds", style.MUTED, marker="|"))
    style.legend(figure, handles, beyond(out))
    figure.draw_without_rendering()  # places of names are those of axes that are done
    for ax, points, frontier in named:
        _name(ax, points, frontier)
    return figure


def _labels(
    methods: Sequence[Data], field: str, frontier: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return what is written at which places: names, and one for all that more than `TIED` share.

    Args:
        methods: with their mean and cost.
        field: of the cost.
        frontier: the places of those that are named.
    """
    alike = defaultdict(list)
    for method in methods:
        if method["method"] in frontier:
            alike[cost_of(method, field), method["mean"]].append(method["method"])
    labels = {}
    for names in alike.values():
        if len(names) > TIED:
            labels[f"{names[0]} and {len(names) - 1} more"] = frontier[names[0]]
        else:
            labels |= {name: frontier[name] for name in names}
    return labels


def _ends(method: Data) -> tuple[float, float]:
    """Return the interval of a method's mean, or the mean twice."""
    low, high = (
        method[end] if method[end] is not None else method["mean"] for end in ("low", "high")
    )
    return low, high


def _points(methods: Sequence[Data], field: str) -> dict[str, tuple[float, float]]:
    """Return the place of each method's marker, those of one cost side by side.

    Args:
        methods: the cheapest first.
        field: of the cost.
    """
    costs = [cost_of(method, field) for method in methods]
    starts = [0, *(i for i, (a, b) in enumerate(pairwise(costs), 1) if b > ALIKE * a)]
    points = {}
    for start, end in zip(starts, [*starts[1:], len(costs)], strict=True):
        for i, method in enumerate(methods[start:end]):
            x = costs[start + i] * beside(i, end - start)
            points[method["method"]] = (x, method["mean"])
    return points


def _name(
    ax: Axes,
    points: dict[str, tuple[float, float]],
    named: dict[str, tuple[float, float]],
) -> None:
    """Write names beside their points, where they cover least of points, of names and of the edge.

    Args:
        ax: axes that are done.
        points: all that are drawn.
        named: those that get their name.
    """
    low, high = ax.get_ylim()
    inside, unit = np.array(ax.get_window_extent().extents), ax.figure.dpi / 72
    taken = _square(ax.transData.transform(list(points.values())), np.array(4 * unit))
    for method, (x, y) in named.items():
        if not low <= y <= high:
            continue
        text = ax.annotate(
            style.wrapped(method, 30),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7.5,
            linespacing=1,
            arrowprops={"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.6, "shrinkB": 2},
            bbox={"facecolor": style.SURFACE, "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )
        text.set_in_layout(False)
        size = np.array(Text.get_window_extent(text).size)
        covers = _covers(ax.transData.transform((x, y)), unit * PLACES, size, unit)
        outside = _shared(covers, covers) - _shared(covers, inside)
        bad = _shared(covers[:, :, None], taken).sum((1, 2)) + 10 * outside.sum(1)
        best = int(bad.argmin())
        taken = np.concatenate([taken, covers[best]])
        right, up = PLACES[best] > 0
        text.set(
            position=tuple(PLACES[best]),
            horizontalalignment="left" if right else "right",
            verticalalignment="bottom" if up else "top",
        )


def _covers(start: np.ndarray, ways: np.ndarray, size: np.ndarray, unit: float) -> np.ndarray:
    """Return what a name covers: its box, and squares on the way from its point to it.

    Args:
        start: (2,), the point; all is in pixels.
        ways: (p, 2), from the point to each place of the name.
        size: (2,), of the name.
        unit: pixels of a typographic point.

    Returns:
        Boxes of left, bottom, right and top: (p, 4, 4). A square on the point itself is empty.
    """
    near, far = start + ways, start + ways + np.sign(ways) * size
    boxes = [np.concatenate([np.minimum(near, far), np.maximum(near, far)], -1)]
    for share in (0.4, 0.6, 0.8):
        away = np.linalg.norm(share * ways, axis=-1, keepdims=True) > 6 * unit
        boxes.append(_square(start + share * ways, unit * away))
    return np.stack(boxes, 1)


def _square(places: np.ndarray, half: np.ndarray) -> np.ndarray:
    return np.concatenate([places - half, places + half], -1)


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the area that boxes share, (..., 4) each."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clip(0).prod(-1)
