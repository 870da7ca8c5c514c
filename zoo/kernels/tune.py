"""Measure the kernel on a GPU, beside a dense layer.

>>> layout = block_layout(4096, 4096, 16, 4096 * 4096 // 2, generator(0))
>>> compare(layout, tokens=1)
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime.errors import OutOfResources

from zoo.blocks import BlockLayout
from zoo.kernels.block_linear import Tiles, block_linear, default_tiles, kernel_tables

FLUSH_BYTES = 256 * 2**20
"""Weights that a measurement goes through in turn: more than caches hold, as in a network."""


class Measured(NamedTuple):
    """Seconds of one layer."""

    dense: float
    kernel: float  # with `tiles`, the fastest
    default: float  # with `default_tiles`
    tiles: Tiles


def seconds(calls: Sequence[Callable[[], object]], rounds: int = 20) -> float:
    """Median time of one of the calls, all captured in one CUDA graph, as a decoder that is worth tuning runs them."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / len(calls))
    return statistics.median(times)


def candidates(layout: BlockLayout, tokens: int, dtype: torch.dtype) -> list[Tiles]:
    """Tiles around the default, which comes first."""
    default = default_tiles(layout, tokens, dtype)
    found = [default]
    sizes = ((32, 64, 128), (1, 2), (1, 2, 4, 8), (2, 3, 4), (True, False))
    for rows, deeper, splits, stages, fused in itertools.product(*sizes):
        depth = default.depth * deeper
        if rows <= 2 * layout.grid[0] and splits * depth <= layout.grid[1]:
            found.append(Tiles(rows, depth, default.positions, splits, 4 if rows <= 64 else 8, stages, fused))
    return list(dict.fromkeys(found))


def _copies(weight: Tensor) -> list[Tensor]:
    return [weight.clone() for _ in range(max(2, FLUSH_BYTES // weight.nbytes))]


@torch.no_grad()
def tune(
    x: Tensor, coef: Tensor, layout: BlockLayout, measure: Callable[[Sequence[Callable[[], object]]], float] = seconds
) -> list[tuple[float, Tiles]]:
    """Seconds of every candidate that fits on chip, the fastest first; the default's are among them."""
    tables, coefs = kernel_tables(layout, x.device, x.dtype), _copies(coef)
    found = []
    for tiles in candidates(layout, x.shape[:-1].numel(), x.dtype):
        try:
            time = measure([partial(block_linear, x, c, layout, tables, None, tiles) for c in coefs])
        except OutOfResources:
            continue
        found.append((time, tiles))
    return sorted(found)


@torch.no_grad()
def compare(layout: BlockLayout, tokens: int, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> Measured:
    """The kernel, tuned, and a dense layer of the same shape."""
    m, n = layout.grid[0] * layout.p, layout.grid[1] * layout.q
    x = torch.randn(tokens, n, device=device, dtype=dtype)
    coef, weight = (torch.randn(k, device=device, dtype=dtype) for k in (layout.coefficients, m * n))
    times = tune(x, coef, layout)
    default = default_tiles(layout, tokens, dtype)
    dense = seconds([partial(F.linear, x, w) for w in _copies(weight.view(m, n))])
    return Measured(dense, times[0][0], next(time for time, tiles in times if tiles == default), times[0][1])
