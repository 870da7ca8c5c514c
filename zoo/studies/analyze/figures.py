"""Each figure of `zoo analyze`: k90, energy and singular values beside their nulls, and rank against loss.

They take a whole analysis.json, or runs of it. None stands for a figure that there is no data for.
"""

import math
from typing import Any

import numpy as np

from zoo.pages import style
from zoo.pages.style import Axes, Data, Figure, numbers
from zoo.spectrum import GAUSSIAN
from zoo.studies.figures import each, present

FIRST_KINDS = ("query", "value", "q_proj", "v_proj")
"""Kinds of layer that are shown where not all can be: those that SpectralLoRA looks at."""
NULL_LINE: Data = {"color": style.NULL, "linestyle": "--"}


def k90_by_task(analysis: Data) -> Figure:
    """k90 of each group, a marker per transform with sd over runs, beside its null (SpectralLoRA, fig. 4)."""
    groups, transforms = analysis["groups"], analysis["transforms"]
    each = 0.8 / len(transforms)  # a group is 1 high
    height = 0.9 + len(groups) * (0.25 + 0.18 * len(transforms))
    figure, (ax,) = style.panels("k90 by group, beside its rotation null", 1, 1, height)
    style.tidy(
        ax, "", "k90: share of coefficients, largest first, that holds 90 % of the energy", grid="x"
    )
    for i, transform in enumerate(transforms):
        own = [group["spectra"][transform]["k90"] for group in groups]
        null, sd = numbers(own, "null"), np.nan_to_num(numbers(own, "null_sd"))
        y = np.arange(len(groups)) + (i - (len(transforms) - 1) / 2) * each
        ax.barh(y, 2 * sd, each * 0.8, null - sd, color=style.NULL, alpha=0.35, linewidth=0)
        ax.vlines(
            null,
            y - each * 0.4,
            y + each * 0.4,
            color=style.NULL,
            linewidth=2,
            label=f"null {transform}",
        )
        ax.errorbar(
            numbers(own, "mean"),
            y,
            xerr=numbers(own, "sd"),
            linestyle="",
            markersize=5.5,
            capsize=2,
            label=transform,
            **style.look(i),
        )
    gaussian, above = GAUSSIAN["k90"], ax.get_xaxis_transform()
    ax.axvline(gaussian, color=style.INK, linewidth=1, linestyle=":", label="gaussian")
    ax.text(
        gaussian,
        1,
        f"Gaussian matrix {gaussian:.3f}",
        transform=above,
        ha="center",
        va="bottom",
        **style.SMALL,
    )
    ax.set_yticks(range(len(groups)), [style.wrapped(group["group"]) for group in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.use_sticky_edges = False
    ax.margins(x=0.08)
    null_key = style.key("rotation null, ± sd over draws", style.NULL)
    style.legend(
        figure,
        [*(style.key(t, line="", **style.look(i)) for i, t in enumerate(transforms)), null_key],
    )
    return figure


def cumulative_energy(run: Data, transform: str) -> Figure | None:
    """Energy against the share of coefficients, a line per block, a panel per kind (SpectralLoRA, fig. 5).

    Below it the difference of each from its own null, which is too small to be seen in the curves
    themselves.
    """
    matrices = [m for m in run["matrices"] if m["block"] is not None and transform in m["curves"]]
    if not matrices:
        return None
    kinds, left_out = _chosen(matrices, 3)
    title = f"Energy in the largest {transform} coefficients, by block\n{style.wrapped(run['name'], 80)}"
    figure, axes = style.panels(title, 2, len(kinds), 2.3, sharex=True, sharey="row")
    colours = style.depth(m["block"] for m in matrices)
    x = np.linspace(0, 1, 101)
    for i, (kind, name) in enumerate(kinds.items()):
        top, bottom = axes[i], axes[i + len(kinds)]
        style.tidy(top, name, "", "share of the energy" if i == 0 else "")
        style.tidy(bottom, "", "coefficients, largest first", "energy minus null" if i == 0 else "")
        nulls = []
        for m in matrices:
            if m["kind"] == kind:
                energy, null = (
                    np.array(m["curves"][transform][k], float)
                    for k in ("magnitude", "null_magnitude")
                )
                for ax, y in ((top, energy), (bottom, energy - null)):
                    ax.plot(
                        x, y, color=colours[m["block"]], linewidth=1.3, label=f"block {m['block']}"
                    )
                nulls.append(null)
        top.plot(x, np.mean(nulls, 0), **NULL_LINE, label="null")
        bottom.axhline(0, **NULL_LINE, label="null")
        bottom.set_xticks([0, 0.5, 1])
        style.percent(top.xaxis, top.yaxis, bottom.yaxis)
    style.depth_bar(figure, axes, colours)
    style.legend(
        figure, [style.key("rotation null, mean over draws and blocks", style.NULL, "--")], left_out
    )
    return figure


def k90_heatmap(runs: list[Data], transform: str) -> Figure | None:
    """k90 by block and kind of layer, mean over runs, and what it is above or below its null (SpectralLoRA, fig. 6)."""
    matrices = [m for run in runs for m in run["matrices"] if m["block"] is not None]
    if not matrices:
        return None
    kinds, blocks = (
        style.unique(m["kind"] for m in matrices),
        sorted({m["block"] for m in matrices}),
    )
    k90, excess = np.full((2, len(blocks), len(kinds)), math.nan)
    for i, block in enumerate(blocks):
        for j, kind in enumerate(kinds):
            own = [
                m["spectra"][transform]["k90"]
                for m in matrices
                if (m["block"], m["kind"]) == (block, kind)
            ]
            if own:
                k90[i, j] = np.mean(numbers(own, "value"))
                excess[i, j] = np.mean(numbers(own, "value") - numbers(own, "null"))
    over = "" if len(runs) == 1 else f", mean over {len(runs)} runs"
    title = (
        f"k90 by block and kind of layer ({transform}{over})\n{style.wrapped(runs[0]['group'], 80)}"
    )
    figure, axes = style.panels(
        title, 1, 2, 1.2 + max(0.8, min(7.5, 0.26 * len(blocks))), sharey=True
    )
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
    names = [
        style.wrapped(name, 40 if turned else 16) for name in style.short_names(kinds).values()
    ]
    step = math.ceil(len(blocks) / 24)
    for ax, (title, values, form, colours) in zip(axes, shown, strict=True):
        style.tidy(ax, title, "", "block" if ax is axes[0] else "", grid=None)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        mesh = ax.pcolormesh(values, **colours, edgecolor=style.SURFACE, linewidth=0.5)
        ax.set_xticks(np.arange(len(kinds)) + 0.5, names, rotation=90 if turned else 0)
        ax.set_yticks(np.arange(0, len(blocks), step) + 0.5, blocks[::step])
        style.tidy_bar(figure.colorbar(mesh, ax=ax, pad=0.02, aspect=30))
        if len(kinds) <= 4:
            _write_values(ax, values, mesh, form)
    axes[0].invert_yaxis()
    return figure


def singular_values(run: Data) -> Figure | None:
    """Singular values over the norm, a line per matrix, a panel per kind, beside those of Gaussian matrices."""
    matrices = [m for m in run["matrices"] if m["singular_values"] and m["norm"]]
    if not matrices:
        return None
    kinds, left_out = _chosen(matrices, 6)
    columns = min(3, len(kinds))
    title = f"Singular values of {run['what']}, over its norm\n{style.wrapped(run['name'], 80)}"
    figure, axes = style.panels(
        title, math.ceil(len(kinds) / columns), columns, 2.5, sharex=True, sharey=True
    )
    colours = style.depth(m["block"] for m in matrices if m["block"] is not None)
    longest = max(len(m["singular_values"]) for m in matrices)
    marker = "o" if longest <= 16 else ""
    values: list[float] = []
    for i, (kind, name) in enumerate(kinds.items()):
        ax, own = axes[i], [m for m in matrices if m["kind"] == kind]
        last_in_column = i + columns >= len(kinds)
        y_label = f"singular value / |{run['what']}|" if i % columns == 0 else ""
        style.tidy(ax, name, "index" if last_in_column else "", y_label)
        ax.tick_params(labelbottom=last_in_column)
        for m in own:
            y = np.array(m["singular_values"], float) / m["norm"]
            colour = colours.get(m["block"], style.PALETTE[0])
            ax.plot(
                _indices(y),
                y,
                color=colour,
                linewidth=1.2,
                marker=marker,
                markersize=2.5,
                label=m["layer"],
            )
            values += y.tolist()
        gaussian = [
            (m["gaussian_singular_values"], m["norm"]) for m in own if m["gaussian_singular_values"]
        ]
        if gaussian:
            mean, sd = (
                _ragged_mean([np.array(g[k], float) / norm for g, norm in gaussian])
                for k in ("mean", "sd")
            )
            ax.fill_between(
                _indices(mean), mean - sd, mean + sd, color=style.NULL, alpha=0.35, linewidth=0
            )
            ax.plot(_indices(mean), mean, **NULL_LINE, label="null")
            values += mean.tolist()
    style.log_ticks(axes[0], values, axis="y")
    if longest > 32:
        style.log_ticks(axes[0], [1, longest])
    style.hide(axes[len(kinds) :])
    style.depth_bar(figure, axes, colours)
    null = "Gaussian matrix of the same shape, rank and norm, ± sd over draws"
    style.legend(figure, [style.key(null, style.NULL, "--")], left_out)
    return figure


def rank_against_loss(analysis: Data) -> Figure | None:
    """Loss and score of each run against its mean stable rank; panels of their own for each task."""
    groups = [group["group"] for group in analysis["groups"]]
    found = [
        (task, field, runs)
        for task in style.unique(run["task"] for run in analysis["runs"])
        for field in ("loss", "score")
        if (
            runs := [
                run for run in analysis["runs"] if run["task"] == task and run[field] is not None
            ]
        )
    ]
    if not found:
        return None
    columns = min(2, len(found))
    what = " and ".join(style.unique(run["what"] for run in analysis["runs"]))
    title = f"Loss and score against the stable rank of {what}"
    figure, axes = style.panels(title, math.ceil(len(found) / columns), columns, 2.4)
    for ax, (task, field, runs) in zip(axes, found, strict=False):
        y_label = "validation loss" if field == "loss" else runs[0]["metric"] or "score"
        style.tidy(ax, task or "", "mean stable rank", y_label)
        ax.margins(0.1)
        ax.locator_params(nbins=5)
        for group in style.unique(run["group"] for run in runs):
            own = [run for run in runs if run["group"] == group]
            x, y = [_stable_rank(run) for run in own], [run[field] for run in own]
            ax.plot(
                x, y, linestyle="", markersize=6, label=group, **style.look(groups.index(group))
            )
        ranks = [rank for run in runs if (rank := _stable_rank(run)) > 0]
        if ranks and max(ranks) >= 10 * min(ranks):
            style.log_ticks(ax, ranks)
    style.hide(axes[len(found) :])
    shown = {run["group"] for _, _, runs in found for run in runs}
    style.legend(
        figure, [style.key(g, line="", **style.look(i)) for i, g in enumerate(groups) if g in shown]
    )
    return figure


def _chosen(matrices: list[Data], most: int) -> tuple[dict[str, str], str]:
    """Short names of at most `most` kinds of layer, query and value first; and a line about those left out."""
    kinds = style.unique(m["kind"] for m in matrices)
    first = sorted(kinds, key=lambda kind: kind.split(".")[-1] not in FIRST_KINDS)[:most]
    short = style.short_names(kinds)
    left_out = ", ".join(short[kind] for kind in kinds if kind not in first)
    return {kind: short[kind] for kind in first}, f"not shown: {left_out}" if left_out else ""


def _indices(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)


def _ragged_mean(rows: list[np.ndarray]) -> np.ndarray:
    """Mean of lists that need not be of one length."""
    return np.array(
        [np.mean([row[i] for row in rows if len(row) > i]) for i in range(max(map(len, rows)))]
    )


def _write_values(ax: Axes, values: np.ndarray, mesh: Any, form: str) -> None:
    """Each cell's value in it."""
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            ink, label = (
                style.ink_on(mesh.cmap(mesh.norm(value))),
                form.format(value).replace("-", "−"),
            )
            ax.text(
                j + 0.5,
                i + 0.5,
                label,
                ha="center",
                va="center",
                fontsize=style.TYPE - 2,
                color=ink,
            )


def _stable_rank(run: Data) -> float:
    return style.number(run["averages"]["run"]["all"]["stable_rank"])


def analysis_figures(analysis: Data) -> dict[str, Figure]:
    """The figures of an analysis.json, by name.

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
