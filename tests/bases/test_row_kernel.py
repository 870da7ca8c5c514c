"""RowDCT's kernel is y = x W^T + b in Triton's interpreter, is taken where it should pay, and
compiles for a GPU.
"""

import re
import subprocess

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.knobs import nvidia
from triton.runtime import interpreter

from zoo.bases.kernels import floors, row_cases, row_device, row_linear
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import RowDCT
from zoo.testing import agree

F32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture
def interpreted(monkeypatch):
    """Interpreted whatever the environment says and whoever imported triton first."""
    for name in ("cosine_transform", "row_product"):
        monkeypatch.setattr(
            row_device, name, interpreter.InterpretedFunction(getattr(row_device, name).fn)
        )


def made(m, n, ratio):
    space = RowDCT(m, n, ratio=ratio)
    return space, row_linear.row_tables(space.support, m, n, "cpu")


@pytest.mark.parametrize("case", row_cases.CASES, ids=str)
def test_y_is_x_w_t_plus_b(interpreted, case):
    error, tolerance = row_cases.error(case, "cpu", calls=1 + case.strided)
    assert error <= tolerance


def test_every_coefficient_is_read_once(interpreted, monkeypatch):
    """The product's bytes are `floors.row_product`'s: a coefficient and its column, the starts, x,
    y and x^.
    """
    m, n, tokens = 9, 24, 4
    space, tables = made(m, n, 0.5)
    reads, builder = {}, interpreter.interpreter_builder
    load = builder.create_masked_load

    def counted(pointers, mask, *rest):
        used = pointers.data[mask.data].tolist()
        for name, tensor in (
            ("coef", space.coef),
            ("columns", tables.columns),
            ("starts", tables.starts),
        ):
            inside = [u for u in used if tensor.data_ptr() <= u < tensor.data_ptr() + tensor.nbytes]
            reads.setdefault(name, []).extend(inside)
        return load(pointers, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counted)
    with torch.no_grad():
        row_linear.row_linear(torch.randn(tokens, n), space.coef, tables)
    k = len(space.coef)
    assert (
        len(reads["coef"])
        == len(set(reads["coef"]))
        == len(reads["columns"])
        == len(set(reads["columns"]))
        == k
    )
    assert len(set(reads["starts"])) == m + 1
    counted_bytes = (
        2 * len(reads["coef"]) + 2 * len(reads["columns"]) + 4 * len(set(reads["starts"]))
    )
    cost = floors.row_product(m, n, k, tokens, "int16")
    # With x, y, and x^ out and in.
    assert cost.memory == counted_bytes + 2 * tokens * (m + n) + 2 * 2 * tokens * n


def test_row_dct_takes_it_for_few_tokens_without_gradients(interpreted, monkeypatch):
    """In training, for many tokens, float64, a scale, a base, a graph or a class that redefines
    something: W itself.
    """
    calls, before = [], row_linear.row_linear
    monkeypatch.setattr("zoo.bases.kernels.available", lambda device: True)
    monkeypatch.setattr(floors, "rows_pay", lambda m, n, k, tokens: tokens in (1, 6))
    monkeypatch.setattr(
        row_linear, "row_linear", lambda x, *rest: calls.append(len(x)) or before(x, *rest)
    )

    class Cut(RowDCT):
        def side(self, n, axis):
            return torch.eye(n, dtype=torch.float64).flip(0) if axis == 1 else None

    class Cuts(RowDCT):
        def weight(self):
            return 2 * super().weight()

    space = RowDCT(5, 12, ratio=0.5)
    layer = ZooLinear(space, torch.randn(5)).eval()
    others = [ZooLinear(kind(5, 12, ratio=0.5)).eval() for kind in (Cut, Cuts)]
    others += [
        ZooLinear(space, scale=2.0).eval(),
        ZooLinear(space, weight=torch.randn(5, 12)).eval(),
    ]
    for x in (torch.randn(1, 12), torch.randn(6, 12), torch.randn(7, 12), torch.randn(1, 12)):
        with torch.no_grad():
            agree(layer(x), nn.functional.linear(x, layer.effective_weight(), layer.bias), 1e-5)
            assert (layer._kept.weight is None) == (len(x) != 7)
            for other in others:
                agree(other(x), x @ other.effective_weight().T, 1e-5)
        layer(x).sum().backward()
        layer.eval()
    assert calls == [1, 6, 1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 12)).dtype == BF16
    with torch.no_grad():
        space.double()(torch.randn(1, 12, dtype=torch.float64))
    assert space.builds_weight
    assert calls == [1, 6, 1, 1]
    space.float()
    with torch.no_grad():
        torch.func.vmap(space)(torch.randn(3, 1, 12))
        before_rows = space._kernel_tables
        space.for_layer("another")(torch.randn(1, 12))
    assert space._kernel_tables is not before_rows  # which had other positions


