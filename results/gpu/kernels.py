"""Every case of the kernels' tests, compiled for the device, in every dtype.

A row is a call: `error` is the largest difference from a reference in float64, as a share of the
largest output, `tolerance` what it may be, and `agrees` whether it is; `seconds` are those of the
case, but for compiling in threads. The part fails, after all rows, if one does not agree.

    block_linear            `zoo.bases.kernels.cases`: every edge, and sizes of language models
    row_linear              `zoo.bases.kernels.row_cases`, likewise
    BlockDCT                its forward, which must take the kernel
    BlockDCT, captured      replayed by a CUDA graph, on other numbers than it was captured with
    BlockDCT, compiled      by torch.compile(fullgraph=True)
    block_linear, compiled  likewise, in a graph that goes on after it

The floor is compiling: by the counts all products together read 4 GB, a millisecond or two, while
some 270 calls of kernels of their own take a second or two of a core each, several at a time, and
thirty launchers, of which each is for arguments of some types, as long. torch.compile comes last.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from results.gpu.frame.clock import captured
from results.gpu.frame.compiling import THREADS, compile_all
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting

if TYPE_CHECKING:
    from zoo.bases.kernels.cases import Case
    from zoo.bases.kernels.row_cases import Case as RowCase

Found = tuple[float, float]
"""An error, and how large it may be."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
COMPILER = 25.0
"""Seconds that torch.compile may take."""


