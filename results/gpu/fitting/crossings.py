"""Where one of two ways gets faster than the other, and the costs of `product_pays`.

Pure functions of numbers. A threshold is fitted only where the measured sizes lie on both sides of
it.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Point(NamedTuple):
    """A ratio of times, first to second, with its quartiles."""

    size: float
    ratio: float
    low: float
    high: float


class Crossing(NamedTuple):
    """The size at which a ratio is 1."""

    at: float
    low: float  # and the sizes at which its quartiles are: 0 or infinite if they nowhere are
    high: float
    right: int  # how many of the points it decides as they were measured
    points: int

    def __str__(self) -> str:
        size = f"{self.at:.3g} ({self.low:.3g} to {self.high:.3g})"
        return f"{size}, {self.right} of {self.points} decided as measured"


def crossing(points: Sequence[Point], falls: bool) -> Crossing | None:
    """Find where the ratio crosses 1, interpolated logarithm on logarithm between two sizes.

    The two sizes are those between which a threshold costs least: the sum of |log ratio| over the
    sizes that it decides against what was measured. Points of one size count as their mean
    logarithm.

    Args:
        points: in any order.
        falls: whether the first way is the faster one of large sizes, else of small ones.

    Returns:
        None where one way is so at all sizes that no threshold within them costs less.
    """
    at = _cross(points, [point.ratio for point in points], falls)
    if at is None:
        return None
    ends = []
    lows, highs = ([getattr(point, end) for point in points] for end in ("low", "high"))
    for ratios, faster in ((lows, True), (highs, False)):
        end = _cross(points, ratios, falls)
        # A ratio of which nothing crosses 1 says that the first way is the faster one everywhere,
        # or nowhere.
        ends.append(end if end is not None else 0.0 if faster == falls else math.inf)
    right = sum((point.ratio < 1) == ((point.size >= at) == falls) for point in points)
    return Crossing(at, min(*ends, at), max(*ends, at), right, len(points))


def _cross(points: Sequence[Point], ratios: Sequence[float], falls: bool) -> float | None:
    sizes = sorted({point.size for point in points})
    sign = 1 if falls else -1
    heights = []  # above 0 where the size is to be below the threshold
    for size in sizes:
        here = [
            math.log(ratio)
            for point, ratio in zip(points, ratios, strict=True)
            if point.size == size
        ]
        heights.append(sign * sum(here) / len(here))
    costs = [
        sum(max(0.0, -h) for h in heights[:i]) + sum(max(0.0, h) for h in heights[i:])
        for i in range(len(sizes) + 1)
    ]
    i = costs.index(min(costs))
    if i in (0, len(sizes)):
        return None
    (a, b), (u, v) = heights[i - 1 : i + 1], (math.log(size) for size in sizes[i - 1 : i + 1])
    part = a / (a - b) if a > b else 0.5  # a >= 0 >= b, or another i would cost less
    return math.exp(u + (v - u) * part)


def faster(points: Sequence[Point]) -> bool:
    """Return whether the first way is the faster one on the whole."""
    return sum(math.log(point.ratio) for point in points) < 0


# ---- The costs of `zoo.bases.block_products.product_pays` ----------------------------------------


class Layer(NamedTuple):
    """Times of a BlockDCT, a dense layer's being 1."""

    share: float  # K / mn
    small: float  # s = 1/I + 1/J
    ends: float  # 1/m + 1/n
    tokens: int
    product: float  # without W
    built: float  # with it


class Costs(NamedTuple):
    """What was fitted, and how well."""

    values: tuple[float, ...]  # a, b, c, d, e
    right: int  # how many layers it decides as they were measured
    lost: float  # time of what it decides over that of the faster way, a geometric mean
    layers: int


def costs(layers: Sequence[Layer]) -> Costs | None:
    """Fit the costs by least squares of relative errors, with a to e not below 0.

        product = (1 + a s) K / mn + b s + c (1/m + 1/n),   built = d + e / T

    None of fewer than five layers, or of one number of tokens.
    """
    if len(layers) < 5 or len({each.tokens for each in layers}) < 2:
        return None
    first = [
        ((each.small * each.share, each.small, each.ends), each.product - each.share, each.product)
        for each in layers
    ]
    second = [((1.0, 1 / each.tokens), each.built, each.built) for each in layers]
    a, b, c = _least_squares(first)
    d, e = _least_squares(second)
    right, lost = 0, 0.0
    for each in layers:
        product = (1 + a * each.small) * each.share + b * each.small + c * each.ends
        pays = product < d + e / each.tokens
        right += pays == (each.product < each.built)
        lost += math.log((each.product if pays else each.built) / min(each.product, each.built))
    return Costs((a, b, c, d, e), right, math.exp(lost / len(layers)), len(layers))


def _least_squares(rows: Sequence[tuple[tuple[float, ...], float, float]]) -> tuple[float, ...]:
    """Fit coefficients, none below 0, of columns that add up to a target, each row over its scale.

    Of few columns: the best of all subsets whose solution is nowhere below 0, which is the
    least-squares solution.
    """
    matrix = torch.tensor(
        [[x / scale for x in columns] for columns, _, scale in rows], dtype=torch.float64
    )
    target = torch.tensor([y / scale for _, y, scale in rows], dtype=torch.float64)
    number = matrix.shape[1]
    best, least = (0.0,) * number, target.square().sum().item()
    for size in range(1, number + 1):
        for chosen in itertools.combinations(range(number), size):
            some = matrix[:, list(chosen)]
            solution = torch.linalg.lstsq(some, target[:, None], driver="gelsd").solution[:, 0]
            error = (some @ solution - target).square().sum().item()
            if solution.min() >= 0 and error < least:
                values = dict(zip(chosen, solution.tolist(), strict=True))
                best, least = tuple(values.get(i, 0.0) for i in range(number)), error
    return best
