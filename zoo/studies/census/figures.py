"""Figures of a census: every matrix and every adapter beside its null, and what would be seen.

Points of thousands of matrices are drawn as an image within the figure: as shapes they would make
a page of megabytes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoo.pages import style
from zoo.pages.data import Data
from zoo.pages.numbers import percent
from zoo.pages.style import Axes, Figure
from zoo.studies.census.planted import KINDS
from zoo.studies.census.summary import analysed, architecture
from zoo.studies.figures import present
from zoo.studies.spectra import MEASURE_LABELS
from zoo.studies.verdicts import PRIMARY

NAMED = len(style.PALETTE) - 1
"""Architectures that have a colour of their own."""
OTHERS = "others"


def census_figures(census: Data) -> dict[str, Figure]:
    """Draw all figures, by name; what has no data is left out."""
    draw: dict[str, Callable[[Data], Figure | None]] = {
        "k90_against_null": k90_against_null,
        "distance_by_transform": distance_by_transform,
        "claims": claims_beside_null,
        "k90_by_architecture": k90_by_architecture,
        "power": power,
    }
    return present({name: style.styled(make)(census) for name, make in draw.items()})


def k90_against_null(census: Data) -> Figure:
    """Draw k90 of each matrix against the mean of its null, a panel for two of the transforms."""
    transforms = census["transforms"][:1] + [t for t in census["transforms"][1:] if t == "haar"]
    figure, axes = style.panels(
        "k90 of each matrix against that of its null",
        len(transforms),
        2,
        4.2 if len(transforms) > 1 else 4.8,
        "k90, same singular values in random directions",
        "k90",
        sharex=True,
        sharey=True,
    )
    adapters = analysed(census["adapters"])
    looks = _looks(adapters)
    for ax, key in zip(axes, transforms, strict=True):
        ax.set_title(key)
        points = [
            (m["spectra"][key]["k90"]["null"], m["spectra"][key]["k90"]["value"])
            for each in adapters
            for m in each["matrices"]
        ]
        colours = [
            looks[_name(each, looks)]["color"] for each in adapters for _ in each["matrices"]
        ]
        x, y = np.array(points).T
        _points(ax, x, y, colours)
        ends = np.array([*ax.get_xlim(), *ax.get_ylim()])
        ax.axline((ends.min(), ends.min()), slope=1, color=style.NULL, linewidth=1)
        ax.set(xlim=(ends.min(), ends.max()), ylim=(ends.min(), ends.max()), aspect="equal")
    handles = [style.key(name, look["color"], "", "o") for name, look in looks.items()]
    style.legend(figure, [*handles, style.key("equal to the null", style.NULL)])
    return figure


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, colours: Sequence[Any]) -> None:
    """Draw many points as one image."""
    ax.scatter(x, y, s=6, c=colours, linewidths=0, antialiased=False, rasterized=True)


def _looks(adapters: Sequence[Data]) -> dict[str, dict[str, Any]]:
    """Give the commonest architectures a colour, and all others one."""
    counts = Counter(map(architecture, adapters))
    named = [name for name, _ in counts.most_common(NAMED)]
    names = named + [OTHERS] * (len(counts) > NAMED)
    return {name: style.look(i) for i, name in enumerate(names)}


def _name(adapter: Data, looks: dict[str, Any]) -> str:
    return name if (name := architecture(adapter)) in looks else OTHERS


def distance_by_transform(census: Data) -> Figure:
    """Draw how many deviations each adapter's mean is from its null, by transform and measure."""
    transforms = census["transforms"]
    figure, axes = style.panels(
        "Distance of each adapter's mean from its null, in standard deviations of that",
        len(PRIMARY),
        2,
        0.5 * len(transforms) + 1.4,
        "z",
        sharey=True,
    )
    jitter = np.random.default_rng(0)
    adapters = analysed(census["adapters"])
    for ax, measure in zip(axes, PRIMARY, strict=True):
        ax.set_title(MEASURE_LABELS[measure])
        ax.axvspan(-3, 3, color=style.NULL, alpha=0.2, linewidth=0)
        zs = [[each["mean"][key][measure]["z"] or 0.0 for each in adapters] for key in transforms]
        places = np.repeat(np.arange(len(transforms)), len(adapters))
        colours = [style.PALETTE[place % len(style.PALETTE)] for place in places]
        _points(ax, np.ravel(zs), places + jitter.uniform(-0.28, 0.28, len(places)), colours)
        ax.set_yticks(range(len(transforms)), transforms)
        ax.set_xscale("symlog", linthresh=5)
        ax.set_xticks([-30, -10, -5, 0, 5, 10, 30], ["-30", "-10", "-5", "0", "5", "10", "30"])
        ax.minorticks_off()
    axes[0].invert_yaxis()
    style.legend(figure, [style.band("within three deviations", style.NULL)])
    return figure


