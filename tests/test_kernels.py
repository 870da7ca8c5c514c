"""The kernel is y = x W^T + b in Triton's interpreter, moves the bytes it says, and compiles for a GPU."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_blocks import reference

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.knobs import nvidia
from triton.runtime import interpreter

from zoo.blocks import BlockLayout, block_layout
from zoo.kernels import available, block_device, block_linear, tune
from zoo.kernels.block_linear import Tiles, default_tiles, dense_work, kernel_tables, work
from zoo.parameterizations import BlockDCT
from zoo.testing import agree

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Of the largest output. The interpreter cuts bfloat16 off where a GPU rounds."""


@pytest.fixture
def interpreted(monkeypatch):
    """Interpreted whatever the environment says and whoever imported triton first; other kernels are left alone."""
    for name in ("product", "finish", "transform_back"):
        function = interpreter.InterpretedFunction(getattr(block_device, name).fn)
        monkeypatch.setattr(block_device, name, function)


def make(m, n, block, ratio, dtype=torch.float32):
    layout = block_layout(m, n, block, int(m * n * ratio), torch.Generator().manual_seed(1))
    return layout, torch.randn(layout.coefficients, dtype=dtype)


def dense(coef, layout: BlockLayout):
    """W from scipy's transform of each block and the definition of the layout alone; float64."""
    return torch.from_numpy(reference(layout, coef.double().numpy()))


def check(layout, coef, x, bias=None, tiles=None, tables=None):
    tables = tables or kernel_tables(layout, "cpu", x.dtype)
    y = block_linear.block_linear(x, coef, layout, tables, bias, tiles)
    expected = x.double() @ dense(coef.to(x.dtype), layout).T + (0 if bias is None else bias.double())
    assert y.dtype == x.dtype
    agree(y, expected, TOLERANCE[x.dtype])
    assert not tables.counters.any()
    return y


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("block", "ratio"),
    [(4, 0.07), (4, 0.5), (8, 0.125), (8, 0.3), (16, 0.04), (16, 0.3), (16, 0.5), (16, 1.0), (32, 0.125), (64, 0.07)],
)
def test_y_is_x_w_t_plus_b(interpreted, block, ratio, dtype):
    """Sizes that are multiples of no tile; rows with no position, with one more, with all."""
    m, n, tokens = 3 * block, 5 * block, 3
    layout, coef = make(m, n, block, ratio, dtype)
    check(layout, coef, torch.randn(tokens, n, dtype=dtype), torch.randn(m, dtype=dtype))


def test_more_positions_than_a_step_holds(interpreted):
    layout, coef = make(64, 128, 64, 0.6)
    check(layout, coef, torch.randn(2, 128))


@pytest.mark.parametrize("tokens", [1, 2, 5, 16, 17, 33, 64])
def test_numbers_of_tokens(interpreted, tokens):
    layout, coef = make(80, 48, 16, 0.2)
    check(layout, coef, torch.randn(tokens, 48))


@pytest.mark.parametrize("shape", [(36, 60), (7, 24), (24, 7), (13, 1), (1, 11), (50, 40)], ids=str)
def test_blocks_of_any_sides(interpreted, shape):
    """Neither square nor powers of two: p and q are divisors of m and n."""
    for ratio in (0.3, 1.0):
        layout, coef = make(*shape, 16, ratio)
        check(layout, coef, torch.randn(3, shape[1]))


@pytest.mark.parametrize(
    "tiles",
    [Tiles(16, 16, 4, 1, 4, 1, True), Tiles(32, 8, 8, 3, 4, 3, True), Tiles(32, 4, 16, 5, 8, 2, False),
     Tiles(64, 32, 2, 1, 4, 1, False)],
)  # fmt: skip
def test_tiles_do_not_matter(interpreted, tiles):
    layout, coef = make(40 * 8, 19 * 8, 8, 0.42)
    check(layout, coef, torch.randn(20, 19 * 8), torch.randn(40 * 8), tiles)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)], ids=str)
def test_coefficients_are_rounded_to_x(interpreted, dtypes):
    layout, coef = make(64, 48, 16, 0.3, dtypes[1])
    check(layout, coef, torch.randn(2, 3, 48, dtype=dtypes[0])[:, 1])


def test_calls_follow_each_other(interpreted):
    """Counters return to zero, sums have an order: the second call gives the same bits."""
    layout, coef = make(96, 64, 16, 0.3)
    tables, x = kernel_tables(layout, "cpu", torch.float32), torch.randn(2, 3, 64)[:, :2]
    tiles = Tiles(16, 4, 4, 2, 4, 1, True)
    first = block_linear.block_linear(x, coef, layout, tables, None, tiles)
    assert first.shape == (2, 2, 96)
    assert torch.equal(first, block_linear.block_linear(x, coef, layout, tables, None, tiles))


