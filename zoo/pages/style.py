"""How figures look: a style file, axes in a grid, legends that never cover data, exact files.

A figure's files have the same bytes each time. No pyplot is used and no setting of matplotlib is
changed: what draws a figure is `styled`, within which matplotlib has the settings of the file.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UserError

try:
    from matplotlib import rc_context, rc_params_from_file
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
except ModuleNotFoundError:
    raise UserError(
        "figures need matplotlib, which is not installed: pip install -e '.[lab]'"
    ) from None

SETTINGS = rc_params_from_file(Path(__file__).with_name("zoo.mplstyle"), use_default_template=False)
styled = rc_context(SETTINGS)
"""Decorates what makes or draws a figure: matplotlib makes some parts not before they are drawn."""

INK, MUTED = SETTINGS["text.color"], SETTINGS["xtick.color"]
GRID, SURFACE = SETTINGS["grid.color"], SETTINGS["figure.facecolor"]
"""Text, secondary text, grid, background: a page in a dark scheme puts others in their places."""
NULL = "#8a8f98"
"""What is there to compare with, never data."""
PALETTE = tuple(SETTINGS["axes.prop_cycle"].by_key()["color"])
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "h")
DASHES = ("-", "--", ":", "-.")
DEPTH = LinearSegmentedColormap.from_list("depth", ["#3d6fd6", "#8f5fc4", "#cf5377", "#e5892c"])
"""First block to last; of a middle lightness throughout, to be seen on white and on black."""


def plain(text: object) -> str:
    """Return any text as one that SVG can hold."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def wrapped(text: object, width: int = 26) -> str:
    """Break a name into lines of at most `width` characters: at blanks, longer words at signs."""
    lines = [""]
    for word in plain(text).split():
        parts = [word] if len(word) <= width else re.split(r"(?<=[./_-])", word)
        for i, part in enumerate(piece for long in parts for piece in textwrap.wrap(long, width)):
            joined = f"{lines[-1]} {part}" if i == 0 and lines[-1] else lines[-1] + part
            lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return "\n".join(lines)


# ---- Axes ----------------------------------------------------------------------------------------


