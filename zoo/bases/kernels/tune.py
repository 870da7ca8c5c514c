"""Search for the fastest tiles of a call.

`results/gpu/blocks.py` measures, and says how much time there is.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from zoo.bases.blocks import BlockLayout
from zoo.bases.kernels.tiles import Class, Tiles, fits

FLUSH_BYTES = 256 * 2**20
"""Weights that a measurement goes through in turn: more than caches hold, as in a network."""


def copies(weight: Tensor, flush: int = FLUSH_BYTES) -> list[Tensor]:
    """Copy a weight, at least twice, so that all copies take so many bytes."""
    return [weight.clone() for _ in range(max(2, flush // weight.nbytes))]


def neighbours(tiles: Tiles, layout: BlockLayout, tokens: int, dtype: torch.dtype) -> list[Tiles]:
    """Return tiles that fit and differ in one number by a step, first what most often matters."""
    steps = {
        "splits": (2 * tiles.splits, tiles.splits // 2, tiles.splits + 1, tiles.splits - 1),
        "depth": (2 * tiles.depth, tiles.depth // 2),
        "stages": (tiles.stages + 1, tiles.stages - 1),
        "warps": (2 * tiles.warps, tiles.warps // 2),
        "rows": (2 * tiles.rows, tiles.rows // 2),
        "fused": (not tiles.fused,),
        "positions": (2 * tiles.positions, tiles.positions // 2),
    }
    found = [
        Tiles(**{**tiles._asdict(), name: value})
        for name, values in steps.items()
        for value in values
    ]
    return [
        each for each in dict.fromkeys(found) if each != tiles and fits(each, layout, tokens, dtype)
    ]


def search(
    start: Sequence[Tiles],
    near: Callable[[Tiles], Sequence[Tiles]],
    measure: Callable[[Sequence[Tiles]], Mapping[Tiles, float]],
    until: float,
    at_once: int = 1,
    clock: Callable[[], float] = time.time,
) -> dict[Tiles, float]:
    """Go from the fastest tiles to faster neighbours, until there are none or the time is up.

    Args:
        start: tiles that are measured whatever time there is.
        near: neighbours of tiles.
        measure: seconds of those of the tiles that work.
        until: the time of `clock` by which to end. No batch is begun that would end later, if it
            took as long as the longest did.
        at_once: tiles of a batch.
        clock: seconds.

    Returns:
        Seconds of all that were measured.
    """
    tried, begun = set(start), clock()
    found = dict(measure(list(dict.fromkeys(start))))
    longest = clock() - begun
    while found:
        batch = [
            each for each in near(min(found, key=lambda each: found[each])) if each not in tried
        ][:at_once]
        begun = clock()
        if not batch or begun + longest > until:
            break
        tried.update(batch)
        found.update(measure(batch))
        longest = max(longest, clock() - begun)
    return found


def source(winners: Mapping[Class, Tiles], origin: str) -> str:
    """Write the text of `zoo.bases.kernels.tiles.MEASURED`, with its origin as a comment."""
    lines = [f"    {_plain(each)}: {_plain(tiles)}," for each, tiles in sorted(winners.items())]
    return "\n".join(["MEASURED: dict[Class, Tiles] = {", f"    # {origin}", *lines, "}\n"])


def _plain(values: Class | Tiles) -> str:
    """Write its constructor, without names."""
    return f"{type(values).__name__}({', '.join(map(repr, values))})"
