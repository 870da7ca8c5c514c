"""The figure of `zoo bench`: how many times a dense layer's time each parameterization takes."""

import math
from collections.abc import Sequence
from typing import Any

from zoo.pages import style
from zoo.pages.style import Figure


def bench_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Forward and backward pass against tokens, a panel per shape and precision, a line per parameterization.

    Medians; the shaded range is between the quartiles. Against the dense layer, or peft's if there
    is none.
    """
    compared = [row for row in rows if row["ratio"]]
    names = style.unique(row["name"] for row in compared)
    cells = style.unique((row["precision"], *row["shape"]) for row in compared)
    columns = min(3, len(cells))
    against = "dense" if "dense" in compared[0]["ratio"] else "peft"
    other = "a dense layer's" if against == "dense" else "peft's"
    title = f"Time of a forward and backward pass, as a ratio to {other}"
    figure, axes = style.panels(title, math.ceil(len(cells) / columns), columns, 2.6, sharey=True)
    shown = [value for row in compared for value in _spread(row, against)]
    for i, (ax, cell) in enumerate(zip(axes, cells, strict=False)):
        precision, m, n = cell
        style.tidy(ax, f"{m} x {n}, {precision}", "tokens", "ratio" if i % columns == 0 else "")
        ax.axhline(1, color=style.NULL, linestyle="--")
        own = [row for row in compared if (row["precision"], *row["shape"]) == cell]
        for j, name in enumerate(names):
            line = sorted(
                (row for row in own if row["name"] == name), key=lambda row: row["tokens"]
            )
            x = [row["tokens"] for row in line]
            low, middle, high = (
                zip(*(_spread(row, against) for row in line), strict=True) if line else ((), (), ())
            )
            look = style.look(j)
            ax.plot(x, middle, markersize=4, label=name, **look)
            ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
        style.log_ticks(ax, [row["tokens"] for row in own])
        style.log_ticks(ax, [*shown, 0.9, 1.1], axis="y")
    style.hide(axes[len(cells) :])
    keys = [style.key(name, **style.look(j)) for j, name in enumerate(names)]
    style.legend(figure, [*keys, style.key(other.removesuffix("'s"), style.NULL, "--")])
    return figure


def _spread(row: dict[str, Any], against: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    found = row["ratio"][against]["forward_backward"]
    return found["low"], found["median"], found["high"]
