"""Loss against compute as a figure and as a table."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from zoo.pages import style
from zoo.pages.data import Data, unique
from zoo.pages.numbers import decimals, engineering, interval
from zoo.pages.style import Figure
from zoo.pages.table import Column, Table


def loss_by_compute(scaling: Data) -> Figure:
    """Draw mean and interval of each network against its compute, fits, and the frontier."""
    higher = scaling["better"] == "higher"
    title = f"Validation {scaling['metric']} by compute{' (higher is better)' * higher}"
    figure, (ax,) = style.panels(title, 1, 1, 4.0, "FLOPs of the whole training", scaling["metric"])
    fits = {each["method"]: each for each in scaling["fits"]}
    names, handles = unique(point["method"] for point in scaling["points"]), []
    for i, name in enumerate(names):
        look = style.look(i)
        points = [point for point in scaling["points"] if point["method"] == name]
        x = np.array([point["flops"] for point in points])
        ax.plot(x, [point["mean"] for point in points], label=name, **look | {"linestyle": ""})
        known = [point for point in points if point["low"] is not None]
        for point in known:
            ends = point["low"], point["high"]
            ax.vlines(point["flops"], *ends, color=look["color"], linewidth=1.2, alpha=0.6)
        if (found := fits.get(name)) is not None:
            along = np.geomspace(min(found["flops"]), max(found["flops"]), 60)
            y = found["asymptote"] + found["coefficient"] * (along / 1e12) ** -found["exponent"]
            ax.plot(along, y, color=look["color"], linewidth=1, label=f"fit of {name}")
        handles.append(style.key(name, **look))
    line = [scaling["points"][i] for i in scaling["frontier"]]
    ink: Data = {"color": style.INK, "linewidth": 1, "zorder": 1.5, "drawstyle": "steps-post"}
    ax.plot([p["flops"] for p in line], [p["mean"] for p in line], label="frontier", **ink)
    means = [point["mean"] for point in scaling["points"]]
    room = 0.08 * (max(means) - min(means)) + 1e-9
    ax.set_ylim(min(means) - room, max(means) + room)
    style.log_axis(ax.xaxis, EngFormatter(sep=""), 0.6)
    handles.append(style.key("frontier: none is as cheap and as good", style.INK))
    style.legend(figure, handles)
    return figure


def fits_table(scaling: Data) -> Table | None:
    """Return the exponents of a family's methods, steepest first; None if there are none."""
    if not scaling["fits"]:
        return None
    first = scaling["fits"][0]
    ends = interval(first["asymptote_low"], first["asymptote_high"], 2)
    caption = f"L = E + A C^-b, C in 10^12 FLOPs, E = {decimals(first['asymptote'], 2)} {ends}"
    columns = [
        Column("method", lambda row: row.method, left=True),
        Column("b", lambda row: decimals(row.exponent, 3)),
        Column("95 %", lambda row: interval(row.low, row.high, 3)),
        Column("A", lambda row: decimals(row.coefficient, 2)),
        Column("from", partial(_end, which=min)),
        Column("to", partial(_end, which=max)),
    ]
    frame = pd.DataFrame(scaling["fits"]).sort_values("exponent", ascending=False)
    return Table(frame, columns, caption.strip())


def _end(row: Any, which: Any) -> str:
    return engineering(which(row.flops))
