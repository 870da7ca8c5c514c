"""Draw the figures of README.md, docs/ and results/README.md from the tables beside this file.

    python results/figures.py                          # writes all of them into docs/

The rows of the front page's picture are of two runs, `zoo fit --config NAME.yaml` of lora_48 and
dct_half with `--trainer.max_steps 600 --stable_rank.every_n_steps 20`:

    python -m results.figures ranks LORA DCT > results/ranks.csv

A figure has the same bytes each time; its first group is named by a hash of what is drawn, so that
one that is behind its table is found whatever version of matplotlib made it.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from matplotlib.figure import Figure

from results.claims.adapters import LEVEL, analysed
from results.claims.cosines import BUDGETS
from results.claims.training import PAIRS
from results.measure import Row, print_rows, reported_source
from results.rows import best, read
from results.tables.rates import BASE, NO_RULE, RULE, rate_curves
from zoo.pages.style import (
    INK,
    NULL,
    PALETTE,
    SURFACE,
    key,
    legend,
    log_axis,
    log_ticks,
    look,
    panels,
    styled,
    svg,
)
from zoo.runs.event_curves import read as read_curves

DOCS = Path(__file__).parents[1] / "docs"
START = "stable_rank/"


def main(words: Sequence[str]) -> None:
    """Write all figures, or print the rows of the first."""
    if words[:1] == ["ranks"]:
        print_rows(rank_rows(words[1:]), "python -m results.figures ranks")
    else:
        write(DOCS)


def write(folder: Path) -> None:
    """Write <name>.svg of each figure into a folder."""
    for name, drawn in FIGURES.items():
        (folder / f"{name}.svg").write_bytes(drawing(drawn()))


def drawing(figure: Figure) -> bytes:
    """Draw a figure as SVG that names its fonts once, which every text does otherwise."""
    plain = svg(figure)
    (fonts,) = set(re.findall(rb" font-family: [^;]+;", plain))
    return plain.replace(fonts, b"").replace(b"butt}", b"butt} text{" + fonts.strip() + b"}", 1)


@styled
def named(figure: Figure) -> Figure:
    """Name a figure by a hash of its lines and words."""
    shown: list[object] = []
    for ax in figure.axes:
        shown += [ax.get_title("left"), ax.get_xlabel(), ax.get_ylabel()]
        shown += [[f"{x:.6g}" for x in np.ravel(line.get_xydata())] for line in ax.lines]
    digest = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    figure.set_gid(f"drawn-{digest[:16]}")
    return figure


# ---- Ranks of two runs ---------------------------------------------------------------------------


def rank_rows(folders: Iterable[str]) -> Iterable[Row]:
    """Read a row for each step of each run, with the stable rank of each weight."""
    for folder in folders:
        summary = json.loads((Path(folder) / "summary.json").read_text())
        curves = {
            tag.removeprefix(START): dict(curve)
            for tag, curve in read_curves(Path(folder), [START]).items()
            if not tag.removeprefix(START).startswith(("all.", "kind."))
        }
        for step in sorted(set.intersection(*(set(curve) for curve in curves.values()))):
            ranks = {name: f"{curves[name][step]:.3f}" for name in curves}
            config = Path(folder).parent.name.partition("-")[0]
            yield {"run": config, "step": step, **ranks, **reported_source(summary)}


RUNS = {
    "lora_48": "rank-48 factors, as many numbers",
    "dct_half": "half of the cosine coefficients",
}


@styled
def ranks() -> Figure:
    """Draw the stable rank of each weight of two runs, thin, and their mean."""
    figure, (ax,) = panels("", 1, 1, 3.2, "training step", "stable rank of each weight")
    handles = []
    rows = read("ranks")
    weights = [name for name in rows[0] if name.startswith("blocks.")]
    for (run, name), colour in zip(RUNS.items(), PALETTE, strict=False):
        steps = [int(row["step"]) for row in rows if row["run"] == run]
        values = [[float(row[each]) for each in weights] for row in rows if row["run"] == run]
        for curve in zip(*values, strict=True):
            ax.plot(steps, curve, color=colour, linewidth=0.6, alpha=0.4)
        ax.plot(steps, [mean(each) for each in values], color=colour, linewidth=2.2)
        handles.append(key(name, colour))
    legend(figure, handles)
    return named(figure)


# ---- The character model -------------------------------------------------------------------------

METHODS = {
    "`BlockDCT` {}": (0, "-"),
    "`RowDCT` {}": (1, "-"),
    "`DCT` {}": (2, "-"),
    "`RandomOrthonormal` {}": (3, "-"),
    "`Zigzag` {}": (4, "-"),
    "`Zigzag` {}, random basis": (4, ":"),
    "`RandLoRA` {}": (5, "-"),
    "`LoRA` {}": (6, "-"),
}
"""With the number of a look, and a line."""
SHARES = dict(zip(BUDGETS, (1 / 2, 1 / 10, 1 / 20), strict=True))
LOSS = "validation loss, 400 steps"


@styled
def budgets() -> Figure:
    """Draw loss by budget, and by stable rank, of each method of the character model."""
    figure, (left, right) = panels("", 2, 2, 3.4, "", LOSS, sharey=True)
    dense = best("`Dense`").values()
    left.axhline(mean(dense), color=NULL, linestyle="--", linewidth=1.2)
    dense_rank = mean(best("`Dense`").values("stable_rank"))
    right.plot([dense_rank], [mean(dense)], color=NULL, marker="*", markersize=9, linestyle="")
    handles = [key("dense weights", NULL, "--", "*")]
    for label, (number, line) in METHODS.items():
        runs = {share: best(label.format(share)) for share in BUDGETS}
        looks = look(number) | {"markerfacecolor": SURFACE if line == ":" else None}
        losses = [mean(each.values()) for each in runs.values()]
        spreads = [stdev(each.values()) for each in runs.values()]
        left.errorbar(list(SHARES.values()), losses, spreads, linestyle=line, **looks)
        found = [mean(each.values("stable_rank")) for each in runs.values()]
        right.plot(found, losses, linestyle="", **looks)
        name = label.replace("` {}", "").strip("`")
        handles.append(key(name, line=line, **look(number), filled=line == "-"))
    log_ticks(left, SHARES.values())
    left.set_xticks(list(SHARES.values()), list(SHARES))
    left.set_xlabel("trained share of the weights")
    log_axis(right.xaxis)
    right.set_xlabel("stable rank of the weights")
    legend(figure, handles)
    return named(figure)


@styled
def maps() -> Figure:
    """Draw loss by stable rank of every map at a tenth, each with its name."""
    figure, (ax,) = panels("", 1, 1, 4.2, "stable rank of the weights", LOSS)
    for name in sorted({row["parameterization"] for row in read("maps")}):
        runs = best(f"`{name}`", maps=True)
        point = mean(runs.values("stable_rank")), mean(runs.values())
        ax.plot(*point, color=NULL if name == "Dense" else PALETTE[0], marker="o", linestyle="")
        right, up = BESIDE.get(name, (1, 0))
        ax.annotate(
            name,
            point,
            (6 * right, 9 * up),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[right],
            va="center",
            fontsize=7,
            color=INK,
        )
    log_axis(ax.xaxis)
    ax.set_xlim(right=60)
    return named(figure)


BESIDE = {
    **dict.fromkeys(("LoHa", "Haar", "Hartley", "DCT", "Fourier", "Circulant"), (-1, 0)),
    "Sum": (0, -1),
    "Sparse": (0, -1),
    "BLAST": (1, 0.3),
    "MiSS": (1, -0.3),
    "Hashed": (1, -0.4),
    "RandomOrthonormal": (1, 0.2),
}
"""Where names stand that would cover others: right and above are 1."""


# ---- Rates ---------------------------------------------------------------------------------------

NETWORKS = {BASE: (NULL, "--"), RULE: (PALETTE[0], "-"), NO_RULE: (PALETTE[1], "-")}


@styled
def transfer() -> Figure:
    """Draw loss by rate at width 64, and at 256 with the rule and without; minima are filled."""
    figure, axes = panels("", len(PAIRS), 4, 2.1, "learning rate", "validation loss", sharey=True)
    for ax, pair in zip(axes, PAIRS, strict=True):
        ax.set_title(pair.replace("`", ""))
        rates: set[float] = set()
        for network, (colour, line) in NETWORKS.items():
            curve = {float(rate): mean(y) for rate, y in rate_curves(pair)[network].items()}
            x = sorted(curve)
            ax.plot(x, [curve[rate] for rate in x], color=colour, linestyle=line)
            least = min(x, key=curve.__getitem__)
            ax.plot([least], [curve[least]], color=colour, marker="o", linestyle="")
            rates |= curve.keys()
        log_ticks(ax, rates)
    handles = [key(f"width {name}", *look, marker="o") for name, look in NETWORKS.items()]
    legend(figure, handles, "a dot is the best rate")
    return named(figure)


# ---- Published adapters --------------------------------------------------------------------------


@styled
def census() -> Figure:
    """Draw k90 of each published adapter against that of its null, in cosines and in wavelets."""
    names = {"dct": "cosines", "haar": "Haar's wavelets"}
    figure, axes = panels("", 2, 2, 3.9, "k90 of its null", "k90", sharex=True, sharey=True)
    every = [
        np.array(
            [
                (float(row[f"{transform}_k90_null"]), float(row[f"{transform}_k90"]))
                for row in analysed()
            ]
        )
        for transform in names
    ]
    low, high = np.min(every) - 0.01, np.max(every) + 0.01
    for ax, points, (transform, name) in zip(axes, every, names.items(), strict=True):
        found = np.array([float(row[f"{transform}_q"]) < LEVEL for row in analysed()])
        ax.set_title(name)
        ax.plot([low, high], [low, high], color=NULL)
        for is_found, face in ((False, SURFACE), (True, PALETTE[0])):
            x, y = points[found == is_found].T
            ax.plot(x, y, "o", color=PALETTE[0], markerfacecolor=face, markersize=4)
        ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    handles = [
        key("an adapter", PALETTE[0], "", "o", filled=False),
        key("structured beyond its null", PALETTE[0], "", "o"),
        key("equal to the null", NULL),
    ]
    legend(figure, handles)
    return named(figure)


FIGURES: dict[str, Callable[[], Figure]] = {
    "ranks": ranks,
    "budgets": budgets,
    "maps": maps,
    "transfer": transfer,
    "census": census,
}


if __name__ == "__main__":
    main(sys.argv[1:])
