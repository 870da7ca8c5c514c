"""How the sizes of a weight divide. Pure arithmetic."""

import math
from collections.abc import Sequence

from zoo.bases.blocks import largest_divisor


def divisors(n: int) -> list[int]:
    """Return the divisors of n, from 1 to n."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d < n]


def nearest_divisors(n: int, wanted: int) -> list[int]:
    """Return the divisors of n next to a number that is none, one below and one above it."""
    below = [d for d in divisors(n) if d <= wanted][-1:]
    return below + [d for d in divisors(n) if d > wanted][:1]


def even_factors(n: int) -> tuple[int, int]:
    """Return the two factors of n that are nearest to its root, the smaller one first."""
    small = largest_divisor(n, math.isqrt(n))
    return small, n // small


def two_factors(n: int, wanted: int | None = None) -> tuple[int, int]:
    """Return two factors of n as LoKr has them.

    By default they are the `even_factors`. Of a wanted number the first is that number where it
    divides n, and otherwise the largest divisor below it that is at most n's root.
    """
    if wanted is None:
        return even_factors(n)
    first = wanted if n % wanted == 0 else largest_divisor(n, min(wanted, math.isqrt(n)))
    return first, n // first


def ascending_factors(n: int, count: int) -> tuple[int, ...]:
    """Return `count` factors of n, the smallest one first, of the least sum: as even as it goes."""
    if count == 1:
        return (n,)
    splits = ((d, *ascending_factors(n // d, count - 1)) for d in divisors(n))
    return min((s for s in splits if s[0] <= s[1]), key=lambda s: (sum(s), s))


def grid_up_to(m: int, n: int, most: int) -> tuple[int, int]:
    """Return as many blocks down and across an (m, n) weight as divide its sides, up to `most`."""
    return largest_divisor(m, most), largest_divisor(n, most)


def grid_of(m: int, n: int, blocks: int | Sequence[int]) -> tuple[int, int]:
    """Return how many blocks there are down and across an (m, n) weight.

    Args:
        m: rows.
        n: columns.
        blocks: one number for both, or two; the first divides m and the second n.

    Raises:
        ValueError: for another number of them, and where one does not divide; it names those next
            to it that do.
    """
    grid = [blocks, blocks] if isinstance(blocks, int) else list(blocks)
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(
            f"blocks must be one number or two, down and across, each at least 1, got {blocks}"
        )
    for side, size, count in (("rows", m, grid[0]), ("columns", n, grid[1])):
        if size % count:
            works = " or ".join(map(str, nearest_divisors(size, count)))
            raise ValueError(
                f"blocks must divide shape {(m, n)}: {size} {side} into {works}, got {count}"
            )
    return grid[0], grid[1]
