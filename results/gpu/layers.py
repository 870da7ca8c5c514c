"""Layers beside a dense one and peft's in bfloat16: times, ratios and peak memory.

A row is one layer at one shape and number of tokens, alone or as an update of a frozen W0: a
forward pass as training has it, and both passes, with gradients to x and to all that is trained.
Coefficients, x and W0 are float32 under bfloat16 autocast, as zoo trains. All layers of a group are
called in turn in one process (`results.gpu.frame.clock`), and ratios are medians over neighbours,
with quartiles. A layer in a loop finds its W in the cache where a network would not: at 2048 x 2048
and below, the bytes of W count for less than in training. Memory is the peak of both passes beyond
parameters, buffers, inputs and the gradient of y.

Alone: dense, DCT 1/2, BlockDCT 1/2 and 1/10, LoRA and RandLoRA 1/2. As updates: all weights, LoRA
of rank 8, RandLoRA of rank 32, DCT and BlockDCT with LoRA's count; and peft's LoRA, RandLoRA and
FourierFT at the same counts. A tuner that peft lacks, or has under other arguments, is a row with a
note.

The floor of each is in `results.gpu.cases.floors`. By the counts, with 4.3e12 bytes and 7.2e14
operations a second, a dense layer of 4096 x 4096 takes 2.3 ms for both passes of 16,384 tokens, 0.6
ms for 4096, and up to 256 tokens some 0.09 ms, W cast and moved; 24 groups of some ten layers, ten
rounds each, take 25 s, imports, peft's among them, 12 s, and what is drawn on the CPU 15 s. What is
left is for ten layers compiled, some 5 s each and the first more like 15, and for eight groups of
3072 x 768; the part goes on until its time is over, and when it is run again.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from results.gpu.cases.floors import floor
from results.gpu.cases.layers import DENSE, Layer, layers_of
from results.gpu.frame.clock import alternate, ceilings
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Last, Table
from results.gpu.frame.setting import Setting
from zoo.studies.bench.timing import peak_memory, ratio

GB = 1e9
SHAPES = ((4096, 4096), (768, 768), (2048, 2048), (3072, 768))
TOKENS = (4096, 256, 16384, 16)
COMPILED = (
    ((4096, 4096), 4096, "alone", ("DCT 0.5", "BlockDCT 0.5", "LoRA 0.5")),
    ((4096, 4096), 4096, "update", ("LoRA rank=8", "BlockDCT lora_rank=8")),
    ((768, 768), 4096, "alone", ("DCT 0.5", "BlockDCT 0.5")),
)
GROUP, BUILD, COLD, WARM = 4.0, 12.0, 25.0, 12.0
"""Seconds that must be left to begin: a group of eager layers, the building of 4096 x 4096 ones,
the first compiled layer, and each after it."""


def measure(setting: Setting, table: Table) -> None:
    """Write a row for each layer, shape, number of tokens and way to run it."""
    torch.manual_seed(0)
    if setting.small:
        torch.set_num_threads(1)  # tiny sizes wait for other threads longer than they work
    shapes, tokens = (((32, 32),), (16,)) if setting.small else (SHAPES, TOKENS)
    compiled = [((32, 32), 16, "alone", ("BlockDCT 0.5",))] if setting.small else list(COMPILED)
    for shape in shapes[:3]:
        _shape(shape, tokens, setting, table)
    for shape, count, start, names in compiled:
        if all(table.has(**_case(shape, count, start, name, "compiled")) for name in names):
            continue
        if setting.left() > COLD or setting.small:
            layers = [
                each
                for each in layers_of(shape, start, setting.device, names)
                if isinstance(each, Layer)
            ]
            _compiled(layers, shape, count, start, setting, table)
    for shape in shapes[3:]:
        _shape(shape, tokens, setting, table)


def _case(shape: tuple[int, int], tokens: int, start: str, name: str, run: str) -> dict[str, Any]:
    return {
        "shape": f"{shape[0]}x{shape[1]}",
        "tokens": tokens,
        "start": start,
        "layer": name,
        "run": run,
    }


# ---- Groups --------------------------------------------------------------------------------------


class _Calls(NamedTuple):
    """The calls of one layer."""

    forward: Callable[[], Tensor]
    both: Callable[[], None]
    clear: Callable[[], None]  # drops all gradients


class _Data:
    """x and the gradient of y, of which each call has the same."""

    def __init__(self, shape: tuple[int, int], tokens: int, device: str) -> None:
        self.device = device
        self.x = torch.randn(tokens, shape[1], device=device).requires_grad_()
        self.grad = torch.randn(tokens, shape[0], device=device, dtype=torch.bfloat16)

    def calls(self, module: Callable[[Tensor], Tensor], trained: Sequence[nn.Parameter]) -> _Calls:
        """Return the passes of a module that trains these parameters."""

        def forward() -> Tensor:
            with torch.autocast(self.device, torch.bfloat16):
                return module(self.x)

        def clear() -> None:
            self.x.grad = None
            for p in trained:
                p.grad = None

        def both() -> None:
            clear()
            y = forward()
            y.backward(self.grad if y.dtype == self.grad.dtype else self.grad.to(y.dtype))

        return _Calls(forward, both, clear)


def _shape(shape: tuple[int, int], tokens: Sequence[int], setting: Setting, table: Table) -> None:
    """Measure all eager groups of a shape."""
    for start in ("alone", "update"):
        left = [
            count for count in tokens if not table.has(**_case(shape, count, start, DENSE, "eager"))
        ]
        layers = []
        if left and setting.left() < GROUP + BUILD * shape[0] * shape[1] / 4096**2:
            continue
        for each in layers_of(shape, start, setting.device) if left else ():
            if isinstance(each, Layer):
                layers.append(each)
            else:
                _failed(each[0], each[1], shape, left, start, table)
        for count in left:
            if setting.left() < GROUP:
                return
            try:
                _group(layers, shape, count, start, setting, table)
            except Exception as error:  # a group of which no row is written: too little memory, say
                why = note(error, setting.device)
                print(f"{shape}, {count} tokens, {start}: {why}", file=sys.stderr, flush=True)
                if isinstance(why, Last):
                    raise


def _failed(
    name: str,
    why: str,
    shape: tuple[int, int],
    tokens: Sequence[int],
    start: str,
    table: Table,
    run: str = "eager",
) -> None:
    print(f"{name}, {shape}, {start}, {run}: {why}", file=sys.stderr, flush=True)
    for count in tokens:
        if not table.has(**(case := _case(shape, count, start, name, run))):
            table.write(**case, note=why)


def _group(
    layers: Sequence[Layer],
    shape: tuple[int, int],
    tokens: int,
    start: str,
    setting: Setting,
    table: Table,
) -> None:
    """Time all layers in turn and write a row of each.

    The dense one's comes last, which says that the group is done.
    """
    data, calls, working, peaks = _Data(shape, tokens, setting.device), {}, [], {}
    for layer in layers:
        if layer.name != DENSE and table.has(**_case(shape, tokens, start, layer.name, "eager")):
            continue
        calls[layer.name] = data.calls(layer.module, layer.parameters)
        try:
            peaks[layer.name] = _peak(calls[layer.name], setting.device)
            working.append(layer)
        except Exception as error:
            _failed(layer.name, note(error, setting.device), shape, [tokens], start, table)
    times = [{layer.name: calls[layer.name][which] for layer in working} for which in (0, 1)]
    seconds = 0.01 if setting.small else 0.2
    taken = [alternate(each, setting.device, seconds, least=5, warmup=2) for each in times]
    for layer in sorted(working, key=lambda each: each.name == DENSE):
        case = _case(shape, tokens, start, layer.name, "eager")
        if not table.has(**case):
            columns = _found(layer, tokens, taken, layer.name, setting, layer.rival)
            table.write(**case, peak_gb=peaks[layer.name] / GB, **columns)


def _peak(calls: _Calls, device: str) -> int:
    """Measure the bytes of both passes with their gradients.

    What is made once, at a first call, is not among them.
    """
    calls.both()
    calls.clear()
    return peak_memory(calls.both, torch.device(device))


def _found(
    layer: Layer,
    tokens: int,
    taken: Sequence[dict[str, list[float]]],
    key: str,
    setting: Setting,
    rival: str | None = None,
) -> dict[str, Any]:
    """Return the columns of a row: of the forward pass, and of both."""
    row: dict[str, Any] = {"trained": layer.counts.trained}
    for name, times, both in zip(("forward", "both"), taken, (False, True), strict=True):
        row[f"{name}_ms"] = 1e3 * statistics.median(times[key])
        row[f"{name}_floor_ms"] = 1e3 * floor(layer.counts, tokens, both, ceilings(setting.device))
        for other, to in (("dense", DENSE), ("peft", rival)):
            if to in times and to != key:
                found = ratio(times[key], times[to])
                row[f"{name}_to_{other}"] = found.median
                row[f"{name}_to_{other}_quartiles"] = f"{found.low:.3f}-{found.high:.3f}"
    return row


def _compiled(
    layers: Sequence[Layer],
    shape: tuple[int, int],
    tokens: int,
    start: str,
    setting: Setting,
    table: Table,
) -> None:
    """Time each layer compiled, in turn with itself eager and with a compiled dense layer."""
    torch._dynamo.reset()  # one function is compiled for at most eight modules
    data, backend = _Data(shape, tokens, setting.device), "eager" if setting.small else "inductor"
    dense, seconds = None, 0.01 if setting.small else 0.3
    for layer in layers:
        case = _case(shape, tokens, start, layer.name, "compiled")
        if (dense and table.has(**case)) or (setting.left() < WARM and not setting.small):
            continue
        try:
            module = torch.compile(layer.module, dynamic=False, backend=backend)
            calls = data.calls(module, layer.parameters)
            begin = time.perf_counter()
            peak = _peak(calls, setting.device)
            calls.forward()
            compile_seconds = time.perf_counter() - begin
            dense = dense or calls
            names = ("compiled", "eager", DENSE)
            of_all = (calls, data.calls(layer.module, layer.parameters), dense)
            taken = [
                alternate(
                    {name: each[which] for name, each in zip(names, of_all, strict=True)},
                    setting.device,
                    seconds,
                    warmup=2,
                )
                for which in (0, 1)
            ]
            columns = _found(layer, tokens, taken, "compiled", setting)
            eager = statistics.median(taken[1]["eager"]) / statistics.median(taken[1]["compiled"])
            if not table.has(**case):
                table.write(
                    **case,
                    peak_gb=peak / GB,
                    compile_seconds=compile_seconds,
                    eager_to_compiled=eager,
                    **columns,
                )
        except Exception as error:
            _failed(
                layer.name, note(error, setting.device), shape, [tokens], start, table, "compiled"
            )
            if dense is None:
                return


# ---- Summary -------------------------------------------------------------------------------------


def lines(rows: list[dict[str, str]]) -> list[str]:
    """Summarize both passes to dense and to peft's in at most five lines."""
    done = [row for row in rows if row.get("both_ms") and row.get("layer") not in (DENSE, "Dense")]
    if not done:
        return []
    shape, tokens = done[0]["shape"], done[0]["tokens"]
    here = [row for row in done if (row["shape"], row["tokens"]) == (shape, tokens)]
    ours = [row for row in here if not row["layer"].startswith("peft")]
    said = [f"both passes, {shape}, {tokens} tokens, in a dense layer's times"]
    for start, run in (("alone", "eager"), ("update", "eager"), ("alone", "compiled")):
        some = [row for row in ours if (row["start"], row["run"]) == (start, run)]
        said += _listed(start if run == "eager" else run, some, "both_to_dense")
    return said + _listed("to peft's", ours, "both_to_peft")


def _listed(what: str, rows: Sequence[dict[str, str]], column: str) -> list[str]:
    """Join as many layers as fit into one line; return none if there is no layer."""
    shortened = {
        "BlockDCT": "Block",
        "lora_rank=8": "8",
        "rank=": "",
        " 0.5": " 1/2",
        " 0.1": " 1/10",
    }
    line = f"{what}:"
    for row in rows:
        name = row["layer"]
        for long, brief in shortened.items():
            name = name.replace(long, brief)
        if row.get(column) and len(longer := f"{line} {name} {float(row[column]):.2f},") < 80:
            line = longer
    return [line.rstrip(",")] if line.endswith(",") else []
