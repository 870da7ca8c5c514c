"""How figures look: one palette, one kind of axes, legends that never cover data, files with the same bytes each time.

No pyplot and no setting of matplotlib is changed; the palette is Okabe and Ito's (Color Universal
Design, 2008), which readers with any colour vision tell apart.
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
    from matplotlib import rc_context
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter
except ModuleNotFoundError:
    raise UserError(
        "figures need matplotlib, which is not installed: pip install 'zoo[lab]'"
    ) from None

Data = dict[str, Any]

INK, MUTED, GRID, SURFACE = "#24292f", "#6b7280", "#e3e6ea", "#ffffff"
"""Text and frame, secondary text, grid lines, background: a page in a dark scheme puts others in their places."""
NULL = "#8a8f98"
"""What is there to compare with, never data."""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "h")
DASHES = ("-", "--", ":", "-.")
WIDTH = 7.0
"""Inches. Embedded 700 pixels wide, text of 9 points is then 12 pixels high."""
DEPTH = LinearSegmentedColormap.from_list("depth", ["#3d6fd6", "#8f5fc4", "#cf5377", "#e5892c"])
"""First block to last; of a middle lightness throughout, to be seen on white and on black."""
TYPE = 9
TEXT: Data = {"fontsize": TYPE, "color": INK}
SMALL: Data = {"fontsize": TYPE - 1, "color": INK}
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "zoo"}


def plain(text: object) -> str:
    """Any text as one that matplotlib takes as it is: no formulas, no characters that SVG cannot hold."""
    return "".join(c if c.isprintable() else " " for c in str(text)).replace("$", r"\$")


def wrapped(text: object, width: int = 26) -> str:
    """A name in lines of at most `width` characters, broken at blanks, and at signs only in words that are longer."""
    lines = [""]
    for word in plain(text).split():
        parts = [word] if len(word) <= width else re.split(r"(?<=[./_-])", word)
        for i, part in enumerate(piece for long in parts for piece in textwrap.wrap(long, width)):
            joined = f"{lines[-1]} {part}" if i == 0 and lines[-1] else lines[-1] + part
            lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return "\n".join(lines)


def panels(
    title: str, rows: int, columns: int, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns axes, each `height` inches high, and those axes row by row.

    Args:
        title: says what is shown.
        rows: of axes.
        columns: of axes.
        height: of a row, in inches.
        shared: `sharex` and `sharey` of `Figure.subplots`.
    """
    lines = title.count("\n") + 1
    figure = Figure((WIDTH, rows * height + 0.2 * lines), layout="constrained", facecolor=SURFACE)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TYPE + 1, fontweight="bold", color=INK)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def tidy(ax: Axes, title: str, x: str, y: str = "", grid: str | None = "both") -> None:
    """Give axes a title and labels, a light grid behind the data, and two sides instead of a box."""
    ax.set_facecolor(SURFACE)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(
        which="both", labelsize=TYPE - 1, color=MUTED, labelcolor=INK, width=0.8, length=3
    )
    ax.minorticks_off()
    if grid:
        ax.grid(True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    ax.set_title(title, loc="left", **TEXT)
    ax.set_xlabel(plain(x), **TEXT)
    ax.set_ylabel(plain(y), **TEXT)


def hide(axes: Iterable[Axes]) -> None:
    """Take away what a grid of axes has too many."""
    for ax in axes:
        ax.set_axis_off()


def percent(*axes: Axis) -> None:
    """Write shares as percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1))


def ink_on(colour: Any) -> str:
    """Black or white, whichever is read better on a colour; the same in a page's dark scheme."""
    return "#101010" if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5 else "#fefefe"


def key(
    label: object, color: str, line: Any = "-", marker: str = "", filled: bool = True
) -> Line2D:
    """An entry of a legend."""
    face = color if filled else SURFACE
    return Line2D(
        [], [], color=color, linestyle=line, marker=marker, markerfacecolor=face, label=plain(label)
    )


def band(label: str, color: str) -> Patch:
    """An entry of a legend for a shaded range."""
    return Patch(color=color, alpha=0.2, linewidth=0, label=plain(label))


def legend(figure: Figure, handles: Sequence[Artist], note: str = "") -> None:
    """A legend under the axes, in as many columns as its longest label allows.

    The figure grows by its height.

    Args:
        figure: of axes that are done.
        handles: with labels.
        note: a line above it, such as what is not shown.
    """
    labels = [wrapped(str(handle.get_label()).replace(r"\$", "$"), 80) for handle in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = min(len(labels), max(1, int(88 / (longest + 6))))
    rows = math.ceil(len(labels) / columns) + sum(label.count("\n") for label in labels)
    rows += wrapped(note, 100).count("\n") + 1 if note else 0
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    # matplotlib leaves out labels that begin with an underscore
    shown = [f" {label}" if label.startswith("_") else label for label in labels]
    box = figure.legend(
        handles,
        shown,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handlelength=2.2,
        labelcolor=INK,
        fontsize=TYPE - 1,
        title=wrapped(note, 100),
        title_fontsize=TYPE - 1,
    )
    box.get_title().set(color=MUTED, multialignment="center")


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th series; more series than colours differ in their markers."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}


def depth(blocks: Iterable[int]) -> dict[int, Any]:
    """A colour for each block, first to last."""
    order = sorted(set(blocks))
    return {block: DEPTH(i / max(1, len(order) - 1)) for i, block in enumerate(order)}


def depth_bar(figure: Figure, axes: list[Axes], colours: dict[int, Any]) -> None:
    """A bar beside the axes that says which colour is which block, if there is more than one."""
    if len(colours) < 2:
        return
    blocks, n = list(colours), len(colours)
    scale = ScalarMappable(
        BoundaryNorm([i - 0.5 for i in range(n + 1)], n), ListedColormap(list(colours.values()))
    )
    ticks = range(0, n, math.ceil(n / 12))
    bar = figure.colorbar(scale, ax=axes, ticks=list(ticks), aspect=30, pad=0.02)
    bar.ax.set_yticklabels([str(blocks[i]) for i in ticks])
    tidy_bar(bar, "block")


def tidy_bar(bar: Any, label: str = "") -> None:
    """A colour bar without a frame."""
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=TYPE - 1, color=MUTED, labelcolor=INK, length=0)
    bar.set_label(label, **TEXT)


def log_ticks(
    ax: Axes, values: Iterable[float], labels: Any = "{:g}".format, axis: str = "x"
) -> None:
    """A logarithmic axis around values, with as many round ticks as do not crowd it, and at least one."""
    good = [value for value in values if value > 0 and math.isfinite(value)]
    if not good:
        return
    low, high = min(good) / 1.2, max(good) * 1.2
    if not (ticks := round_numbers(low, high)):
        middle = math.sqrt(low * high)
        low, high = middle / 1.42, middle * 1.42  # 1 and 2 are a factor 2 apart
        ticks = round_numbers(low, high)
    ticks = ticks[:: math.ceil(len(ticks) / 5)]
    ax.set(**{f"{axis}scale": "log"})
    ax.set(**{f"{axis}lim": (low, high)})
    ax.set(**{f"{axis}ticks": ticks, f"{axis}ticklabels": [labels(tick) for tick in ticks]})
    ax.minorticks_off()


def round_numbers(low: float, high: float) -> list[float]:
    """Numbers of one digit between two, few if the two are far apart."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in (range(1, 10), (1, 2, 5), (1, 3), (1,)):
        found = [
            step * 10.0**power
            for power in powers
            for step in steps
            if low <= step * 10.0**power <= high
        ]
        if len(found) <= 5:
            break
    return found


# ---- Data ----------------------------------------------------------------------------------------


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted name that no other name has, else the whole name."""
    short = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-i:]) for i in range(1, len(parts)))
        taken = [f".{other}" for other in names if other != name]
        short[name] = next(
            (end for end in ends if not any(o.endswith(f".{end}") for o in taken)), name
        )
    return short


