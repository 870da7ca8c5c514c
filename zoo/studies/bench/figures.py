"""The figure of `zoo bench`: how many times a dense layer's time each parameterization takes."""

from collections.abc import Sequence
from typing import Any

from zoo.pages import style
from zoo.pages.data import unique
from zoo.pages.style import Figure


@style.styled
def bench_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw a forward and backward pass against tokens, a panel per shape and precision.

    Lines are medians, a line per parameterization, and shaded what is between the quartiles, of
    ratios to the dense layer, or to peft's if there is none.
    """
    compared = [row for row in rows if row["ratio"]]
    names = unique(row["name"] for row in compared)
    cells = unique((row["precision"], *row["shape"]) for row in compared)
    against = "dense" if "dense" in compared[0]["ratio"] else "peft"
    other = "a dense layer" if against == "dense" else "peft"
    title = f"Time of a forward and backward pass, as a ratio to {other}'s"
    figure, axes = style.panels(title, len(cells), 3, 2.6, "tokens", "ratio", sharey=True)
    for ax, cell in zip(axes, cells, strict=True):
        precision, m, n = cell
        ax.set_title(f"{m} x {n}, {precision}")
        ax.axhline(1, color=style.NULL, linestyle="--")
        for j, name in enumerate(names):
            line = {
                row["tokens"]: row["ratio"][against]["forward_backward"]
                for row in compared
                if row["name"] == name and (row["precision"], *row["shape"]) == cell
            }
            x = sorted(line)
            low, middle, high = ([line[t][q] for t in x] for q in ("low", "median", "high"))
            look = style.look(j)
            ax.plot(x, middle, label=name, **look)
            ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
        style.log_axis(ax.xaxis)
    style.log_axis(axes[0].yaxis)
    keys = [style.key(name, **style.look(j)) for j, name in enumerate(names)]
    style.legend(figure, [*keys, style.key(other, style.NULL, "--")])
    return figure
