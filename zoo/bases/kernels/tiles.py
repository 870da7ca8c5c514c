"""How a kernel's work is cut up: by what was measured where it was, by reasoning elsewhere.

`bash results/gpu.sh --only blocks` measures, and `python -m results.gpu.blocks FOLDER` prints of
its rows the table that stands here as `MEASURED`.
"""

import math
from typing import NamedTuple

import torch

from zoo.bases.blocks import BlockLayout

SHARED_BYTES = 200 * 1024
"""What a program may take on chip, of the 227 KB of an H100."""
TILE_BYTES = 32 * 1024
"""What x, and what coefficients may take in a step."""


class Tiles(NamedTuple):
    """How the work is cut up; all but `splits` and `stages` are powers of two."""

    rows: int  # block rows i of a program
    depth: int  # blocks j of a step
    positions: int  # positions t of a step
    splits: int  # programs that share the j of one a and i
    warps: int  # of 32 threads, of a program
    stages: int  # steps whose loads are under way at a time
    fused: bool  # one launch: the last program of an i transforms back


def text(tiles: Tiles) -> str:
    """Write tiles as seven numbers."""
    return " ".join(str(int(n)) for n in tiles)


def read(numbers: str) -> Tiles:
    """Read what `text` has written."""
    *others, fused = map(int, numbers.split())
    return Tiles._make([*others, bool(fused)])


class Device(NamedTuple):
    """What matters of a GPU to the choice of tiles."""

    processors: int
    capability: tuple[int, int]


H100 = Device(132, (9, 0))


class Class(NamedTuple):
    """Calls that are taken to be alike: lengths are rounded up to powers of two."""

    capability: tuple[int, int]
    bytes: int  # of a number of x
    block: tuple[int, int]  # p, q
    positions: int  # in a row of a block
    side: int  # sqrt(mn), to the nearest power of two
    tokens: int


MEASURED: dict[Class, Tiles] = {}
"""The fastest tiles that a search found. Nothing has been measured yet."""


def padded(n: int) -> int:
    """Return the least power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def class_of(
    layout: BlockLayout, tokens: int, dtype: torch.dtype, capability: tuple[int, int]
) -> Class:
    """Return the class of a call."""
    weights = layout.grid[0] * layout.p * layout.grid[1] * layout.q
    return Class(
        capability,
        dtype.itemsize,
        (padded(layout.p), padded(layout.q)),
        padded(_width(layout)),
        2 ** round(math.log2(weights) / 2),
        padded(tokens),
    )


def default_tiles(
    layout: BlockLayout, tokens: int, dtype: torch.dtype, device: Device = H100
) -> Tiles:
    """Return the tiles measured to be the fastest of a call's class; else `reasoned_tiles`.

    The latter are taken where the former do not fit, too.
    """
    measured = MEASURED.get(class_of(layout, tokens, dtype, device.capability))
    if measured is not None and fits(measured, layout, tokens, dtype):
        return measured
    return reasoned_tiles(layout, tokens, dtype, device.processors)


def reasoned_tiles(
    layout: BlockLayout, tokens: int, dtype: torch.dtype, processors: int = 132
) -> Tiles:
    """Reason out tiles: two programs a processor, one for over 16 tokens, and 256 deep."""
    down, across = layout.grid
    size, height, length = dtype.itemsize, padded(tokens), padded(layout.q)
    positions = max(min(16, padded(_width(layout))), length // 16)
    rows = min(32 if height <= 16 else 128, max(16, padded(down)))
    depth = min(512 // size, TILE_BYTES // (rows * size)) // positions
    depth = min(depth, TILE_BYTES // (height * length * size), padded(across))
    depth = max(depth, _least_depth(positions, height, size))
    step, kept = _on_chip(rows, depth, positions, height, length, size)
    stages = max(1, min(3, (SHARED_BYTES - kept) // step))
    used = layout.p if layout.r else layout.e
    programs = used * -(-down // rows)
    splits = max(1, min((2 if height <= 16 else 1) * processors // programs, -(-across // depth)))
    return Tiles(rows, depth, positions, splits, 4 if height <= 16 else 8, stages, height <= 16)


def fits(tiles: Tiles, layout: BlockLayout, tokens: int, dtype: torch.dtype) -> bool:
    """Say whether tiles are legal for a call, leave no program idle, and fit on chip.

    The compiler has the last word on the latter.
    """
    (down, across), size, height, length = (
        layout.grid,
        dtype.itemsize,
        padded(tokens),
        padded(layout.q),
    )
    rows, depth, positions, splits, warps, stages, _ = tiles
    if (
        any(n < 1 or n != padded(n) for n in (rows, depth, positions, warps))
        or min(splits, stages) < 1
    ):
        return False
    step, kept = _on_chip(rows, depth, positions, height, length, size)
    return (
        16 <= rows <= max(16, padded(down))
        and length // 16 <= positions <= max(padded(_width(layout)), length // 16)
        and _least_depth(positions, height, size) <= depth
        and (depth <= padded(across) or depth == _least_depth(positions, height, size))
        and splits <= -(-across // depth)
        and warps <= 16
        and stages * step + kept <= SHARED_BYTES
    )


def _width(layout: BlockLayout) -> int:
    """Count the positions of the fullest row of a block."""
    return layout.r + (layout.e > 0)


def _least_depth(positions: int, height: int, size: int) -> int:
    """Count the blocks that fill the 16 rows of a product on tensor cores, and 16 bytes."""
    return max(16 // size, 16 // positions * max(1, 16 // height))


def _on_chip(
    rows: int, depth: int, positions: int, height: int, length: int, size: int
) -> tuple[int, int]:
    """Count the bytes of x and of coefficients for each stage, and those of x^."""
    step = (height * depth * length + rows * depth * positions) * size
    return step, 2 * max(16, height) * depth * positions * size
