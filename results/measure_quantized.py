"""Measure what a training step takes beside a quantized base: bytes of the base, and peak memory.

    python -m results.measure_quantized nf4 DCT

A stack of linear layers gets updates as `zoo.adapt` gives them, and trains one step to warm up; the
next is measured, under bfloat16 autocast. A row as JSON is printed. `python -m results.measure_api`
asks for all rows, each of a process of its own, with one thread. Columns are

    bytes      of all tensors of the base, as it is held before it is adapted
    numbers    coefficients; 12 bytes each, with AdamW's moments, lie beside the base in every step
    mib        the most that a step holds in torch's allocators beyond what was there before it
"""

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

# Before torch is imported, whose profiler announces itself otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import Tensor, nn

import zoo
from zoo.studies.bench.rows import SOURCE
from zoo.studies.bench.timing import peak_memory

BASES = ["bf16", "int8", "nf4"]
METHODS = ["none", "LoRA", "DoRA", "DCT"]
RANK = 8
SIZES = {"layers": 12, "width": 1024, "tokens": 64}
REPETITIONS = 2
COLUMNS = ["base", "method", "repetition", *SIZES, "bytes", "numbers", "mib", *SOURCE]


def layer(base: str, width: int) -> nn.Module:
    """Return a linear layer of random weights, as torch or bitsandbytes holds it."""
    made = nn.Linear(width, width, bias=False, dtype=torch.bfloat16)
    if base == "bf16":
        return made
    import bitsandbytes as bnb

    if base == "int8":
        found = bnb.nn.Linear8bitLt(width, width, bias=False, has_fp16_weights=False)
    else:
        kind = {"compute_dtype": torch.bfloat16, "quant_type": base}
        found = bnb.nn.Linear4bit(width, width, bias=False, **kind)
    found.to(torch.bfloat16).load_state_dict(made.state_dict())
    return found.to("cpu")  # by which it is quantized


def held() -> int:
    """Count the bytes of all tensors of this process, each storage once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    storages = {each.data_ptr(): each for each in (t.untyped_storage() for t in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def measured(base: str, method: str, layers: int, width: int, tokens: int) -> dict[str, Any]:
    """Measure an update of a base, of which this process has no other tensors.

    Args:
        base: one of `BASES`.
        method: one of `METHODS`; LoRA's count is that of rank 8, and so is DCT's.
        layers: in the stack.
        width: of each layer.
        tokens: rows of the input, whose gradient is asked for.
    """
    torch.manual_seed(0)
    before = held()
    model = nn.Sequential(*(layer(base, width) for _ in range(layers))).requires_grad_(False)
    found = {"bytes": held() - before, "numbers": 0}
    if method != "none":
        own = {"coefficients": 2 * RANK * width} if method == "DCT" else {"rank": RANK}
        zoo.adapt(model, getattr(zoo, method), targets="*", **own)
        found["numbers"] = zoo.summary(model).coefficients
    x = torch.randn(tokens, width, dtype=torch.bfloat16).requires_grad_()
    optimizer = torch.optim.AdamW([x, *zoo.trainable(model).values()], lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    return {**found, "mib": f"{peak_memory(step) / 2**20:.1f}"}


def rows(sizes: dict[str, int], there: Sequence[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Measure every base, method and repetition that is not there, each in a fresh process.

    Args:
        sizes: `SIZES`, or others.
        there: base, method and repetition of rows that are not measured again.
    """
    for base, method, repetition in product(BASES, METHODS, range(REPETITIONS)):
        if (base, method, str(repetition)) not in there:
            words = [base, method, *map(str, sizes.values())]
            ran = subprocess.run(
                [sys.executable, "-m", "results.measure_quantized", *words],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            about = {"base": base, "method": method, "repetition": repetition, **sizes}
            yield about | json.loads(ran.stdout)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of what quantizers call in torch
    name, update, *numbers = sys.argv[1:]
    print(json.dumps(measured(name, update, *map(int, numbers or SIZES.values()))))
