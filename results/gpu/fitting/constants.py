"""Constants of zoo's from the rows of `results.gpu.thresholds`, as lines of source."""

import importlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from results.gpu.fitting.crossings import Layer, Point, costs, crossing, faster
from zoo.bases.blocks import largest_divisor

Row = dict[str, str]


class Threshold(NamedTuple):
    """A constant that says up to or from which size one way is taken."""

    rows: str  # their threshold begins so
    second: str  # the way that is compared with
    module: str
    name: str
    falls: bool  # whether the first way is that of large sizes
    whole: bool = True  # whether it is an integer


THRESHOLDS = (
    Threshold("fft", "products", "zoo.bases.cosine", "FFT_FROM", True),
    Threshold("together", "alone", "zoo.layers.batched", "LARGEST", False),
    Threshold(
        "factors",
        "built",
        "zoo.parameterizations.low_rank.randlora",
        "FACTORS_UP_TO",
        False,
        whole=False,
    ),
    Threshold("kernel", "product", "zoo.bases.kernels", "TOKENS", False),
    Threshold("row kernel", "kept", "zoo.bases.kernels.floors", "ROWS_PAY_FROM", True, whole=False),
    Threshold("transpose", "strided", "zoo.bases.cosine", "BLOCKED_FROM", True),
    Threshold("one by one", "as one", "zoo.bases.block_products", "ONE_BY_ONE_ABOVE", True),
)
CHOICES = {
    "pieces": ("zoo.bases.cosine", "BLOCK"),
    "chunks": ("zoo.bases.block_products", "CHUNK_BYTES"),
}
"""Constants of which some values are tried, by their rows' threshold."""
SAME = 0.98
"""A smaller piece must take less of the time than this: all at once is the simpler way."""


def constants(rows: Sequence[Row]) -> list[str]:
    """Return lines of source, and comments on what was not fitted and on what no constant holds.

    Rows may be few or none.
    """
    measured = [row for row in rows if row.get("ratio")]
    if not measured:
        return ["# no rows"]
    device = measured[0]["on"]
    said = []
    if "--small" in measured[0].get("command", ""):
        said.append("# of a rehearsal: the sizes are tiny, and nothing of it is to be kept")
    for threshold in THRESHOLDS:
        said += _threshold(threshold, measured, device)
    said += _costs(measured, device)
    for name, (module, constant) in CHOICES.items():
        said += _choice(
            [row for row in measured if row["threshold"] == name], module, constant, device
        )
    return said + _comments(measured)


def _point(row: Row) -> Point:
    return Point(*(float(row[name]) for name in ("size", "ratio", "low", "high")))


def _usual(row: Row) -> bool:
    """Return whether a row is what the constants are for.

    That is: called from Python, or kernels in a graph, in the usual precision.
    """
    return (
        row["launch"]
        == ("graph" if "kernel" in row["threshold"] and row["on"] == "cuda" else "called")
        and row["dtype"] != "tf32"
    )


def _threshold(threshold: Threshold, rows: Sequence[Row], device: str) -> list[str]:
    name = threshold.name
    some = [
        row
        for row in rows
        if row["threshold"].split(",")[0] == threshold.rows
        and _usual(row)
        and row["second"] == threshold.second
    ]
    points = [_point(row) for row in some]
    if not points:
        return [f"# {name}: not measured"]
    crossed = crossing(points, threshold.falls)
    if crossed is None:
        return [f"# {name}: {_nowhere(some, points)}; left as it is"]
    at = max(1, round(crossed.at)) if threshold.whole else float(f"{crossed.at:.2g}")
    return [f"{_dictionary(threshold.module, name, device, at)}  # {crossed}"]


def _nowhere(rows: Sequence[Row], points: Sequence[Point]) -> str:
    """Say that one way is the faster one at all sizes."""
    way = rows[0]["first" if faster(points) else "second"]
    sizes = [point.size for point in points]
    all_sizes = f"{min(sizes):.6g} to {max(sizes):.6g}"
    return f"no crossing, '{way}' is faster at all of {all_sizes}"