def test_where_it_pays():
    assert floors.rows_pay(4096, 4096, 4096**2 // 8, 1)
    assert floors.rows_pay(11008, 4096, 11008 * 4096 // 20, 16)
    assert not floors.rows_pay(4096, 4096, 4096**2 // 2, 1)
    assert not floors.rows_pay(2048, 2048, 2048**2 // 8, 1)  # launches
    assert not floors.rows_pay(4096, 4099, 4096**2 // 8, 1)  # a prime
    assert not floors.rows_pay(4096, 4096, 4096**2 // 20, 17)
    assert not floors.rows_pay(4096, 4096, 4096**2 // 20, 0)


def test_misuse_is_refused():
    space, tables = made(4, 6, 0.5)
    x, coef = torch.randn(2, 6), space.coef.detach()
    for message, arguments in [
        ("1 to 16 tokens", (torch.randn(17, 6), coef, tables)),
        ("1 to 16 tokens", (torch.randn(0, 6), coef, tables)),
        ("unfit dtypes", (x.double(), coef, tables)),
        ("must fit", (torch.randn(2, 5), coef, tables)),
        ("must fit", (x, coef[1:], tables)),
        ("must fit", (x, coef, tables, torch.randn(3))),
        ("no backward", (x, space.coef, tables)),
    ]:
        with pytest.raises(ValueError, match=message):
            row_linear.row_linear(*arguments)


# ---- For a GPU, without one ----------------------------------------------------------------------

TYPES = {"column_ptr": "*i16", "start_ptr": "*i32", "m": "i32", "tokens": "i32"}
TABLES = dict.fromkeys(("first_ptr", "twiddle_ptr", "last_ptr"), "*fp32")


def assembled(kernel, constants, warps, types, folder, options):
    """What `cuobjdump` says of it, compiled for compute capability 9.0, pointers aligned to 16
    bytes.
    """
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*bf16") for name in names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    made = compile(
        source, GPUTarget("cuda", 90, 32), {"num_warps": warps, "enable_fp_fusion": True}
    )
    (folder / "it.cubin").write_bytes(made.asm["cubin"])
    command = [nvidia.cuobjdump.path, *options, str(folder / "it.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("n", "dtype"), [(4096, F32), (11008, BF16)], ids=str)
def test_the_transform_compiles_without_spills(n, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    a, b = floors.two_factors(n)
    types = {**TABLES, **({"x_ptr": "*fp32", "hat_ptr": "*fp32"} if dtype == F32 else {})}
    constants = row_linear.transform_constants(a, b, 4, dtype)
    warps, options = row_linear.TRANSFORM_WARPS, ["-res-usage"]
    text = assembled(row_device.cosine_transform, constants, warps, types, tmp_path, options)
    assert "STACK:0 " in text, text


@pytest.mark.parametrize("tokens", [1, 16])
def test_the_product_compiles_to_the_slots_that_are_counted(tokens, tmp_path, monkeypatch):
    """Instructions of the loop for a coefficient, a load as four: `row_product`'s, within an
    eighth.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = row_linear.product_constants(tokens, 512, bias=True)
    options = ["-res-usage", "-sass"]
    text = assembled(row_device.row_product, constants, row_linear.WARPS, TYPES, tmp_path, options)
    assert "STACK:0 " in text, text
    code = [(int(at, 16), line) for at, line in re.findall(r"/\*([0-9a-f]{4})\*/\s+(.*?);", text)]
    jumps = [
        (int(to.group(1), 16), at)
        for at, line in code
        if (to := re.search(r"BRA 0x([0-9a-f]+)", line))
    ]
    first, last = next((to, at) for to, at in jumps if to < at)
    loop = [line for at, line in code if first <= at <= last]
    slots = len(loop) + 3 * sum("LDG" in line for line in loop)
    each = slots * 32 * row_linear.WARPS / (constants["ROWS"] * constants["DEPTH"])
    assert each == pytest.approx(floors.COEFFICIENT_SLOTS + tokens * floors.TOKEN_SLOTS, rel=0.125)