class Check(NamedTuple):
    """What a row is of."""

    kernel: str
    case: str
    dtype: torch.dtype
    error: Callable[[], Found]
    prepare: Callable[[], Sequence[Any] | None] | None = None  # compiles what it calls
    seconds: float = 2.0  # that it may take

    @property
    def key(self) -> dict[str, str]:
        """The columns of the case."""
        return {
            "kernel": self.kernel,
            "case": self.case,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def measure(setting: Setting, table: Table) -> None:
    """Write a row for each case.

    Raises:
        RuntimeError: after all rows, if some do not agree.
    """
    left = [check for check in checks(setting) if not table.has(**check.key)]
    late, batch = [], 1 if setting.small else 4 * THREADS
    for i, check in enumerate(left):
        if i % batch == 0 and not setting.small and setting.left() > check.seconds:
            compile_all([each.prepare for each in left[i : i + batch] if each.prepare])
        if setting.left() < check.seconds:
            late.append(check)
        else:
            _measure(check, setting, table)
    if late:
        print(f"kernels: no time was left for {len(late)} of {len(left)} cases", file=sys.stderr)
    if wrong := [row for row in table.rows if row["agrees"] != "True"]:
        first = " ".join(str(wrong[0][name]) for name in ("kernel", "case", "dtype"))
        raise RuntimeError(
            f"{len(wrong)} of {len(table.rows)} cases do not agree, the first being {first}"
        )


def _measure(check: Check, setting: Setting, table: Table) -> None:
    """Write the row of a case, also if it raises an error."""
    start = time.time()
    try:
        error, tolerance = check.error()
    except Exception as raised:
        table.write(
            **check.key,
            agrees=False,
            seconds=time.time() - start,
            note=note(raised, setting.device),
        )
    else:
        row = {"error": error, "tolerance": tolerance, "agrees": error <= tolerance}
        table.write(**check.key, **row, seconds=time.time() - start)


def checks(setting: Setting) -> list[Check]:
    """Return all checks in the order of worth, and few in a rehearsal."""
    from zoo.bases.kernels import cases, row_cases

    kernels = {"block_linear": cases, "row_linear": row_cases}
    if setting.small:
        few = [
            _call(kernel, case, "cpu")
            for kernel, module in kernels.items()
            for case in module.CASES[::5]
        ]
        return [*few, *_layer(DTYPES[:1], setting)]
    first, others = [], []
    for kernel, module in kernels.items():
        for case in [*module.CASES, *module.LARGE]:
            first.append(_call(kernel, case, setting.device))
            for dtype in DTYPES:
                if dtype not in (case.dtype, case.coef_dtype):
                    others.append(_call(kernel, case._replace(dtype=dtype), setting.device))
    layer = list(_layer(DTYPES, setting))
    quick, compiled = (
        [check for check in layer if (check.seconds == COMPILER) == late] for late in (False, True)
    )
    return [*first, *quick, *others, *compiled]


def _call(kernel: str, case: "Case | RowCase", device: str) -> Check:
    from zoo.bases.kernels import block_linear, cases, row_cases, row_linear

    module, call = {"block_linear": (cases, block_linear), "row_linear": (row_cases, row_linear)}[
        kernel
    ]
    return Check(
        kernel,
        str(case),
        case.dtype,
        partial(module.error, case, device),
        lambda: call.prepare(*module.arguments(case, device)),
    )


# ---- The layer, and graphs -----------------------------------------------------------------------


def _layer(dtypes: Sequence[torch.dtype], setting: Setting) -> Iterator[Check]:
    """Check what a user calls: eager, captured, and last compiled, which takes longest."""
    ways: dict[str, Callable[..., Found]] = {"BlockDCT": _eager}
    if setting.device == "cuda":
        ways["BlockDCT, captured"] = _captured
    ways |= {"BlockDCT, compiled": _compiled, "block_linear, compiled": _compiled_call}
    m, n = (32, 48) if setting.small else (768, 3072)
    for kernel, way in ways.items():
        for dtype in dtypes:
            for tokens in (1,) if setting.small or "compiled" in kernel else (1, 20):
                seconds = COMPILER if "compiled" in kernel and not setting.small else 2.0
                error = partial(way, m, n, tokens, dtype, setting)
                yield Check(
                    kernel, f"{m}x{n} ratio 0.3 tokens {tokens} bias", dtype, error, None, seconds
                )


class _Layer:
    """A BlockDCT with random coefficients, x, bias, and what y is by the reference."""

    def __init__(self, m: int, n: int, tokens: int, dtype: torch.dtype, device: str) -> None:
        from zoo.bases.kernels.cases import TOLERANCE
        from zoo.parameterizations import BlockDCT

        self.space = BlockDCT(m, n, ratio=0.3).to(device, dtype).requires_grad_(False)
        self.space.coef.copy_(torch.randn(len(self.space.coef)))
        self.x, self.bias = (
            torch.randn(tokens, n).to(device, dtype),
            torch.randn(m).to(device, dtype),
        )
        self.tolerance = TOLERANCE[dtype]

    def __call__(self) -> torch.Tensor:
        """Return y."""
        return self.space(self.x, self.bias)

    def found(self, y: torch.Tensor) -> Found:
        """Return how far y is from the reference."""
        from zoo.bases.kernels.cases import distance, expected

        wanted = expected(self.x, self.space.coef, self.space.arrangement, self.bias)
        return distance(y, wanted) if y.dtype == self.x.dtype else math.inf, self.tolerance

    def found_by_kernel(self, y: torch.Tensor) -> Found:
        """Return how far y is from the reference, and infinity where no kernel was taken."""
        return self.found(y) if self.space._kernel_tables else (math.inf, self.tolerance)


@torch.no_grad()
def _eager(m: int, n: int, tokens: int, dtype: torch.dtype, setting: Setting) -> Found:
    layer = _Layer(m, n, tokens, dtype, setting.device)
    return layer.found_by_kernel(layer())


@torch.no_grad()
def _captured(m: int, n: int, tokens: int, dtype: torch.dtype, setting: Setting) -> Found:
    layer, given = _Layer(m, n, tokens, dtype, setting.device), {}
    replay = captured(lambda: given.update(y=layer()))
    for numbers in (layer.x, layer.space.coef):
        numbers.copy_(torch.randn(numbers.shape))
    replay()
    return layer.found_by_kernel(given["y"])


@torch.no_grad()
def _compiled(m: int, n: int, tokens: int, dtype: torch.dtype, setting: Setting) -> Found:
    layer = _Layer(m, n, tokens, dtype, setting.device)
    compiled = torch.compile(layer.space, fullgraph=True, dynamic=False, backend=_backend(setting))
    return layer.found(compiled(layer.x, layer.bias))


@torch.no_grad()
def _compiled_call(m: int, n: int, tokens: int, dtype: torch.dtype, setting: Setting) -> Found:
    from zoo.bases.kernels.block_linear import block_linear, kernel_tables

    layer = _Layer(m, n, tokens, dtype, setting.device)
    layout = layer.space.arrangement
    tables = kernel_tables(layout, setting.device, dtype)

    def more(x: torch.Tensor) -> torch.Tensor:
        return -block_linear(x, layer.space.coef, layout, tables, layer.bias)

    compiled = torch.compile(more, fullgraph=True, dynamic=False, backend=_backend(setting))
    return layer.found(-compiled(layer.x))


def _backend(setting: Setting) -> str:
    return "aot_eager" if setting.small else "inductor"


def lines(rows: list[dict[str, str]]) -> list[str]:
    """Summarize how many cases agree, and the largest error of each dtype."""
    if not rows:
        return []
    wrong = [row for row in rows if row["agrees"] != "True"]
    said = [f"{len(rows) - len(wrong)} of {len(rows)} cases agree with float64"]
    largest: dict[str, float] = {}
    for row in rows:
        if row.get("error"):
            largest[row["dtype"]] = max(largest.get(row["dtype"], 0.0), float(row["error"]))
    said.append(
        "largest errors: " + ", ".join(f"{dtype} {error:.1e}" for dtype, error in largest.items())
    )
    return said + [
        f"not: {row['kernel']} {row['case']} {row['dtype']} {row.get('note', '')}"
        for row in wrong[:3]
    ]
