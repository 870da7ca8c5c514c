"""`results.gpu.layers`: floors by their equations, calls that agree with the layers', and failures
that are notes.
"""

import math

import pytest
import torch
from torch import nn

from results.gpu import PARTS, layers
from results.gpu.cases.floors import Counts, Work, floor, ways
from results.gpu.cases.layers import ALONE, DENSE, UPDATES, Layer, counts, layers_of
from results.gpu.frame.clock import Ceilings
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Last, Poisoned, Table
from results.gpu.frame.setting import Setting
from zoo.layers.convert import convert
from zoo.parameterizations import DCT, BlockDCT, LoRA, RandLoRA

M, N, T = 48, 32, 5
ALL = [spec.label for spec in (*ALONE, *UPDATES)]
RATES = Ceilings(1e12, 1e15)


def work(**of) -> tuple[list[Work], list[Work]]:
    layer = Counts((M, N), **of)
    return ways(layer, T, False), ways(layer, T, True)


def test_a_dense_layer_takes_its_operations_and_bytes():
    """y is written, dy read; x is read twice, dx written; the weights read twice, their gradient
    written; and W in half precision: written, read, read again, and its gradient written and read.
    """
    (forward,), (both,) = work(trained=M * N, frozen=0)
    x, y, k, w = 4 * T * N, 2 * T * M, 4 * M * N, 2 * M * N
    assert forward == (2 * T * M * N, x + y + k + 2 * w)
    assert both == (6 * T * M * N, 3 * x + 2 * y + 3 * k + 5 * w)


def test_a_way_without_w_takes_its_own():
    k = 8 * (M + N)
    (_, forward), (_, both) = work(trained=k, frozen=M * N, adds=(k, 3 * k), update=True)
    x, y = 4 * T * N, 2 * T * M
    assert forward == (2 * T * (k + M * N), x + y + 4 * (k + M * N))
    assert both == (2 * T * (3 * k + 2 * M * N), 3 * x + 2 * y + 12 * k + 8 * M * N)


def test_building_by_a_product_counts_twice_in_both_passes():
    plain, built = (work(trained=7, frozen=0, build=build) for build in (0, 1000))
    assert built[0][0].operations - plain[0][0].operations == 1000
    assert built[1][0].operations - plain[1][0].operations == 2000


def test_the_floor_is_the_shorter_way_and_the_longer_of_its_two_times():
    layer = Counts((M, N), 10, 0, adds=(10, 30))
    with_w, without = ways(layer, T, True)
    slow = Ceilings(1.0, 1e-3)
    assert floor(layer, T, True, slow) == without.operations / 1e-3 < with_w.operations / 1e-3
    assert floor(layer, T, True, Ceilings(1e-3, 1.0)) == without.bytes / 1e-3


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (DCT, {"ratio": 0.5}),
        (BlockDCT, {"ratio": 0.5}),
        (LoRA, {"rank": 4}),
        (RandLoRA, {"rank": 8}),
    ],
)
def test_counts_are_those_of_the_layer(cls, arguments, update):
    """K, F and A from the tensors themselves: A is what two factors, or the coefficients, have."""
    model = convert(
        nn.Sequential(nn.Linear(N, M)),
        lambda m, n: cls(m, n, **arguments),
        ["0"],
        start="update" if update else "random",
    )
    layer = model[0]
    p, found = layer.parameterization, counts(layer, update)
    assert found.trained == sum(each.numel() for each in layer.parameters() if each.requires_grad)
    if cls is DCT:
        assert found.adds is None and found.build == 0
    if cls in (BlockDCT, LoRA):
        assert found.adds == (p.num_trainable, 3 * p.num_trainable)
    if cls is RandLoRA:
        left, right = p._factors()
        assert found.adds[0] == left.numel() + right.numel()
        assert found.build == 2 * left.numel() * N
        assert found.frozen - update * M * N == p.basis_A.numel() + p.basis_B.numel()
    assert found.update == update and found.shape == (M, N)


def test_what_is_compiled_is_among_the_layers():
    labels = {"alone": {spec.label for spec in ALONE}, "update": {spec.label for spec in UPDATES}}
    for shape, tokens, start, names in layers.COMPILED:
        assert shape in layers.SHAPES and tokens in layers.TOKENS and set(names) <= labels[start]


def test_layers_of_equal_count_stand_beside_pefts_where_it_is_there(monkeypatch):
    """Without peft each of its layers is a note."""
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    found = list(layers_of((32, 32), "update", "cpu"))
    own = [each for each in found if isinstance(each, Layer)]
    notes = [each for each in found if not isinstance(each, Layer)]
    assert [each.name for each in own] == [DENSE, *(spec.label for spec in UPDATES)]
    assert len(notes) == 3 and all(
        name.startswith("peft") and "ModuleNotFoundError" in why for name, why in notes
    )