def _choice(rows: Sequence[Row], module: str, name: str, device: str) -> list[str]:
    """Return the value of least time, a geometric mean over all sizes."""
    if not rows:
        return [f"# {name}: not measured"]
    values = {row["first"] for row in rows}
    times = {
        value: math.exp(sum(logs) / len(logs))
        for value in sorted(values)
        if (logs := [math.log(float(row["ratio"])) for row in rows if row["first"] == value])
    }
    best = min(times, key=lambda value: times[value])
    took = ", ".join(f"{value}: {time:.3f}" for value, time in times.items())
    chosen = best if times[best] < SAME else rows[0]["second"]
    return [f"{_dictionary(module, name, device, chosen)}  # times, all at once being 1: {took}"]


def _costs(rows: Sequence[Row], device: str) -> list[str]:
    from zoo.bases.block_products import COSTS

    values = {each: dict(of_each) for each, of_each in COSTS.items()}
    said = []
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        products = [row for row in rows if row["threshold"] == "product_pays"]
        fitted = costs(_layers([row for row in products if row["dtype"] == dtype]))
        if fitted is None:
            said.append(f"# COSTS of {dtype}: too little was measured")
            continue
        rounded = (float(f"{value:.3g}") for value in fitted.values)
        values[device][size] = type(values[device][size])(*rounded)
        said.append(
            f"# COSTS of {dtype}: {fitted.right} of {fitted.layers} decided as measured, "
            f"in {fitted.lost:.3f} times the faster way's time"
        )
    if all("too little" in line for line in said):
        return said
    inside = (
        f'"{each}": {{'
        + ", ".join(
            f"{size}: Costs({', '.join(map(_number, value))})" for size, value in of_each.items()
        )
        + "}"
        for each, of_each in values.items()
    )
    return [*said, f"COSTS = {{{', '.join(inside)}}}"]


def _layers(rows: Sequence[Row]) -> list[Layer]:
    """Pair the rows by the product with those of W built."""
    ways: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("shape", "tokens", "share", "block"))
        ways.setdefault(key, {})[row["first"]] = float(row["ratio"])
    layers = []
    for (shape, tokens, share, block), times in ways.items():
        if len(times) == 2:
            m, n = map(int, shape.split("x"))
            p, q = largest_divisor(m, int(block)), largest_divisor(n, int(block))
            each = int(float(share) * m * n) // (m * n // (p * q))  # coefficients of a block
            sizes = (each / (p * q), p / m + q / n, 1 / m + 1 / n)
            layers.append(Layer(*sizes, int(tokens), times["product"], times["built"]))
    return layers


def _comments(rows: Sequence[Row]) -> list[str]:
    """Say the crossings of what no constant holds."""
    said = []
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = row["threshold"]
        held = (
            name == "product_pays"
            or name in CHOICES
            or any(
                name.split(",")[0] == each.rows and row["second"] == each.second and _usual(row)
                for each in THRESHOLDS
            )
        )
        if not held:
            key = (name, *(row[column] for column in ("first", "second", "dtype", "launch")))
            groups.setdefault(key, []).append(row)
    for key, some in groups.items():
        points = [_point(row) for row in some]
        at = crossing(points, falls=key[0].startswith("fft"))
        verdict = f"crosses at {at}" if at else _nowhere(some, points)
        said.append(f"# {key[0]}, {key[1]} against {key[2]}, {key[3]}, {key[4]}: {verdict}")
    return said


def _dictionary(module: str, name: str, device: str, value: float | str) -> str:
    """Return the assignment with one device's value replaced and the others' as they are.

    One constant may be of GPUs alone.
    """
    held = getattr(importlib.import_module(module), name)
    if not isinstance(held, dict):
        return f"{name} = {_number(value)}"
    values = {**held, device: value}
    inside = ", ".join(f'"{each}": {_number(of_each)}' for each, of_each in values.items())
    return f"{name} = {{{inside}}}"


def _number(value: float | str) -> str:
    """Write a number as it stands in source."""
    if isinstance(value, str):
        return value
    if value == math.inf:
        return "math.inf"
    if isinstance(value, int) and value >= 1 << 18 and value & (value - 1) == 0:
        return f"1 << {value.bit_length() - 1}"
    return str(value)
