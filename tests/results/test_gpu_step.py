"""`results/gpu/step` and `generate`: what is counted, that a network made quickly is zoo's, and
what is said of it.
"""

import time

import pytest
import torch

from results.gpu import PARTS, generate, step
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting
from results.gpu.training.gpt2 import GPT2, SMALL, Size, made
from results.gpu.training.steps import moved, operations
from tasks import CharLM
from zoo.parameterizations import DCT, BlockDCT, Dense, LoRA
from zoo.training import optimizers

TINY = Size(32, 1, 16, 2, 16)


def table(tmp_path, name) -> Table:
    part = PARTS[name]
    return Table(tmp_path / f"{name}.csv", part.case, part.measured, {})


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Dense, {}), (DCT, {"ratio": 0.5}), (BlockDCT, {"ratio": 0.1}), (LoRA, {"ratio": 0.5})],
)
def test_a_network_made_quickly_is_the_tasks_own(kind, arguments):
    """Of one state dict, the same outputs and the same rates; of the size that W is to have."""
    model = made(kind, arguments, SMALL, "cpu")
    vocabulary = "".join(map(chr, range(0x10000, 0x10000 + SMALL.vocabulary)))
    own = CharLM(
        vocabulary,
        lambda m, n: kind(m, n, **arguments),
        block_size=16,
        layers=2,
        width=32,
        heads=2,
        optimizer=model.optimizer_config,
    )
    groups = [
        [(g["lr"], g["weight_decay"]) for g in optimizers.groups_of(m, m.optimizer_config)]
        for m in (model, own)
    ]
    if kind is not LoRA:  # whose rate follows from how large it starts
        assert groups[0] == groups[1]
    own.load_state_dict(model.state_dict())
    ids = torch.randint(SMALL.vocabulary, (2, 16))
    assert torch.equal(model(ids), own(ids))
    assert all(p.isfinite().all() and p.requires_grad for p in model.parameters())
    w = model.net.blocks[0].mlp.fc.effective_weight()
    assert w.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.2)
    assert made(kind, arguments, SMALL, "cpu", torch.bfloat16)(ids).dtype == torch.bfloat16


def test_operations_of_gpt2():
    """6 N T with N the 123.5 million that GPT-2's own layers multiply by, and its attention."""
    vocabulary = "".join(map(chr, range(0x10000, 0x10000 + GPT2.vocabulary)))
    with torch.device("meta"):
        model = CharLM(vocabulary, block_size=1024, layers=12, width=768, heads=12)
    n, t = 12 * 12 * 768**2 + 768 * 50304, 8 * 1024
    assert operations(model, t, 1024) == 6 * t * (n + 12 * 1024 * 768)
    assert operations(model, t, 1024) == pytest.approx(6.55e12, rel=0.01)
    assert moved(model) == pytest.approx(5.2e9, rel=0.01)


def test_operations_follow_the_way_that_a_layer_multiplies(monkeypatch):
    """A matrix where W is built, coefficients where it is not."""
    counted = {}
    for pays in (False, True):
        monkeypatch.setattr("zoo.bases.block_products.product_pays", lambda *rest, pays=pays: pays)
        counted[pays] = operations(made(BlockDCT, {"ratio": 0.5}, TINY, "cpu"), 1, 16)
    weights, others = 12 * 16**2, 16 * 32 + 16 * 16
    assert counted == {False: 6 * (weights + others), True: 6 * (weights / 2 + others)}


def test_steps_come_in_the_order_of_worth_and_a_second_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "built", lambda name, size, device: name)
    monkeypatch.setattr(
        step, "_measured", lambda run, case, size, setting, most: {"note": f"{run} measured"}
    )
    monkeypatch.setattr(step, "ceilings", lambda device: None)
    found, setting = table(tmp_path, "step"), Setting("cuda", False, time.time() + 15, "", None, {})
    step.measure(setting, found)  # too little time to compile
    done = [tuple(row[key] for key in ("layers", "loop", "recompute")) for row in found.rows]
    eager = [(name, "eager", "no") for name in step.METHODS]
    assert done == [*eager, ("DCT 1/2", "eager", "yes"), ("BlockDCT 1/2", "eager", "yes")]
    step.measure(Setting("cuda", False, time.time() + 60, "", None, {}), found)
    assert [row["layers"] for row in found.rows[7:]] == list(step.METHODS)
    assert found.rows[8]["note"] == "DCT 1/2 measured"