def panels(
    title: str, count: int, columns: int, height: float, x: str = "", y: str = "", **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of some axes, row by row.

    Where axes share a side, the outermost alone have its label.

    Args:
        title: of the figure, says what is shown.
        count: of axes.
        columns: at most.
        height: of a row, in inches.
        x: label.
        y: label.
        shared: `sharex` and `sharey` of `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    lines = title.count("\n") + 1
    figure = Figure((SETTINGS["figure.figsize"][0], rows * height + 0.2 * lines))
    figure.suptitle(title, x=0.01, ha="left")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for ax in axes[count:]:
        ax.remove()
    for i, ax in enumerate(axes[:count]):
        lowest = i + columns >= count or not shared.get("sharex")
        first = i % columns == 0 or not shared.get("sharey")
        ax.tick_params(labelbottom=lowest)
        ax.set(xlabel=plain(x) if lowest else "", ylabel=plain(y) if first else "")
    return figure, axes[:count]


def percent(*axes: Axis) -> None:
    """Write shares as percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1))


def log_axis(axis: Axis, form: Any = "{x:g}", decades: float = 0.0) -> None:
    """Make an axis logarithmic around what is drawn on it, with a few round ticks.

    matplotlib's own ticks of such an axis are powers of 10, of which there may be none, and its
    labels formulas. Without a value above 0 the axis stays as it is.

    Args:
        axis: of axes on which all is drawn.
        form: of labels, for `Axis.set_major_formatter`.
        decades: that it has at least, so that what is flat looks flat.
    """
    ax, name = axis.axes, axis.axis_name  # type: ignore[attr-defined]
    together = getattr(ax, f"get_shared_{name}_axes")().get_siblings(ax)
    if not any(math.isfinite(getattr(each.dataLim, f"minpos{name}")) for each in together):
        return
    ax.set(**{f"{name}scale": "log"})
    low, high = axis.get_view_interval()
    if (span := math.log10(high) - math.log10(low)) < decades:
        room = 10 ** ((decades - span) / 2)
        ax.set(**{f"{name}lim": (low / room, high * room)})
        span = decades
    steps = (1, 2, 5) if span < 1.7 else (1, 3) if span < 3 else (1,)
    axis.set_major_locator(
        MaxNLocator(4, steps=(1, 2, 5, 10)) if span < 0.5 else LogLocator(subs=steps, numticks=6)
    )
    axis.set_major_formatter(form)
    ax.minorticks_off()


def log_ticks(ax: Axes, values: Iterable[float]) -> None:
    """Make the x axis logarithmic, with a tick at each value.

    Its label stands where there is room, from the largest down.
    """
    x = sorted(set(values))
    columns = ax.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    character = 0.014 * columns * math.log(x[-1] / x[0])  # as wide as on the axis, about
    labels: list[str] = []
    last = math.inf
    for value in reversed(x):
        label = f"{value:g}"
        room = math.log(last / value) > (len(label) + 1) * character
        labels.insert(0, label if room else "")
        last = value if room else last
    ax.set_xscale("log")
    ax.set_xticks(x, labels)
    ax.minorticks_off()


# ---- Legends and colours -------------------------------------------------------------------------


def key(
    label: object, color: Any, line: Any = "-", marker: str = "", filled: bool = True
) -> Line2D:
    """Make an entry of a legend."""
    face = color if filled else SURFACE
    return Line2D(
        [], [], color=color, linestyle=line, marker=marker, markerfacecolor=face, label=plain(label)
    )


def band(label: str, color: str) -> Patch:
    """Make an entry of a legend for a shaded range."""
    return Patch(color=color, alpha=0.2, linewidth=0, label=plain(label))


def legend(figure: Figure, handles: Sequence[Artist], note: str = "") -> None:
    """Put a legend under the axes, in as many columns as fit; the figure grows by its height.

    Args:
        figure: of axes that are done.
        handles: with labels.
        note: a line above it, such as what is not shown.
    """
    labels = [wrapped(handle.get_label(), 80) for handle in handles]
    # matplotlib leaves out labels that begin with an underscore
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    for rows in range(1, len(labels) + 1):
        columns = math.ceil(len(labels) / rows)
        box = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, title=wrapped(note, 100)
        )
        extent = box.get_window_extent()
        if columns == 1 or extent.width < figure.bbox.width:
            break
        box.remove()
    box.get_title().set(color=MUTED, multialignment="center")
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def look(index: int) -> dict[str, Any]:
    """Return colour and marker of a series; more series than colours differ in their markers."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def ink_on(colour: Any) -> str:
    """Return black or white, as is read better on a colour, also in a page's dark scheme."""
    return "#101010" if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5 else "#fefefe"


def depth(blocks: Iterable[int]) -> ScalarMappable:
    """Give each block a colour, first to last: `to_rgba(block)` of what is returned."""
    order = sorted(set(blocks)) or [0]
    edges = np.arange(order[0] - 0.5, order[-1] + 1)
    return ScalarMappable(BoundaryNorm(edges, DEPTH.N), DEPTH)


def depth_bar(figure: Figure, axes: list[Axes], colours: ScalarMappable) -> None:
    """Put a bar beside the axes that says which colour is which block, if there are several."""
    if colours.norm.vmax - colours.norm.vmin > 1:  # type: ignore[operator]
        colour_bar(figure, axes, colours, ticks=MaxNLocator(12, integer=True), label="block")


def colour_bar(figure: Figure, axes: Any, colours: ScalarMappable, **more: Any) -> None:
    """Put a colour bar without a frame beside axes."""
    bar = figure.colorbar(colours, ax=axes, pad=0.02, aspect=30, **more)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.minorticks_off()
    bar.ax.tick_params(length=0)


# ---- Files ---------------------------------------------------------------------------------------


def svg(figure: Figure) -> bytes:
    """Draw a figure as SVG, text as text; the same bytes each time.

    What it has as an image, as many points, is as fine as a page shows it.
    """
    return _render(
        figure, "svg", dpi=100, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )


def png(figure: Figure, dpi: float = SETTINGS["savefig.dpi"]) -> bytes:
    """Draw a figure as PNG; the same bytes each time."""
    return _render(figure, "png", dpi=dpi, metadata={"Software": None})


@styled
def _render(figure: Figure, form: str, **options: Any) -> bytes:
    file = BytesIO()
    figure.savefig(file, format=form, **options)
    return file.getvalue()


def save(figure: Figure, path: Path) -> bytes:
    """Write <path>.png and <path>.svg, and return the latter.

    Args:
        figure: that is written.
        path: without a suffix; a dot in its name begins none.
    """
    drawing = svg(figure)
    path.with_name(f"{path.name}.svg").write_bytes(drawing)
    path.with_name(f"{path.name}.png").write_bytes(png(figure))
    return drawing
