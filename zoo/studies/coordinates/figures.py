"""Figures of a coordinates.json: sizes against width and depth, by step, and the errors of rebuilt matrices."""

import math
from collections.abc import Iterable, Sequence

from zoo.pages import style
from zoo.pages.style import Axes, Data, Figure
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import MEASURES, series

SHOWN = (
    "weight",
    "gradient",
    "coef. gradient",
    "update",
    "update, spectral",
    "outputs at start",
    "outputs' change",
    "stream's change",
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
"""Relative error of normal numbers rounded to bfloat16 (`zoo.studies.coordinates.rebuild.rebuild_errors`)."""


def coordinates_figures(report: Data) -> dict[str, Figure]:
    """The figures of a coordinates.json, by name.

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
    """Each quantity after the last step against width or depth, a line per parameterization."""
    chosen = [measure for measure in MEASURES if measure.label in SHOWN]
    title = f"Sizes against {along}, after {report['steps']} steps, at {where}"
    figure, axes = style.panels(title, math.ceil(len(chosen) / 3), 3, 1.75, sharex=True)
    for i, (ax, measure) in enumerate(zip(axes, chosen, strict=True)):
        style.tidy(
            ax, measure.label, along if i >= len(chosen) - 3 else "", "rms" if i % 3 == 0 else ""
        )
        step = report["steps"] if measure.step is None else measure.step
        shown: list[float | None] = []
        for j, name in enumerate(report["parameterizations"]):
            x, y = series(
                report["cells"],
                name,
                measure.group,
                measure.quantity,
                step,
                along,
                other,
                report["at"][other],
            )
            ax.plot(
                x, [style.number(value) for value in y], markersize=4, label=name, **style.look(j)
            )
            shown += y
        _sizes(ax, report[f"{along}s"])
        _decade(ax, shown)
    style.legend(
        figure,
        [style.key(name, **style.look(j)) for j, name in enumerate(report["parameterizations"])],
    )
    return figure


def coordinate_check(report: Data) -> Figure:
    """Change of outputs since step 0 against width, a line per step, a row of panels per parameterization.

    Yang et al., arXiv 2203.03466, appendix D.1.
    """
    names, chosen = (
        report["parameterizations"],
        [measure for measure in MEASURES if measure.label in STEPS],
    )
    steps = range(1, report["steps"] + 1)
    title = (
        f"Coordinate check: change since step 0 against width, at {report['at']['depth']} blocks"
    )
    figure, axes = style.panels(title, len(names), 3, 1.75, sharex=True, sharey="col")
    colours = style.depth(steps)

    def line(name: str, place: int, step: int) -> tuple[list[int], list[float | None]]:
        measure = chosen[place]
        return series(
            report["cells"],
            name,
            measure.group,
            measure.quantity,
            step,
            "width",
            "depth",
            report["at"]["depth"],
        )

    for i, ax in enumerate(axes):
        row, place = divmod(i, 3)
        style.tidy(
            ax,
            chosen[place].label if row == 0 else "",
            "width" if row == len(names) - 1 else "",
            style.wrapped(names[row], 18) if place == 0 else "",
        )
        for step in steps:
            x, y = line(names[row], place, step)
            ax.plot(
                x,
                [style.number(value) for value in y],
                color=colours[step],
                marker="o",
                markersize=3.5,
                label=str(step),
            )
        _sizes(ax, report["widths"])
        _decade(
            ax, (value for name in names for step in steps for value in line(name, place, step)[1])
        )
    style.legend(figure, [style.key(f"step {step}", colours[step], "-", "o") for step in steps])
    return figure


def rebuild_error(rebuilt: Sequence[Data]) -> Figure:
    """Relative error of W against its size, a line per way to build it, a panel per parameterization."""
    names = style.unique(row["parameterization"] for row in rebuilt)
    columns = min(2, len(names))
    figure, axes = style.panels(
        "Error of a rebuilt matrix, relative to float64",
        math.ceil(len(names) / columns),
        columns,
        2.8,
        sharex=True,
        sharey=True,
    )
    values = [row[path] for row in rebuilt for path in PATHS if row[path]]
    room = [min(values) / 2, max(values) * 2] if values else []
    for i, (ax, name) in enumerate(zip(axes, names, strict=False)):
        own = [row for row in rebuilt if row["parameterization"] == name]
        style.tidy(ax, name, "rows and columns", "|W' - W| / |W|" if i % columns == 0 else "")
        ax.axhline(ROUNDING, color=style.NULL, linestyle="--", label="rounding")
        for j, path in enumerate(PATHS):
            y = style.numbers(own, path)
            ax.plot([row["size"] for row in own], y, markersize=4.5, label=path, **style.look(j))
        _sizes(ax, [row["size"] for row in own])
        style.log_ticks(ax, room, "{:.0e}".format, "y")
    style.hide(axes[len(names) :])
    keys = [style.key(SHORT[path], **style.look(j)) for j, path in enumerate(PATHS)]
    style.legend(figure, [*keys, style.key("rounding alone", style.NULL, "--")])
    return figure


def _sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each size."""
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)
    ax.minorticks_off()


def _decade(ax: Axes, values: Iterable[float | None]) -> None:
    """A logarithmic axis around values, of a decade at least, so that what is flat looks flat."""
    good = [value for value in values if value is not None and value > 0]
    if good:
        middle = math.sqrt(min(good) * max(good))
        style.log_ticks(ax, [*good, middle / 10**0.5, middle * 10**0.5], axis="y")