def test_names_choose():
    found = list(layers_of((32, 32), "alone", "cpu", ("BlockDCT 0.5",)))
    assert [each.name for each in found if isinstance(each, Layer)] == [DENSE, "BlockDCT 0.5"]


@pytest.mark.parametrize("start", ["alone", "update"])
def test_layers_are_drawn_and_start_as_converted_ones(start):
    """Nothing is left on the meta device; W has a dense layer's size from scratch, and is 0 as an
    update.
    """
    for each in layers_of((64, 64), start, "cpu", ALL):
        if each.name != DENSE:
            w, layer = each.module.update().detach(), each.module
            assert not any(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
            assert (layer.base is None, layer.bias.requires_grad) == ((start == "alone"),) * 2
            assert w.square().mean().sqrt().item() == pytest.approx(
                0.125 if start == "alone" else 0, rel=0.3
            )


def test_calls_give_the_gradients_of_the_layer():
    """Both passes, anew each time; `clear` leaves no gradient."""
    layer, data = nn.Linear(N, M), layers._Data((M, N), T, "cpu")
    calls = data.calls(layer, list(layer.parameters()))
    for _ in range(2):
        calls.both()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(data.x)
    grads = torch.autograd.grad(y, [data.x, layer.weight], data.grad)
    assert y.dtype == data.grad.dtype == torch.bfloat16
    assert data.x.grad is not None and layer.weight.grad is not None
    assert torch.equal(data.x.grad, grads[0]) and torch.equal(layer.weight.grad, grads[1])
    calls.clear()
    assert data.x.grad is None and layer.weight.grad is None


def table(path) -> Table:
    return Table(path / "layers.csv", PARTS["layers"].case, PARTS["layers"].measured, {})


def setting(left: float = math.inf, device: str = "cpu") -> Setting:
    return Setting(device, device == "cpu", left, "", None, {})


def test_a_layer_that_fails_is_a_row_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such kernel\nfor this device")

    monkeypatch.setattr(layers, "_peak", lambda calls, device: calls.both() or 8)
    rows, broken = table(tmp_path), Layer("broken", Broken(), Counts((M, N), 1, 0))
    plain = Layer(DENSE, nn.Linear(N, M), Counts((M, N), M * N, 0))
    other = plain._replace(name="other", rival="broken")
    layers._group([plain, broken, other], (M, N), T, "alone", setting(), rows)
    found = {row["layer"]: row for row in rows.rows}
    assert list(found) == ["broken", "other", DENSE]
    assert found["broken"]["note"] == "RuntimeError: no such kernel"
    assert float(found["other"]["both_to_dense"]) > 0 and "both_to_peft" not in found["other"]
    assert "no such kernel" in capsys.readouterr().err


def test_a_part_ends_by_itself(tmp_path):
    rows = table(tmp_path)
    layers.measure(setting(0.0, "cuda"), rows)
    assert not rows.rows


def test_a_device_that_is_poisoned_ends_the_process(monkeypatch, tmp_path):
    """Else the caches are emptied, and the note is one line."""
    error, emptied = RuntimeError("first\nsecond"), []

    def poisoned() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert note(error, "cuda") == "RuntimeError: first" and emptied
    monkeypatch.setattr(torch.cuda, "synchronize", poisoned)
    assert isinstance(note(error, "cuda"), Last)
    rows = Table(tmp_path / "t.csv", ("case",), ("note",), {})
    with pytest.raises(Poisoned, match="first"):
        rows.write(case=1, note=note(error, "cuda"))
    assert (
        rows.has(case=1)
        and (tmp_path / "t.csv").read_text() == "case,note\n1,RuntimeError: first\n"
    )
    assert note(error, "cpu") == "RuntimeError: first"
    assert note(ValueError(), "cpu") == "ValueError: "


def test_the_summary_is_five_lines_at_most():
    def row(layer, start="alone", run="eager", **other):
        return {
            "shape": "8x8",
            "tokens": "4",
            "start": start,
            "layer": layer,
            "run": run,
            "both_ms": "1",
            "both_to_dense": "1.234",
            **other,
        }

    rows = [
        row("DCT 0.5"),
        row("BlockDCT 0.1"),
        row(DENSE),
        row("DCT 0.5", run="compiled"),
        row("LoRA rank=8", "update", both_to_peft="0.9"),
        {"layer": "x", "note": "failed"},
    ]
    said = layers.lines(rows)
    assert said == [
        "both passes, 8x8, 4 tokens, in a dense layer's times",
        "alone: DCT 1/2 1.23, Block 1/10 1.23",
        "update: LoRA 8 1.23",
        "compiled: DCT 1/2 1.23",
        "to peft's: LoRA 8 0.90",
    ]
    assert max(map(len, layers.lines([row(f"{'x' * 30} {i}") for i in range(9)]))) < 80
    assert layers.lines([]) == layers.lines([{"layer": "x", "note": "failed"}]) == []
