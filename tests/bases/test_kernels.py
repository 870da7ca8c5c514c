"""The kernel is y = x W^T + b in Triton's interpreter, moves the bytes it says, and compiles for a
GPU.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from every import thinned
from test_blocks import reference

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.knobs import nvidia
from triton.runtime import driver, interpreter

from zoo.bases.blocks import block_layout
from zoo.bases.kernels import available, block_device, block_linear, cases
from zoo.bases.kernels.block_linear import default_tiles, dense_work, kernel_tables, prepare, work
from zoo.bases.kernels.cases import CASES, LARGE, Case
from zoo.parameterizations import BlockDCT
from zoo.testing import agree


@pytest.fixture
def interpreted(monkeypatch):
    """Interpreted whatever the environment says and whoever imported triton first; other kernels
    are left alone.
    """
    for name in ("product", "finish", "transform_back"):
        function = interpreter.InterpretedFunction(getattr(block_device, name).fn)
        monkeypatch.setattr(block_device, name, function)


def make(m, n, block, ratio, dtype=torch.float32):
    layout = block_layout(m, n, block, int(m * n * ratio), torch.Generator().manual_seed(1))
    return layout, torch.randn(layout.coefficients, dtype=dtype)


# Every eighth by default: each of its dtypes, with and without a bias, strides and tiles.
@pytest.mark.parametrize(
    "case", thinned([(case,) for case in CASES], 8), ids=lambda case: f"{case} {case.dtype}"
)
def test_y_is_x_w_t_plus_b(interpreted, case):
    error, tolerance = cases.error(case, "cpu", calls=1)
    assert error <= tolerance


def test_calls_follow_each_other(interpreted):
    """Counters return to zero, sums have an order: the second call gives the same bits."""
    case = next(
        case
        for case in CASES
        if case.strided and case.tiles and case.tiles.splits > 1 and case.tiles.fused
    )
    assert cases.error(case, "cpu", calls=2)[0] < 1e-5


@pytest.mark.parametrize(
    "case", [Case(36, 60, 16, 0.3), Case(48, 80, 16, 0.04), Case(24, 7, 16, 1.0)], ids=str
)
def test_the_cases_reference_is_scipys(case):
    coef = torch.randn(case.layout.coefficients, dtype=torch.float64)
    agree(
        cases.reference(case.layout, coef),
        torch.from_numpy(reference(case.layout, coef.numpy())),
        1e-12,
    )


@pytest.mark.parametrize("broken", ["nothing", "y", "dtype", "bits", "counters", "nan"])
def test_an_error_is_seen(interpreted, monkeypatch, broken):
    """Whatever a kernel on a GPU may get wrong."""
    calls = []

    def wrong(x, coef, layout, tables, bias, tiles):
        calls.append(0)
        tables.counters.fill_(broken == "counters")
        y = cases.expected(x, coef, layout, bias).to(
            torch.float64 if broken == "dtype" else x.dtype
        )
        y[0, 0] += {"y": 1.0, "bits": 1e-5 * len(calls), "nan": torch.nan}.get(broken, 0.0)
        return y

    monkeypatch.setattr(cases, "block_linear", wrong)
    error, tolerance = cases.error(Case(24, 40, 8, 0.3), "cpu")
    assert (error <= tolerance) == (broken == "nothing")


@pytest.mark.parametrize("tokens", thinned([1, 3, 20], 2))
@pytest.mark.parametrize("ratio", [0.125, 0.4])
def test_work_is_what_the_interpreter_counts(interpreted, monkeypatch, tokens, ratio):
    """Every coefficient is read once; bytes and multiply-adds are `work`'s."""
    layout, coef = make(16 * 40, 16 * 24, 16, ratio)
    x, tables = torch.randn(tokens, 16 * 24), kernel_tables(layout, "cpu", torch.float32)
    reads, moved, operations = torch.zeros(layout.coefficients, dtype=torch.int64), [0], [0]
    builder = interpreter.interpreter_builder
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot
    tables_at = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in (tables.left, tables.right)]

    def counted_load(pointers, mask, *rest):
        used = pointers.data[mask.data].astype(np.int64)
        mine = used[(used >= coef.data_ptr()) & (used < coef.data_ptr() + coef.nbytes)]
        reads.index_add_(
            0,
            torch.from_numpy((mine - coef.data_ptr()) // 4),
            torch.ones(len(mine), dtype=torch.int64),
        )
        if len(used) and not any(low <= used[0] < high for low, high in tables_at):
            moved[0] += 4 * len(used)
        return load(pointers, mask, *rest)

    def counted_store(pointers, value, mask, *rest):
        moved[0] += 4 * int(mask.data.sum()) * (mask.data.size > 1)  # the counter is no data
        return store(pointers, value, mask, *rest)

    def counted_dot(a, b, *rest):
        operations[0] += a.data.size * b.data.shape[1]
        return dot(a, b, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counted_load)
    monkeypatch.setattr(builder, "create_masked_store", counted_store)
    monkeypatch.setattr(builder, "create_dot", counted_dot)
    block_linear.block_linear(x, coef, layout, tables)
    counted = work(layout, tokens, x.dtype, default_tiles(layout, tokens, x.dtype))
    assert (reads == 1).all()
    assert moved[0] == counted.moved
    assert operations[0] == counted.multiply_adds


@pytest.mark.parametrize("ratio", [0.5, 0.125])
def test_memory_is_k_of_mn(ratio):
    """A dense weight's bytes times K / mn, within a hundredth, where there are few tokens; and no
    more operations.
    """
    layout = block_layout(4096, 4096, 16, int(4096**2 * ratio), torch.Generator())
    for tokens in (1, 16):
        mine = work(layout, tokens, torch.bfloat16, default_tiles(layout, tokens, torch.bfloat16))
        whole = dense_work(4096, 4096, tokens, torch.bfloat16)
        assert mine.useful == ratio * whole.useful
        assert mine.multiply_adds < 1.01 * whole.multiply_adds
        assert mine.memory / whole.memory < ratio + 0.01


def test_block_dct_takes_it_for_few_tokens_without_gradients(interpreted, monkeypatch):
    """forward(x) = x W^T + b, by the kernel for 1 to 64 tokens where no gradient is asked for."""
    calls, before = [], block_linear.block_linear
    monkeypatch.setattr("zoo.bases.kernels.available", lambda device: True)
    monkeypatch.setattr(
        block_linear, "block_linear", lambda x, *rest: calls.append(len(x)) or before(x, *rest)
    )
    space, bias = BlockDCT(32, 48, ratio=0.3), torch.randn(32)
    for tokens in (1, 8, 65):
        x = torch.randn(tokens, 48)
        with torch.no_grad():
            agree(space(x, bias), torch.nn.functional.linear(x, space.weight(), bias), 1e-5)
        space(x, bias).sum().backward()
    assert calls == [1, 8]


def test_misuse_is_refused():
    layout, coef = make(32, 32, 16, 0.5)
    tables, x = kernel_tables(layout, "cpu", torch.float32), torch.randn(2, 32)
    large, many = make(128, 128, 128, 0.5)
    for message, arguments in [
        ("1 to 64 tokens", (torch.randn(65, 32), coef, layout, tables)),
        ("1 to 64 tokens", (torch.randn(0, 32), coef, layout, tables)),
        (
            "blocks up to 64",
            (torch.randn(1, 128), many, large, kernel_tables(large, "cpu", torch.float32)),
        ),
        ("unfit dtypes", (x.double(), coef, layout, tables)),
        ("unfit dtypes", (x.half(), coef, layout, tables)),
        ("must fit", (torch.randn(2, 48), coef, layout, tables)),
        ("must fit", (x, coef[1:], layout, tables)),
        ("must fit", (x, coef, layout, tables, torch.randn(16))),
        ("no backward", (x, coef.clone().requires_grad_(), layout, tables)),
    ]:
        with pytest.raises(ValueError, match=message):
            block_linear.block_linear(*arguments)


def test_a_compiled_graph_holds_it(interpreted):
    layout, coef = make(32, 48, 16, 0.5)
    tables, x = kernel_tables(layout, "cpu", torch.float32), torch.randn(2, 48)
    with torch.no_grad():
        compiled = torch.compile(
            lambda x: block_linear.block_linear(x, coef, layout, tables) + 1,
            fullgraph=True,
            backend="eager",
        )
        agree(compiled(x), cases.expected(x, coef, layout, None) + 1, 1e-5)


# ---- For a GPU, without one ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
def test_products_are_as_long_as_tensor_cores_need(dtype):
    """The interpreter multiplies any matrices; a GPU sums 16 products at least, of each of the
    cases and defaults.
    """
    for case in [*CASES, *LARGE]:
        tables = kernel_tables(case.layout, "cpu", dtype)
        tiles = case.tiles or default_tiles(case.layout, case.tokens, dtype)
        numbers = [
            case.layout.p,
            case.layout.q,
            *case.layout.grid,
            case.layout.r,
            case.layout.e,
            case.layout.step,
        ]
        both, own = block_linear.constants(numbers, tables, case.tokens, tiles, dtype, case.bias)
        assert min(both["BA"], own["PACK"] * own["BQ"], own["BU"] * own["BJ"]) >= 16, case
        assert own["BJ"] >= own["PACK"], case


DESIGN = [(16, 0.5, 1), (16, 0.125, 1), (16, 0.125, 16), (32, 0.5, 16), (16, 0.5, 64)]


class Hopper:
    """What Triton asks a driver before it launches: compute capability 9.0."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return "an H100 that is not there"

    def get_current_stream(self, device):
        return None


@pytest.mark.parametrize(
    ("block", "ratio", "tokens"), thinned(DESIGN, lambda *case: case in (DESIGN[0], DESIGN[-1]))
)
def test_it_compiles_for_a_gpu(block, ratio, tokens, tmp_path, monkeypatch):
    """Loads are of 16 bytes, asynchronous in a loop; products run on tensor cores; registers do not
    spill.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", Hopper())
    case = Case(4096, 4096, block, ratio, tokens, torch.bfloat16)
    tiles = default_tiles(case.layout, tokens, case.dtype)
    x, coef = (torch.empty(n, dtype=case.dtype) for n in (tokens * 4096, case.layout.coefficients))
    tables, bias = (
        kernel_tables(case.layout, "cpu", case.dtype),
        torch.empty(4096, dtype=case.dtype),
    )
    kernels = prepare(x.view(tokens, 4096), coef, case.layout, tables, bias)
    assert len(kernels) == 1 + (not tiles.fused)
    loop = case.layout.grid[1] > tiles.depth * tiles.splits
    load = r"cp\.async\.cg\.shared\.global .*, 0x10" if loop else r"ld\.global\.v4\.b32"
    assert re.search(load, kernels[0].asm["ptx"])
    assert re.search(r"mma\.sync|wgmma", kernels[0].asm["ptx"])
    for i, kernel in enumerate(kernels):
        assert kernel.metadata.shared <= 227 * 1024
        (tmp_path / f"{i}.cubin").write_bytes(kernel.asm["cubin"])
        command = [nvidia.cuobjdump.path, "-res-usage", str(tmp_path / f"{i}.cubin")]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "STACK:0 " in usage, usage


# ---- With and without triton ---------------------------------------------------------------------


def run(code, **environment):
    command, environment = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_zoo_works_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; "
        "import zoo.parameterizations, zoo.bases.kernels as k; "
    )
    assert (
        run(code + "print(k.available('cpu'), k.available('cuda'))", TRITON_INTERPRET="1").stdout
        == "False False\n"
    )


@pytest.mark.slow
def test_the_environment_turns_the_interpreter_on():
    code = """
import torch
from zoo.bases.blocks import block_layout, block_tables, build
from zoo.bases.kernels import available
assert available("cpu")
from zoo.bases.kernels.block_linear import block_linear, kernel_tables
layout = block_layout(32, 48, 16, 500, torch.Generator())
coef, x = torch.randn(layout.coefficients), torch.randn(2, 48)
y = block_linear(x, coef, layout, kernel_tables(layout, "cpu", x.dtype))
w = build(coef, layout, block_tables(layout, x.device, x.dtype))
print((y - x @ w.T).abs().max().item() < 1e-5)
"""
    assert run(code, TRITON_INTERPRET="1").stdout == "True\n"
    assert not available("cpu")
