"""Measure what `zoo.bases.block_products.product_pays` was fitted to, and print it as CSV rows.

    python -m results.measure_blocks 768x768 4096,512,16 >> results/block_products.csv

A layer's forward and backward pass, to x and to the coefficients, is timed beside that of a dense
layer: with W built, and by products that never build it. Ratios to dense are medians over
neighbours in one process, with quartiles.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from results.measure import Row, print_rows
from zoo.bases.block_products import product_pays
from zoo.parameterizations import BlockDCT
from zoo.studies.bench.rows import ratio_columns
from zoo.studies.bench.timing import alternate, ratio

RATIOS, BLOCKS = (0.5, 0.1, 0.05), (8, 16, 32)
SECONDS = 0.3
"""How long the calls of one case are repeated in turn."""


def main(shape: str, tokens: str) -> None:
    """Print the rows of one shape, as 768x768, and some numbers of tokens, as 4096,512."""
    m, n = map(int, shape.split("x"))
    counts = map(int, tokens.split(","))
    rows = (row for count, low in product(counts, (False, True)) for row in case(m, n, count, low))
    print_rows(rows, f"python -m results.measure_blocks {shape} {tokens}")


def case(m: int, n: int, tokens: int, low: bool) -> Iterable[Row]:
    """Time every ratio and block of one shape, number of tokens and precision.

    Args:
        m: rows of W.
        n: columns of W.
        tokens: inputs at once.
        low: bfloat16 by autocast; else float32.
    """
    dtype = torch.bfloat16 if low else torch.float32
    x = torch.randn(tokens, n, dtype=dtype, requires_grad=True)
    grad, dense = torch.randn(tokens, m, dtype=dtype), torch.nn.Linear(n, m, bias=False)

    def step(forward: Callable[[Tensor], Tensor], weight: Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                y = forward(x)
            return torch.autograd.grad(y, [x, weight], grad)

        return run

    maps = {
        (share, block): BlockDCT(m, n, ratio=share, block=block)
        for share, block in product(RATIOS, BLOCKS)
    }
    calls = {"dense": step(dense, dense.weight)}
    for key, p in maps.items():
        calls[f"{key} product"] = step(p._product, p.coef)
        calls[f"{key} built"] = step(lambda x, p=p: F.linear(x, p.weight()), p.coef)
    times = alternate(calls, seconds=SECONDS)
    for (share, block), p in maps.items():
        row: Row = {
            "shape": f"{m}x{n}",
            "tokens": tokens,
            "precision": str(dtype).removeprefix("torch."),
            "block": block,
            "ratio": share,
            "dense_ms": round(1000 * median(times["dense"]), 3),
        }
        for way in ("product", "built"):
            to_dense = ratio(times[f"{(share, block)} {way}"], times["dense"])
            columns = ratio_columns(to_dense._asdict())
            row |= {f"{way}_to_dense": columns["ratio"], f"{way}_quartiles": columns["quartiles"]}
        pays = product_pays(p.arrangement, dtype, "cpu", tokens)
        yield row | {"taken": "product" if pays else "built"}


if __name__ == "__main__":
    main(*sys.argv[1:])