def runs_of(data: Data, group: Data) -> list[Data]:
    """The runs of a group."""
    return [run for run in data["runs"] if run["group"] == group["group"]]


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order in which they come."""
    return list(dict.fromkeys(values))


def number(value: float | None) -> float:
    """A number that may be missing, for matplotlib: NaN is a gap."""
    return math.nan if value is None else float(value)


def numbers(items: Iterable[Data], field: str) -> np.ndarray:
    """A field of each item; NaN where it is missing."""
    return np.array([number(item[field]) for item in items])


def human_bytes(count: float) -> str:
    """500 B, 20 kB, 7.1 MB: powers of 1000, at most one decimal."""
    power = min(3, max(0, int(math.log10(max(count, 1)) + 1e-4) // 3))
    value = f"{count / 1000**power:.{min(power, 1)}f}".removesuffix(".0")
    return f"{value} {('B', 'kB', 'MB', 'GB')[power]}"


# ---- Files ---------------------------------------------------------------------------------------


def svg(figure: Figure) -> bytes:
    """A figure as SVG, text as text; the same bytes each time."""
    return _render(figure, "svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as PNG; the same bytes each time."""
    return _render(figure, "png", dpi=dpi, metadata={"Software": None})


def _render(figure: Figure, form: str, **options: Any) -> bytes:
    file = BytesIO()
    with rc_context(SETTINGS):
        figure.savefig(file, format=form, **options)
    return file.getvalue()


def save(figure: Figure, path: Path) -> bytes:
    """Write <path>.png and <path>.svg, and return the latter; `path` has no suffix, but may have dots in its name."""
    drawing = svg(figure)
    path.with_name(f"{path.name}.svg").write_bytes(drawing)
    path.with_name(f"{path.name}.png").write_bytes(png(figure))
    return drawing