@pytest.mark.parametrize("tokens", [1, 3, 20])
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
        reads.index_add_(0, torch.from_numpy((mine - coef.data_ptr()) // 4), torch.ones(len(mine), dtype=torch.int64))
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
    """A dense weight's bytes times K / mn, within a hundredth, where there are few tokens; and no more operations."""
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
    monkeypatch.setattr("zoo.kernels.available", lambda device: True)
    monkeypatch.setattr(block_linear, "block_linear", lambda x, *rest: calls.append(len(x)) or before(x, *rest))
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
        ("blocks up to 64", (torch.randn(1, 128), many, large, kernel_tables(large, "cpu", torch.float32))),
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
        compiled = torch.compile(lambda x: block_linear.block_linear(x, coef, layout, tables) + 1, fullgraph=True,
                                 backend="eager")  # fmt: skip
        agree(compiled(x), x.double() @ dense(coef, layout).T + 1, 1e-5)


def test_tune_measures_candidates_that_work(interpreted):
    layout, coef = make(64, 128, 16, 0.25)
    x, seen = torch.randn(2, 128), []

    def measure(calls):
        seen.append(calls[0]())
        return float(len(seen) * 7 % 5)

    times = tune.tune(x, coef, layout, measure)
    assert [time for time, _ in times] == sorted(time for time, _ in times)
    assert default_tiles(layout, 2, torch.float32) in {tiles for _, tiles in times}
    for y in seen:
        agree(y, x.double() @ dense(coef, layout).T, 1e-5)


# ---- For a GPU, without one ------------------------------------------------------------------------------------------

DESIGN = [(16, 0.5, 1), (16, 0.125, 1), (16, 0.125, 16), (32, 0.5, 16), (16, 0.5, 64)]


def compiled(kernel, constants, warps):
    """For compute capability 9.0 and bfloat16, pointers aligned to 16 bytes."""
    names, others = kernel.arg_names, {"left_ptr": "*fp32", "part_ptr": "*fp32", "counter_ptr": "*i32", "tokens": "i32"}
    signature = {name: "constexpr" if name in constants else others.get(name, "*bf16") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
    source = ASTSource(kernel, signature, constants, aligned)
    return compile(source, GPUTarget("cuda", 90, 32), {"num_warps": warps, "enable_fp_fusion": True})


@pytest.mark.parametrize(("block", "ratio", "tokens"), DESIGN)
def test_it_compiles_for_a_gpu(block, ratio, tokens, tmp_path, monkeypatch):
    """Loads are of 16 bytes, asynchronous in a loop; products run on tensor cores; registers do not spill."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    dtype = torch.bfloat16
    layout = block_layout(4096, 4096, block, int(4096**2 * ratio), torch.Generator())
    tiles = default_tiles(layout, tokens, dtype)
    numbers = [layout.p, layout.q, *layout.grid, layout.r, layout.e, layout.step]
    both, own = block_linear.constants(numbers, kernel_tables(layout, "cpu", dtype), tokens, tiles, dtype, True)
    both |= {"tokens": 1} if tokens == 1 else {}  # as the launcher does
    kernels = [compiled(block_device.product, {**both, **own}, tiles.warps)]
    load = r"cp\.async\.cg\.shared\.global .*, 0x10" if own["STEPS"] > 1 else r"ld\.global\.v4\.b32"
    assert re.search(load, kernels[0].asm["ptx"])
    assert re.search(r"mma\.sync|wgmma", kernels[0].asm["ptx"])
    if not tiles.fused:
        kernels.append(compiled(block_device.finish, both, tiles.warps))
    for i, kernel in enumerate(kernels):
        assert kernel.metadata.shared <= 227 * 1024
        (tmp_path / f"{i}.cubin").write_bytes(kernel.asm["cubin"])
        command = [nvidia.cuobjdump.path, "-res-usage", str(tmp_path / f"{i}.cubin")]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "STACK:0 " in usage, usage


# ---- With and without triton -----------------------------------------------------------------------------------------


def run(code, **environment):
    command, environment = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_zoo_works_without_triton():
    code = "import sys; sys.modules['triton'] = None; import zoo.parameterizations, zoo.kernels as k;"
    assert run(code + "print(k.available('cpu'), k.available('cuda'))", TRITON_INTERPRET="1").stdout == "False False\n"


def test_the_environment_turns_the_interpreter_on():
    code = """
import torch
from zoo.blocks import block_layout, block_tables, build
from zoo.kernels import available
assert available("cpu")
from zoo.kernels.block_linear import block_linear, kernel_tables
layout = block_layout(32, 48, 16, 500, torch.Generator())
coef, x = torch.randn(layout.coefficients), torch.randn(2, 48)
y = block_linear(x, coef, layout, kernel_tables(layout, "cpu", x.dtype))
w = build(coef, layout, block_tables(layout, x.device, x.dtype))
print((y - x @ w.T).abs().max().item() < 1e-5)
"""
    assert run(code, TRITON_INTERPRET="1").stdout == "True\n"
    assert not available("cpu")