def claims_beside_null(census: Data) -> Figure | None:
    """Draw the correlations that are claimed of adapters, and the same of their nulls."""
    rows = [row for row in census["summary"]["claims"] if row["value"]["mean"] is not None]
    if not rows:
        return None
    figure, (ax,) = style.panels(
        "What is claimed of updates, and what their nulls have", 1, 1, 0.5 * len(rows) + 1.2
    )
    _beside_null(ax, rows)
    ax.set_yticks(range(len(rows)), [row["words"] for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-1.02, 1.02))
    ax.axvline(0, color=style.GRID, linewidth=1)
    style.legend(
        figure,
        [style.key("adapters", style.PALETTE[0], "", "o"), style.key("null", style.NULL, "", "o")],
        "means over adapters with 95 % intervals, an author counted once",
    )
    return figure


def k90_by_architecture(census: Data) -> Figure | None:
    """Draw k90 of the matrices of each architecture, and of their nulls."""
    rows = [row for row in census["summary"]["groups"] if row["by"] == "architecture"]
    rows.sort(key=lambda row: -row["value"]["adapters"])
    rows = rows[:12]
    if len(rows) < 2:
        return None
    transform = census["transforms"][0]
    figure, (ax,) = style.panels(f"k90 by architecture ({transform})", 1, 1, 0.32 * len(rows) + 1.2)
    _beside_null(ax, rows)
    names = [f"{row['name']} ({row['value']['adapters']})" for row in rows]
    ax.set_yticks(range(len(rows)), [style.plain(name) for name in names])
    ax.set(ylim=(len(rows) - 0.5, -0.5))
    style.legend(
        figure,
        [style.key("adapters", style.PALETTE[0], "", "o"), style.key("null", style.NULL, "", "o")],
        "means with 95 % intervals, an author counted once; in brackets the adapters",
    )
    return figure


def _beside_null(ax: Axes, rows: Sequence[Data]) -> None:
    """Draw means with intervals, one row below another, and those of their nulls under them."""
    for field, shift, colour in (("null", 0.15, style.NULL), ("value", -0.15, style.PALETTE[0])):
        found, y = [row[field] for row in rows], np.arange(len(rows)) + shift
        mean, low, high = (
            np.array([each["mean"] if each[end] is None else each[end] for each in found])
            for end in ("mean", "low", "high")
        )
        ends = [mean - low, high - mean]
        ax.errorbar(mean, y, xerr=ends, fmt="o", color=colour, markersize=5, capsize=0)


def power(census: Data) -> Figure | None:
    """Draw the share of adapters in which planted structure was found, a panel for each kind."""
    rows = census["summary"]["power"]
    kinds = [kind for kind in KINDS if kind != "nothing"]
    if not rows:
        return None
    figure, axes = style.panels(
        "Share of adapters in which planted structure is found",
        len(kinds),
        4,
        2.6,
        "energy planted",
        "found, p < 0.05",
        sharex=True,
        sharey=True,
    )
    strengths = sorted({row["strength"] for row in rows})
    for ax, kind in zip(axes, kinds, strict=True):
        ax.set_title(kind)
        for i, key in enumerate(census["transforms"]):
            share = {
                row["strength"]: row["share"]
                for row in rows
                if row["transform"] == key and row["kind"] in (kind, "nothing")
            }
            x = [strengths.index(strength) for strength in share]
            ax.plot(x, list(share.values()), markersize=4, **style.look(i))
        ax.set_xticks(range(len(strengths)), [percent(each, 0) for each in strengths])
        style.percent(ax.yaxis)
        ax.set_ylim(-0.03, 1.03)
    handles = [style.key(key, **style.look(i)) for i, key in enumerate(census["transforms"])]
    style.legend(figure, handles)
    return figure
