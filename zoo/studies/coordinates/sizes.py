"""The coordinate check: sizes of weights, gradients, updates and outputs as a network grows.

A network whose activations change as much in a step, however wide it is, can be scaled up at one
learning rate; one whose changes grow with width cannot (Yang et al., Tensor Programs V, arXiv
2203.03466, appendix D.1). Everything is measured in weight space, so that parameterizations
compare; sizes are root-mean-squares over entries, which are flat in width where each entry keeps
its size.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from zoo.layers.names import block, kind
from zoo.studies.coordinates.recording import BLOCKS, LAYERS, LOGITS, OUTPUTS, WEIGHTS, Row

LAST = "last block"
"""The group of the last block alone, which a mean over blocks hides."""
FLAT = 0.25
"""An exponent nearer to 0 is called flat: half of 1/2, the least other one that theory knows."""


class Measure(NamedTuple):
    """A quantity that a line of the table is about."""

    label: str
    group: str
    quantity: str
    step: int | None = None
    """None: the last."""


SIZE_MEASURES = (
    Measure("weight", LAYERS, "weight"),
    Measure("gradient", LAYERS, "gradient", 1),
    Measure("coef. gradient", LAYERS, "coefficient_gradient", 1),
    Measure("second moment", LAYERS, "second_moment"),
    Measure("update of a step", LAYERS, "step_update"),
    Measure("update", LAYERS, "update"),
    Measure("update, spectral", LAYERS, "spectral"),
    Measure("W in bfloat16", LAYERS, "rounding"),
    Measure("outputs at start", LAYERS, "activation", 0),
    Measure("outputs", LAYERS, "activation"),
    Measure("outputs' change", LAYERS, "moved"),
    Measure("stream", BLOCKS, "activation"),
    Measure("stream's change", BLOCKS, "moved"),
    Measure("last block", LAST, "activation"),
    Measure("last block's change", LAST, "moved"),
    Measure("logits", LOGITS, "activation"),
    Measure("logits' change", LOGITS, "moved"),
)
"""Gradients are those of the first step: later ones depend on where steps led."""


def summarize(rows: Iterable[Row]) -> list[Row]:
    """Average sizes over the layers of a group and seeds.

    The mean is geometric, so that exponents are means of exponents.

    Args:
        rows: of `Coordinates`, with parameterization, width, depth and seed.

    Returns:
        A row for each parameterization, width, depth, step and group; a group is LAYERS, BLOCKS,
        LAST, LOGITS, or a kind of layer (`zoo.layers.names.kind`). A size that some layer has as 0
        is 0, one that none has is None.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups = [row["group"]]
        if row["group"] == LAYERS:
            groups.append(kind(row["layer"]))
        elif row["group"] == BLOCKS and block(row["layer"]) == row["depth"] - 1:
            groups.append(LAST)
        for group in groups:
            key = (row["parameterization"], row["width"], row["depth"], row["step"], group)
            cells.setdefault(key, []).append(row)
    names = ("parameterization", "width", "depth", "step", "group")
    return [
        dict(zip(names, key, strict=True))
        | {q: _mean([row[q] for row in same]) for q in (*WEIGHTS, *OUTPUTS)}
        for key, same in cells.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of those that are there."""
    known = [value for value in values if value is not None]
    if not known or min(known) < 0 or not all(map(math.isfinite, known)):
        return None
    return math.exp(sum(map(math.log, known)) / len(known)) if min(known) > 0 else 0.0


def exponent(sizes: Sequence[float], values: Sequence[float | None]) -> dict[str, float | None]:
    """Fit b of the least-squares line log value = a + b log size, with its standard error.

    Args:
        sizes: widths or depths.
        values: as many; those that are None or not above 0 are left out.

    Returns:
        slope, None of fewer than two points; error and interval, what is to be added on both sides
        of it for 95 % (Student's), None of fewer than three.
    """
    points = [
        (size, value)
        for size, value in zip(sizes, values, strict=True)
        if value is not None and value > 0
    ]
    if len({size for size, _ in points}) < 2:
        return {"slope": None, "error": None, "interval": None}
    fit = stats.linregress(*np.log(points).T)
    error = half = None
    if (freedom := len(points) - 2) > 0:
        error = float(fit.stderr)
        half = error * float(stats.t.ppf(0.975, freedom))
    return {"slope": float(fit.slope), "error": error, "interval": half}


def reading(slope: float | None) -> str:
    """Say an exponent in a word: grows, flat or shrinks."""
    if slope is None:
        return "unknown"
    return "flat" if abs(slope) < FLAT else "grows" if slope > 0 else "shrinks"


def slopes(cells: Sequence[Row], width: int, depth: int, steps: int) -> list[Row]:
    """Fit the exponent of every measure along widths at one depth, and depths at one width.

    Args:
        cells: of `summarize`.
        width: at which depths are compared.
        depth: at which widths are compared.
        steps: the last one.

    Returns:
        Rows of along (`width` or `depth`), parameterization, measure, group, slope, error, reading.
        Of `SIZE_MEASURES` for all layers, and again for each kind of layer.
    """
    fitted = []
    kinds = [
        group
        for group in dict.fromkeys(cell["group"] for cell in cells)
        if group not in (BLOCKS, LAST, LOGITS)
    ]
    for along, other, at in (("width", "depth", depth), ("depth", "width", width)):
        for name in dict.fromkeys(cell["parameterization"] for cell in cells):
            for measure in SIZE_MEASURES:
                for group in kinds if measure.group == LAYERS else [measure.group]:
                    step = steps if measure.step is None else measure.step
                    x, y = series(cells, name, group, measure.quantity, step, along, other, at)
                    fit = exponent(x, y)
                    fitted.append(
                        {
                            "along": along,
                            "parameterization": name,
                            "measure": measure.label,
                            "group": group,
                            **fit,
                            "reading": reading(fit["slope"]),
                        }
                    )
    return fitted


def series(
    cells: Iterable[Row],
    parameterization: str,
    group: str,
    quantity: str,
    step: int,
    along: str,
    other: str,
    at: int,
) -> tuple[list[int], list[float | None]]:
    """Return widths and sizes at a depth, or depths and sizes at a width.

    In the first case `along` is width, `other` depth, and `at` that depth.
    """
    wanted = (parameterization, group, step, at)
    line = [
        cell
        for cell in cells
        if (cell["parameterization"], cell["group"], cell["step"], cell[other]) == wanted
    ]
    line.sort(key=lambda cell: cell[along])
    return [cell[along] for cell in line], [cell[quantity] for cell in line]
