"""Figures of `zoo analyze`: k90, energy and singular values beside nulls, rank against loss.

They take a whole analysis.json, or runs of it. None stands for a figure that there is no data for.
"""

import math
from typing import Any

import numpy as np

from zoo.pages import style
from zoo.pages.data import Data, field_values, or_nan, unique
from zoo.pages.style import Axes, Figure
from zoo.runs.names import short_names
from zoo.spectrum import GAUSSIAN
from zoo.studies.figures import each, present

FIRST_KINDS = ("query", "value", "q_proj", "v_proj")
"""Kinds of layer that are shown where not all can be: those that SpectralLoRA looks at."""
NULL_LINE: Data = {"color": style.NULL, "linestyle": "--"}
NULL_KEY: Data = {"color": style.NULL, "line": "--"}


def k90_by_task(analysis: Data) -> Figure:
    """Draw k90 of each group beside its null, a marker per transform with sd over runs.

    After SpectralLoRA, fig. 4.
    """
    groups, transforms = analysis["groups"], analysis["transforms"]
    row = 0.8 / len(transforms)  # a group is 1 high
    height = 0.9 + len(groups) * (0.25 + 0.18 * len(transforms))
    figure, (ax,) = style.panels(
        "k90 by group, beside its rotation null",
        1,
        1,
        height,
        "k90: share of coefficients, largest first, that holds 90 % of the energy",
    )
    ax.grid(False, axis="y")
    for i, transform in enumerate(transforms):
        k90 = [group["spectra"][transform]["k90"] for group in groups]
        null, sd = field_values(k90, "null"), np.nan_to_num(field_values(k90, "null_sd"))
        y = np.arange(len(groups)) + (i - (len(transforms) - 1) / 2) * row
        ax.barh(y, 2 * sd, row * 0.8, null - sd, color=style.NULL, alpha=0.35, linewidth=0)
        low, high = y - row * 0.4, y + row * 0.4
        ax.vlines(null, low, high, color=style.NULL, linewidth=2, label=f"null {transform}")
        ax.errorbar(
            field_values(k90, "mean"),
            y,
            xerr=field_values(k90, "sd"),
            linestyle="",
            markersize=5.5,
            label=transform,
            **style.look(i),
        )
    gaussian, above = GAUSSIAN["k90"], ax.get_xaxis_transform()
    ax.axvline(gaussian, color=style.INK, linewidth=1, linestyle=":", label="gaussian")
    label = f"Gaussian matrix {gaussian:.3f}"
    ax.text(gaussian, 1, label, transform=above, ha="center", va="bottom", fontsize=8)
    ax.set_yticks(range(len(groups)), [style.wrapped(group["group"]) for group in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.use_sticky_edges = False
    ax.margins(x=0.08)
    keys = [style.key(t, line="", **style.look(i)) for i, t in enumerate(transforms)]
    style.legend(figure, [*keys, style.key("rotation null, ± sd over draws", style.NULL)])
    return figure


def cumulative_energy(run: Data, transform: str) -> Figure | None:
    """Draw energy against the share of coefficients, a line per block, a panel per kind.

    After SpectralLoRA, fig. 5. Below it the difference of each from its own null, which is too
    small to be seen in the curves themselves.
    """
    matrices = [m for m in run["matrices"] if m["block"] is not None and transform in m["curves"]]
    if not matrices:
        return None
    kinds, left_out = _chosen(matrices, 3)
    name = style.wrapped(run["name"], 80)
    title = f"Energy in the largest {transform} coefficients, by block\n{name}"
    x_label, columns = "coefficients, largest first", len(kinds)
    figure, axes = style.panels(
        title, 2 * columns, columns, 2.3, x_label, sharex=True, sharey="row"
    )
    axes[0].set_ylabel("share of the energy")
    axes[columns].set_ylabel("energy minus null")
    colours = style.depth(m["block"] for m in matrices)
    x = np.linspace(0, 1, 101)
    for top, bottom, (kind, name) in zip(axes, axes[columns:], kinds.items(), strict=False):
        top.set_title(name)
        nulls = []
        for m in matrices:
            if m["kind"] == kind:
                curves = m["curves"][transform]
                energy, null = (np.array(curves[k], float) for k in ("magnitude", "null_magnitude"))
                line: Data = {"color": colours.to_rgba(m["block"]), "label": f"block {m['block']}"}
                top.plot(x, energy, linewidth=1.3, **line)
                bottom.plot(x, energy - null, linewidth=1.3, **line)
                nulls.append(null)
        top.plot(x, np.mean(nulls, 0), **NULL_LINE, label="null")
        bottom.axhline(0, **NULL_LINE, label="null")
        bottom.set_xticks([0, 0.5, 1])
        style.percent(top.xaxis, top.yaxis, bottom.yaxis)
    style.depth_bar(figure, axes, colours)
    null_key = style.key("rotation null, mean over draws and blocks", **NULL_KEY)
    style.legend(figure, [null_key], left_out)
    return figure


def k90_heatmap(runs: list[Data], transform: str) -> Figure | None:
    """Draw k90 by block and kind of layer, mean over runs, and how far it is from its null.

    After SpectralLoRA, fig. 6.
    """
    matrices = [m for run in runs for m in run["matrices"] if m["block"] is not None]
    if not matrices:
        return None
    kinds, blocks = (
        unique(m["kind"] for m in matrices),
        sorted({m["block"] for m in matrices}),
    )
    k90, excess = np.full((2, len(blocks), len(kinds)), math.nan)
    for i, block in enumerate(blocks):
        for j, kind in enumerate(kinds):
            cell = [
                m["spectra"][transform]["k90"]
                for m in matrices
                if (m["block"], m["kind"]) == (block, kind)
            ]
            if cell:
                k90[i, j] = np.mean(field_values(cell, "value"))
                excess[i, j] = np.mean(field_values(cell, "value") - field_values(cell, "null"))
    over = "" if len(runs) == 1 else f", mean over {len(runs)} runs"
    group = style.wrapped(runs[0]["group"], 80)
    title = f"k90 by block and kind of layer ({transform}{over})\n{group}"
    height = 1.2 + max(0.8, min(7.5, 0.26 * len(blocks)))
    figure, axes = style.panels(title, 2, 2, height, y="block", sharey=True)
    limit = np.nanmax(np.abs(excess), initial=1e-3)
    shown: list[tuple[str, np.ndarray, str, Data]] = [
        ("k90", k90, "{:.3f}", {"cmap": "viridis"}),
        (
            "k90 minus its null",
            excess,
            "{:+.3f}",
            {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit},
        ),
    ]
    turned = len(kinds) > 3
    names = [style.wrapped(name, 40 if turned else 16) for name in short_names(kinds).values()]
    step = math.ceil(len(blocks) / 24)
    for ax, (title, values, form, colours) in zip(axes, shown, strict=True):
        ax.set_title(title)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        mesh = ax.pcolormesh(values, **colours, edgecolor=style.SURFACE, linewidth=0.5)
        ax.set_xticks(np.arange(len(kinds)) + 0.5, names, rotation=90 if turned else 0)
        ax.set_yticks(np.arange(0, len(blocks), step) + 0.5, blocks[::step])
        style.colour_bar(figure, ax, mesh)
        if len(kinds) <= 4:
            _write_values(ax, values, mesh, form)
    axes[0].invert_yaxis()
    return figure


def singular_values(run: Data) -> Figure | None:
    """Draw singular values over the norm, a line per matrix, beside those of Gaussian matrices."""
    matrices = [m for m in run["matrices"] if m["singular_values"] and m["norm"]]
    if not matrices:
        return None
    kinds, left_out = _chosen(matrices, 6)
    title = f"Singular values of {run['what']}, over its norm\n{style.wrapped(run['name'], 80)}"
    y_label = f"singular value / |{run['what']}|"
    figure, axes = style.panels(
        title, len(kinds), 3, 2.5, "index", y_label, sharex=True, sharey=True
    )
    colours = style.depth(m["block"] for m in matrices if m["block"] is not None)
    longest = max(len(m["singular_values"]) for m in matrices)
    marker = "o" if longest <= 16 else ""
    for ax, (kind, name) in zip(axes, kinds.items(), strict=True):
        ax.set_title(name)
        of_kind = [m for m in matrices if m["kind"] == kind]
        for m in of_kind:
            y = np.array(m["singular_values"], float) / m["norm"]
            colour = style.PALETTE[0] if m["block"] is None else colours.to_rgba(m["block"])
            line = {"marker": marker, "markersize": 2.5, "label": m["layer"]}
            ax.plot(_indices(y), y, color=colour, linewidth=1.2, **line)
        gaussian = [
            (m["gaussian_singular_values"], m["norm"])
            for m in of_kind
            if m["gaussian_singular_values"]
        ]
        if gaussian:
            mean, sd = (
                _ragged_mean([np.array(g[k], float) / norm for g, norm in gaussian])
                for k in ("mean", "sd")
            )
            x = _indices(mean)
            ax.fill_between(x, mean - sd, mean + sd, color=style.NULL, alpha=0.35, linewidth=0)
            ax.plot(x, mean, **NULL_LINE, label="null")
    style.log_axis(axes[0].yaxis)
    if longest > 32:
        style.log_axis(axes[0].xaxis)
    style.depth_bar(figure, axes, colours)
    null = "Gaussian matrix of the same shape, rank and norm, ± sd over draws"
    style.legend(figure, [style.key(null, **NULL_KEY)], left_out)
    return figure


def rank_against_loss(analysis: Data) -> Figure | None:
    """Draw loss and score of each run against its mean stable rank, panels for each task."""
    groups = [group["group"] for group in analysis["groups"]]
    shown = [
        (task, field, runs)
        for task in unique(run["task"] for run in analysis["runs"])
        for field in ("loss", "score")
        if (
            runs := [
                run for run in analysis["runs"] if run["task"] == task and run[field] is not None
            ]
        )
    ]
    if not shown:
        return None
    what = " and ".join(unique(run["what"] for run in analysis["runs"]))
    title = f"Loss and score against the stable rank of {what}"
    figure, axes = style.panels(title, len(shown), 2, 2.4, "mean stable rank")
    for ax, (task, field, runs) in zip(axes, shown, strict=True):
        ax.set_title(style.plain(task or ""))
        metric = "validation loss" if field == "loss" else runs[0]["metric"] or "score"
        ax.set_ylabel(style.plain(metric))
        ax.margins(0.1)
        ax.locator_params(nbins=5)
        for group in unique(run["group"] for run in runs):
            same = [run for run in runs if run["group"] == group]
            x, y = [_stable_rank(run) for run in same], [run[field] for run in same]
            look = style.look(groups.index(group))
            ax.plot(x, y, linestyle="", markersize=6, label=group, **look)
        ranks = [rank for run in runs if (rank := _stable_rank(run)) > 0]
        if ranks and max(ranks) >= 10 * min(ranks):
            style.log_axis(ax.xaxis)
    there = {run["group"] for _, _, runs in shown for run in runs}
    keys = [style.key(g, line="", **style.look(i)) for i, g in enumerate(groups) if g in there]
    style.legend(figure, keys)
    return figure


def _chosen(matrices: list[Data], most: int) -> tuple[dict[str, str], str]:
    """Choose at most `most` kinds of layer, query and value first.

    Returns:
        Their short names by kind, and a line about those left out.
    """
    kinds = unique(m["kind"] for m in matrices)
    first = sorted(kinds, key=lambda kind: kind.split(".")[-1] not in FIRST_KINDS)[:most]
    short = short_names(kinds)
    left_out = ", ".join(short[kind] for kind in kinds if kind not in first)
    return {kind: short[kind] for kind in first}, f"not shown: {left_out}" if left_out else ""


def _indices(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)


def _ragged_mean(rows: list[np.ndarray]) -> np.ndarray:
    """Average lists that need not be of one length, place by place."""
    return np.array(
        [np.mean([row[i] for row in rows if len(row) > i]) for i in range(max(map(len, rows)))]
    )


def _write_values(ax: Axes, values: np.ndarray, mesh: Any, form: str) -> None:
    """Write each cell's value in it."""
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink = style.ink_on(mesh.cmap(mesh.norm(value)))
            label = form.format(value).replace("-", "−")
            ax.text(j + 0.5, i + 0.5, label, ha="center", va="center", fontsize=7, color=ink)


def _stable_rank(run: Data) -> float:
    return or_nan(run["averages"]["run"]["all"]["stable_rank"])


@style.styled
def analysis_figures(analysis: Data) -> dict[str, Figure]:
    """Draw the figures of an analysis.json, by name.

    Returns:
        k90_by_task, rank_against_loss; for each group cumulative_energy and singular_values of its
        first run, and k90_heatmap over all of its runs. Of several transforms, k90_by_task shows
        all, the others the first.
    """
    transform = analysis["transforms"][0]
    return present(
        {
            "k90_by_task": k90_by_task(analysis),
            **each(
                "cumulative_energy",
                analysis,
                lambda group, runs: cumulative_energy(runs[0], transform),
            ),
            **each("k90_heatmap", analysis, lambda group, runs: k90_heatmap(runs, transform)),
            **each("singular_values", analysis, lambda group, runs: singular_values(runs[0])),
            "rank_against_loss": rank_against_loss(analysis),
        }
    )
