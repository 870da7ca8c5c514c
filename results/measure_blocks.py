"""Measures what `zoo.bases.block_products.product_pays` was fitted to, and prints it as CSV rows.

    python -m results.measure_blocks 768x768 4096,512,16 >> results/block_products.csv

A layer's forward and backward pass, to x and to the coefficients, beside that of a dense layer:
with W built, and by products that never build it. Ratios to dense are medians over neighbours in
one process, with quartiles.
"""

import csv
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases.block_products import product_pays
from zoo.parameterizations import BlockDCT
from zoo.provenance import device_name
from zoo.studies.bench.timing import alternate, ratio

RATIOS, BLOCKS, SECONDS = (0.5, 0.1, 0.05), (8, 16, 32), 0.3


def main(shape: str, tokens: str) -> None:
    """Print the rows of one shape."""
    m, n = map(int, shape.split("x"))
    root = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True
    )
    source = {
        "command": f"python -m results.measure_blocks {shape} {tokens}",
        "commit": commit.stdout.strip(),
        "device": device_name(torch.device("cpu")),
        "date": datetime.now(UTC).date().isoformat(),
    }
    writer = None
    for count, low in product(map(int, tokens.split(",")), (False, True)):
        for row in measure(m, n, count, low):
            row |= source
            writer = writer or csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
            writer.writerow(row)
            sys.stdout.flush()


def measure(m: int, n: int, tokens: int, low: bool) -> list[dict[str, object]]:
    """Rows of one shape, number of tokens and precision: float32, or bfloat16 by autocast."""
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
    rows: list[dict[str, object]] = []
    for (share, block), p in maps.items():
        found = {
            way: ratio(times[f"{(share, block)} {way}"], times["dense"])
            for way in ("product", "built")
        }
        row = {
            "shape": f"{m}x{n}",
            "tokens": tokens,
            "precision": str(dtype).removeprefix("torch."),
            "block": block,
            "ratio": share,
            "dense_ms": round(1000 * sorted(times["dense"])[len(times["dense"]) // 2], 3),
        }
        for way, r in found.items():
            row |= {
                f"{way}_to_dense": f"{r.median:.3f}",
                f"{way}_quartiles": f"{r.low:.3f}-{r.high:.3f}",
            }
        rows.append(
            {
                **row,
                "taken": "product"
                if product_pays(p.arrangement, dtype, "cpu", tokens)
                else "built",
            }
        )
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