def test_a_step_that_fails_leaves_a_note_and_the_next_one_runs(tmp_path, monkeypatch):
    def built(name, size, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(step, "built", built)
    found = table(tmp_path, "step")
    step.measure(Setting("cpu", True, time.time() + 60, "", None, {}), found)
    assert len(found.rows) > 5 and all("out of memory" in row["note"] for row in found.rows)
    assert step.lines(found.rows) == []
    rows = len(found.rows)
    step.measure(Setting("cpu", True, time.time() + 60, "", None, {}), found)
    assert len(found.rows) == rows


def test_a_step_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(
        step,
        "cases",
        lambda small: iter([{"layers": "LoRA 1/2", "loop": "eager", "recompute": "no"}]),
    )
    found = table(tmp_path, "step")
    step.measure(Setting("cpu", True, time.time() + 60, "", None, {}), found)
    (row,) = found.rows
    assert not row.get("note") and float(row["floor_ms"]) < float(row["step_ms"])
    assert float(row["tokens_per_second"]) == pytest.approx(
        8 * 16 / float(row["step_ms"]) * 1000, rel=1e-2
    )


def test_what_is_said_of_steps_fits():
    row = {
        "step_ms": "12.3",
        "tokens_per_second": "612345",
        "share_of_peak": "0.6123",
        "peak_gb": "21.34",
    }
    rows = [
        {"layers": name, "loop": loop, "recompute": again, **row}
        for name in step.METHODS
        for loop, again in (("eager", "no"), ("eager", "yes"), ("compiled", "no"))
    ]
    found = step.lines(rows)
    assert found[0] == "dense: 612k/s (61%), compiled 612k, 21.3 GB, recomputed 21.3"
    assert len(found) == 5 and max(map(len, found)) <= 69
    assert step.lines([]) == []


# ---- generate ------------------------------------------------------------------------------------


def test_bytes_that_a_token_needs():
    """GPT-2's 85 million weights and its head in two bytes each; coefficients where the kernel
    reads them.
    """
    head, weights = 2 * 32 * 16, 2 * 12 * 16**2
    for way, layers, expected in (
        ("merged", "DCT 1/2", (head + weights, 0)),
        ("kept", "DCT 1/2", (head + weights, 0)),
        ("fused", "BlockDCT 1/8", (head + weights // 8, 4)),
    ):
        assert generate.bytes_read(generate.prepared(layers, way, TINY, "cpu"), 1) == expected


def test_fused_layers_are_those_of_the_same_weight():
    x, space = torch.randn(3, 32), generate.Fused(32, 32, ratio=0.5)
    with torch.no_grad():
        assert torch.allclose(space(x), x @ space.weight().mT, atol=1e-5)
    assert not space.builds_weight


def test_ways_to_generate_agree_and_are_written(tmp_path, monkeypatch):
    """Merged and kept give the same logits, and a row each; in the order of networks."""
    monkeypatch.setattr(generate, "WAYS", generate.WAYS[:2])
    found = table(tmp_path, "generate")
    generate.measure(Setting("cpu", True, time.time() + 60, "", None, {}), found)
    assert [(row["way"], row["by_kernel"], row.get("note")) for row in found.rows] == [
        ("kept", "0", None),
        ("merged", "0", None),
    ]
    model, ids = generate.prepared("DCT 1/2", "kept", TINY, "cpu"), torch.randint(32, (1, 16))
    with torch.no_grad():
        kept = model(ids)
        assert torch.equal(generate.prepared("DCT 1/2", "merged", TINY, "cpu", model)(ids), kept)


def test_what_is_said_of_generating_fits():
    rows = [
        {
            "layers": layers,
            "way": way,
            "window": str(window),
            "loop": loop,
            "token_ms": "0.1",
            "tokens_per_second": "12345",
        }
        for layers, way in generate.WAYS
        for window in generate.WINDOWS
        for loop in ("python", "graph")
    ]
    found = generate.lines(rows)
    assert found[3] == "16 graph: kept 12,345, merged 12,345, fused 1/8 12,345, 1/2 12,345/s"
    assert len(found) == 4 and max(map(len, found)) <= 69
    assert generate.lines([]) == []
