"""How long a projection goes on that has no closed form. Pure arithmetic."""

WORK = 10**10
"""Multiply-adds that all rounds of a fit may take: a second or two of a CPU's core."""
FEWEST = 3
"""Rounds that there are in any case."""


def rounds(most: int, each: int) -> int:
    """Return how many rounds of a fit there are at most, of `each` multiply-adds.

    The first rounds gain most, so that a large weight, of which there may be hundreds in a network,
    ends before it is stationary.
    """
    return min(most, max(FEWEST, WORK // max(each, 1)))
