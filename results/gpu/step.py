"""A training step of a network of GPT-2's size, from scratch: tokens a second, peak share, memory.

The network is the character task's GPT, zoo's own way to train from scratch, at GPT-2's sizes: 12
blocks of width 768, 12 heads, 50,304 ids (GPT-2's 50,257, padded to a multiple of 64), 8 windows of
1024 random ids. Its head is untied, so it has 38.6 million parameters more than GPT-2's 124
million; what it multiplies by is the same 123.6 million. The step is `zoo fit`'s
(`results.gpu.training.steps`): bfloat16 autocast, clipping, AdamW in one kernel. In the 48 matrices
of the blocks: dense, DCT 1/2, BlockDCT 1/2 and 1/10, LoRA at half of the numbers.

All five run from Python first, then those that build W with `recompute` (W is not kept for
backward), then compiled, while there is time: each block is compiled by itself, and twelve alike
share one graph, which takes a twelfth of the time; embedding, head and loss are not.

    operations = 6 N T + 6 L T C w
    floor = operations / (measured products a second) + 32 bytes a parameter / (measured bandwidth)

N is as the method has it (`results.gpu.training.steps.operations`). `share_of_peak` is operations /
(time x measured products a second). By the counts, at 7.2e14 operations and 4.3e12 bytes a second,
a dense step is 6.1e12 + 0.5e12 operations, 9.1 ms, and 5.2 GB, 1.2 ms, so 10.3 ms and 0.8 million
tokens a second at best. Logits in float32 and their gradient are 3.3 GB, of some 20 GB at the peak.
Building the five takes 10 to 15 s (DCT's places are sorted on the CPU), measuring one 2 s,
compiling a block 10 to 20 s.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from results.gpu.frame.clock import Ceilings, alternate, ceilings, median, synchronize
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting
from results.gpu.training.gpt2 import GPT2, SMALL, Size, made

if TYPE_CHECKING:
    from results.gpu.training.steps import Run

GB = 1e9
COLD, WARM = 18.0, 12.0
"""Seconds that must be left to compile: the first, and each after it."""


WINDOWS = 8
METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "dense": ("Dense", {}),
    "DCT 1/2": ("DCT", {"ratio": 0.5}),
    "BlockDCT 1/2": ("BlockDCT", {"ratio": 0.5}),
    "BlockDCT 1/10": ("BlockDCT", {"ratio": 0.1}),
    "LoRA 1/2": ("LoRA", {"ratio": 0.5}),
}


def measure(setting: Setting, table: Table) -> None:
    """Write a row for each method and way to run it, in the order of worth."""
    wanted = [case for case in cases(setting.small) if not table.has(**case)]
    if not wanted:
        return
    size, most = (SMALL if setting.small else GPT2), ceilings(setting.device)
    compiled, runs = 0, dict[str, "Run"]()
    for case in wanted:
        is_compiled = case["loop"] == "compiled"
        least = 0.0 if setting.small or not is_compiled else WARM if compiled else COLD
        if setting.left() < max(least, 3.0):
            print(f"step: no time for {case}", file=sys.stderr)
            continue
        compiled += is_compiled
        try:
            name = case["layers"]
            run = runs[name] = runs[name] if name in runs else built(name, size, setting.device)
            row = _measured(run, case, size, setting, most)
        except Exception as error:  # whatever a compiler may raise
            row = {"note": note(error, setting.device)}
        table.write(**case, **row)


def cases(small: bool) -> Iterator[dict[str, str]]:
    """Return the cases in the order of worth; one that is compiled is rehearsed."""
    for name in METHODS:
        yield {"layers": name, "loop": "eager", "recompute": "no"}
    for name in ("DCT 1/2", "BlockDCT 1/2"):
        yield {"layers": name, "loop": "eager", "recompute": "yes"}
    for name in list(METHODS)[: 1 if small else None]:
        yield {"layers": name, "loop": "compiled", "recompute": "no"}


def built(name: str, size: Size, device: str) -> "Run":
    """Make the training of one method, on the device."""
    from results.gpu.training.steps import Run
    from zoo import parameterizations

    kind, arguments = METHODS[name]
    model = made(getattr(parameterizations, kind), arguments, size, device)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(size.vocabulary, (20 * size.context,), generator=random)
    starts = torch.randint(len(ids) - size.context, (10_000, WINDOWS), generator=random)
    return Run(model, ids, starts, size.context)


def _measured(
    run: "Run", case: Mapping[str, str], size: Size, setting: Setting, most: Ceilings
) -> dict[str, Any]:
    """Measure one row: a step, called again and again."""
    from results.gpu.training.steps import moved, operations
    from zoo.layers.convert import zoo_layers

    for layer in zoo_layers(run.model.net).values():
        layer.recompute = case["recompute"] == "yes"
    seconds: dict[str, Any] = {}
    if case["loop"] == "compiled":
        start = time.perf_counter()
        torch.compiler.reset()  # one method's graphs are not tried for another's blocks
        for block in run.model.net.blocks:  # type: ignore[union-attr]
            block.compile(dynamic=False, backend="eager" if setting.small else "inductor")
        run.step()
        run.step()
        synchronize(setting.device)
        seconds = {"compile_seconds": time.perf_counter() - start}
    took = median(
        alternate({"step": run.step}, setting.device, 0.02 if setting.small else 1.0, 3, 2)
    )["step"]
    tokens = WINDOWS * size.context
    with run.precision():
        counted = operations(run.model, tokens, size.context)
    floor = counted / most.products + moved(run.model) / most.bandwidth
    return {
        "trainable": sum(p.numel() for p in run.model.parameters()),
        "step_ms": 1000 * took,
        "floor_ms": 1000 * floor,
        "tokens_per_second": tokens / took,
        "share_of_peak": counted / most.products / took,
        **({} if setting.device == "cpu" else {"peak_gb": _peak(run) / GB}),
        **seconds,
    }


def _peak(run: "Run") -> int:
    """Return the bytes at the peak of a step: the run's own, and what a step adds to them."""
    run.optimizer.zero_grad()
    torch.cuda.synchronize()
    state = [value for each in run.optimizer.state.values() for value in each.values()]
    held = sum(each.nbytes for each in (*run.model.parameters(), *run.model.buffers(), *state))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run.step()
    torch.cuda.synchronize()
    added = torch.cuda.max_memory_allocated() - before
    run.optimizer.zero_grad()
    return held + added


def lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Summarize each method in a line.

    It says thousands of tokens a second, from Python and compiled, the share of the peak, and
    memory.
    """
    by_case = {
        (row.get("layers"), row.get("loop"), row.get("recompute")): row
        for row in rows
        if row.get("step_ms")
    }
    said = []
    for name in METHODS:
        eager, again, fast = (
            by_case.get((name, *key))
            for key in (("eager", "no"), ("eager", "yes"), ("compiled", "no"))
        )
        if eager is None:
            continue
        rate, share = float(eager["tokens_per_second"]) / 1e3, float(eager["share_of_peak"])
        text = f"{name}: {rate:.0f}k/s ({share:.0%})"
        if fast is not None:
            text += f", compiled {float(fast['tokens_per_second']) / 1e3:.0f}k"
        if eager.get("peak_gb"):
            text += f", {float(eager['peak_gb']):.1f} GB"
            if again is not None and again.get("peak_gb"):
                text += f", recomputed {float(again['peak_gb']):.1f}"
        said.append(text)
    return said
