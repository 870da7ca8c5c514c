"""Figures of a coordinates.json: sizes against width, depth and step, and errors of rebuilt W."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from zoo.pages import style
from zoo.pages.data import Data, field_values, or_nan, unique
from zoo.pages.style import Figure
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import SIZE_MEASURES, series

SHOWN = (
    "weight",
    "gradient",
    "coef. gradient",
    "second moment",
    "update",
    "update, spectral",
    "W in bfloat16",
    "outputs at start",
    "outputs' change",
    "stream's change",
    "last block's change",
    "logits' change",
)
STEPS = ("outputs' change", "stream's change", "logits' change")
SHORT = {
    "float32": "float32",
    "rounded": "W rounded to bfloat16",
    "module": "module in bfloat16",
    "bases": "bases in bfloat16",
}
ROUNDING = 1.66e-3
"""Relative error of normal numbers rounded to bfloat16 (`rebuild.rebuild_errors` derives it)."""


@style.styled
def coordinates_figures(report: Data) -> dict[str, Figure]:
    """Draw the figures of a coordinates.json, by name.

    Returns:
        by_width and by_depth, where there are several; coordinate_check, by step; rebuild_error, if
        W is rebuilt.
    """
    figures = {}
    if len(report["widths"]) > 1:
        figures["by_width"] = against(report, "width", "depth", f"{report['at']['depth']} blocks")
        figures["coordinate_check"] = coordinate_check(report)
    if len(report["depths"]) > 1:
        figures["by_depth"] = against(report, "depth", "width", f"width {report['at']['width']}")
    if report["rebuild"]:
        figures["rebuild_error"] = rebuild_error(report["rebuild"])
    return figures


def against(report: Data, along: str, other: str, where: str) -> Figure:
    """Draw quantities after the last step against width or depth, a line per parameterization."""
    chosen = [
        measure
        for measure in SIZE_MEASURES
        if measure.label in SHOWN and any(cell[measure.quantity] for cell in report["cells"])
    ]
    title = f"Sizes against {along}, after {report['steps']} steps, at {where}"
    figure, axes = style.panels(title, len(chosen), 3, 1.75, along, sharex=True)
    figure.supylabel("rms")
    names, at = report["parameterizations"], report["at"][other]
    for ax, measure in zip(axes, chosen, strict=True):
        ax.set_title(measure.label)
        step = report["steps"] if measure.step is None else measure.step
        what = (measure.group, measure.quantity, step)
        for j, name in enumerate(names):
            x, y = series(report["cells"], name, *what, along, other, at)
            ax.plot(x, [or_nan(value) for value in y], label=name, **style.look(j))
        style.log_ticks(ax, report[f"{along}s"])
        style.log_axis(ax.yaxis, decades=1.1)
    style.legend(figure, [style.key(name, **style.look(j)) for j, name in enumerate(names)])
    return figure


def coordinate_check(report: Data) -> Figure:
    """Draw the change of outputs since step 0 against width, a line per step.

    A row of panels is of a parameterization. Yang et al., arXiv 2203.03466, appendix D.1.
    """
    names, depth = report["parameterizations"], report["at"]["depth"]
    chosen = [measure for measure in SIZE_MEASURES if measure.label in STEPS]
    steps = np.arange(1, report["steps"] + 1)
    colours = dict(zip(steps.tolist(), style.depth(steps).to_rgba(steps), strict=True))
    title = f"Coordinate check: change since step 0 against width, at {depth} blocks"
    figure, axes = style.panels(title, 3 * len(names), 3, 1.75, "width", sharex=True, sharey="col")
    for ax, (name, measure) in zip(axes, product(names, chosen), strict=True):
        for step, colour in colours.items():
            what = (measure.group, measure.quantity, step)
            x, y = series(report["cells"], name, *what, "width", "depth", depth)
            look: Data = {"color": colour, "marker": "o", "markersize": 3.5}
            ax.plot(x, [or_nan(value) for value in y], label=str(step), **look)
        style.log_ticks(ax, report["widths"])
    for ax, measure in zip(axes[:3], chosen, strict=True):
        ax.set_title(measure.label)
        style.log_axis(ax.yaxis, decades=1.1)
    for ax, name in zip(axes[::3], names, strict=True):
        ax.set_ylabel(style.wrapped(name, 18))
    keys = [style.key(f"step {step}", colour, "-", "o") for step, colour in colours.items()]
    style.legend(figure, keys)
    return figure


def rebuild_error(rebuilt: Sequence[Data]) -> Figure:
    """Draw the relative error of W against its size, a line per way to build it."""
    names = unique(row["parameterization"] for row in rebuilt)
    title, labels = (
        "Error of a rebuilt matrix, relative to float64",
        ("rows and columns", "|W' - W| / |W|"),
    )
    figure, axes = style.panels(title, len(names), 2, 2.8, *labels, sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        rows = [row for row in rebuilt if row["parameterization"] == name]
        ax.set_title(style.plain(name))
        ax.axhline(ROUNDING, color=style.NULL, linestyle="--", label="rounding")
        sizes = [row["size"] for row in rows]
        for j, path in enumerate(PATHS):
            ax.plot(sizes, field_values(rows, path), label=path, **style.look(j))
        style.log_ticks(ax, sizes)
    style.log_axis(axes[0].yaxis, "{x:.0e}")
    keys = [style.key(SHORT[path], **style.look(j)) for j, path in enumerate(PATHS)]
    style.legend(figure, [*keys, style.key("rounding alone", style.NULL, "--")])
    return figure
