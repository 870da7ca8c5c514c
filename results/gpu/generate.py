"""Tokens a second at batch 1, of a network of GPT-2's size: merged, kept and by the kernel.

What `zoo generate` does for a token, `LanguageModel.sample`, on the device in bfloat16, at
temperature 0.8: the command itself stays on the CPU. It has no cache of keys and values, and sees
`window` ids at each token: 1, what a decoder with a cache would multiply for a token, and 16. (The
network is that of `results.gpu.step`; from-scratch tasks are the ones that zoo gives a size to.)

    merged    plain layers (`zoo.layers.convert.merge`)
    kept      W is built once and kept (`zoo.layers.linear`), so it must take as long as merged
    fused     every layer by the kernel for blocks, which reads coefficients only
    default   as zoo chooses for each layer; `by_kernel` says for how many it is the kernel

The floor is the bytes of weights, or of coefficients, and of the head, over the measured bandwidth:
by the counts 247 MB, 57 microseconds at 4.3e12 bytes a second, for a matrix of weights; 162 MB and
38 for half of the coefficients, 98 MB and 23 for an eighth. From Python a token takes some 200
launches of 5 microseconds and more, at least a millisecond: it is bound by launches, and all ways
take alike. `loop` graph is the same forward pass as one CUDA graph, without sampling: what the ways
differ in shows there.

By the counts, 20 s: imports, five networks of 2 to 4 s, sixteen kernels of a second, compiled at a
time.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from results.gpu.frame.clock import alternate, captured, ceilings, median
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting
from results.gpu.training.gpt2 import GPT2, Size, made
from zoo.parameterizations import DCT, BlockDCT

if TYPE_CHECKING:
    from tasks import CharLM

SMALL = Size(64, 1, 16, 2, 16)
WINDOWS = (1, 16)
WAYS = (
    ("DCT 1/2", "kept"),
    ("DCT 1/2", "merged"),
    ("BlockDCT 1/8", "fused"),
    ("BlockDCT 1/2", "fused"),
    ("BlockDCT 1/8", "default"),
    ("BlockDCT 1/2", "default"),
)
RATIOS = {"1/2": 0.5, "1/8": 0.125}
DTYPE = torch.bfloat16


class Fused(BlockDCT):
    """BlockDCT, multiplied without W whatever `product_pays` says."""

    builds_weight = False

    def _pays(self, x: Tensor) -> bool:
        return True


def measure(setting: Setting, table: Table) -> None:
    """Write a row for each network, window and way to run it."""
    size = SMALL if setting.small else GPT2
    model, of = None, ("", "")
    for case in cases(setting.small):
        if table.has(**case):
            continue
        if setting.left() < 3:
            print(f"generate: no time was left from {case} on", file=sys.stderr)
            return
        try:
            key = case["layers"], case["way"]
            if model is None or of != key:
                before = model if of == (key[0], "kept") else None
                model = None  # before the next one is made
                model, of = prepared(*key, size, setting.device, before), key
            row = _measured(model, case, setting)
        except Exception as error:  # whatever a compiler may raise
            row = {"note": note(error, setting.device)}
        table.write(**case, **row)


def cases(small: bool) -> Iterator[dict[str, Any]]:
    """Return the cases in the order in which networks are made.

    Without a GPU there are no graphs, and of each way there is one.
    """
    ways = {way: layers for layers, way in reversed(WAYS)}
    for (layers, way), window, loop in product(WAYS, WINDOWS, ("python", "graph")):
        if not small or (loop == "python" and window == 1 and ways[way] == layers):
            yield {"layers": layers, "way": way, "window": window, "loop": loop}


def prepared(
    layers: str, way: str, size: Size, device: str, before: "CharLM | None" = None
) -> "CharLM":
    """Return a network, ready to generate; made of the one before, if that is given."""
    from zoo.layers.convert import merge

    name, ratio = layers.split()
    kind = {"DCT": DCT, "BlockDCT": Fused if way == "fused" else BlockDCT}[name]
    model = before or made(kind, {"ratio": RATIOS[ratio]}, size, device, DTYPE).eval()
    if way == "merged":
        model.net = merge(model.net).eval()  # type: ignore[assignment]
    elif name == "BlockDCT" and device == "cuda":
        _compile(model)
    return model


def _compile(model: "CharLM") -> None:
    """Compile the kernels of all layers, several at a time."""
    from results.gpu.frame.compiling import compile_all
    from zoo.bases.kernels import block_linear
    from zoo.layers.convert import zoo_layers

    maps = {
        layer.parameterization.shape: layer.parameterization
        for layer in zoo_layers(model.net).values()
    }

    def job(space: Any, window: int) -> Sequence[Any]:
        with torch.no_grad():
            x = torch.zeros(window, space.in_features, device=space.coef.device, dtype=DTYPE)
            bias = x.new_zeros(space.out_features)
            tables = block_linear.kernel_tables(space.arrangement, x.device, DTYPE)
            return block_linear.prepare(x, space.coef, space.arrangement, tables, bias)

    compile_all([partial(job, space, window) for space in maps.values() for window in WINDOWS])


def _measured(model: "CharLM", case: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Measure one row."""
    window, device = case["window"], setting.device
    model.block_size = window
    ids = torch.zeros(1, window, dtype=torch.int64, device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        if case["loop"] == "graph":
            call = captured(lambda: model(ids))
        else:
            call = lambda: model.sample(ids, 1, 0.8, generator=generator)  # noqa: E731
        often = (0.0, 1, 0) if setting.small else (0.3, 5, 3)  # the interpreter of kernels is slow
        took = median(alternate({"token": call}, device, *often))["token"]
    read, by_kernel = bytes_read(model, window)
    return {
        "by_kernel": by_kernel,
        "token_ms": 1000 * took,
        "tokens_per_second": 1 / took,
        "floor_ms": 1000 * read / ceilings(device).bandwidth,
    }


@torch.no_grad()
def bytes_read(model: "CharLM", window: int) -> tuple[int, int]:
    """Count the bytes of weights that a token needs, and the layers by the kernel.

    They are what each layer multiplies by, and the head.
    """
    from zoo.layers.convert import zoo_layers

    net, total, by_kernel = model.net, 0, 0
    linear = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    total = sum(module.weight.nbytes for module in linear)
    for layer in zoo_layers(net).values():
        space = layer.parameterization
        coef = next(space.parameters())
        x = torch.empty(1, window, layer.in_features, dtype=coef.dtype, device=coef.device)
        fused = isinstance(space, BlockDCT) and not space.builds_weight and space._pays(x)
        by_kernel += fused
        total += (
            coef.nbytes if fused else layer.in_features * layer.out_features * coef.element_size()
        )
    return total, by_kernel


def lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Summarize for each window and loop the tokens a second of each way."""
    said = []
    for window, loop in product(WINDOWS, ("python", "graph")):
        here = [
            row
            for row in rows
            if row.get("token_ms") and (row["window"], row["loop"]) == (str(window), loop)
        ]
        names = {
            "merged": "merged",
            "kept": "kept",
            "BlockDCT 1/8": "fused 1/8",
            "BlockDCT 1/2": "1/2",
        }
        rates = [
            f"{names[row['layers'] if row['way'] == 'fused' else row['way']]} "
            f"{float(row['tokens_per_second']):,.0f}"
            for row in here
            if row["way"] != "default"
        ]
        if rates:
            said.append(f"{window} {loop}: " + ", ".join(rates) + "/s")
    return said
