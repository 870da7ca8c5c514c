"""Every exported class can be measured, from scratch and beside peft's layer of its kind."""

import math

import pytest
import torch
from every import factories, thinned

import zoo.parameterizations as zoo
from zoo.cli.check import budget
from zoo.layers.convert import convert
from zoo.parameterizations import (
    DCT,
    AdaLoRA,
    BlockLowRank,
    Hashed,
    Kronecker,
    LoRA,
    RandLoRA,
    Sparse,
)
from zoo.studies.bench.floor import Case
from zoo.studies.bench.layers import Contender, Spec, contenders, flops, passes
from zoo.studies.bench.rivals import RIVALS, peft_layer, rival

CPU, SHAPE = torch.device("cpu"), (64, 48)


def made(name, update, against=()):
    """Layers of a class without arguments, as the command makes them, and lines on others."""
    cls = getattr(zoo, name)
    return list(contenders([Spec(cls, budget(cls))], SHAPE, update, against, CPU))


def runs(each):
    """Every call that is timed."""
    calls = passes(each, Case("bfloat16", SHAPE, 8), CPU)
    for name in ("forward_backward", "step", "evaluation"):
        calls[name]()
    return all(p.grad is not None for p in each.layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("update", [False, True])
def test_every_class_can_be_measured_without_arguments(update):
    for name in factories(of_base=update):
        (layer,) = made(name, update)
        assert isinstance(layer, Contender), (name, layer)
        assert runs(layer), name
        counted = flops(layer, 8)
        assert 0 < counted["forward"] < counted["training"] < math.inf, name


@pytest.mark.parametrize("name", thinned(factories(of_base=True), lambda name: name == "LoRA"))
def test_every_class_has_a_rival_that_runs(name):
    pytest.importorskip("peft")
    ours, theirs = made(name, True, ["peft"])
    assert ours.rival == theirs.name and runs(theirs) and flops(theirs, 8) is None
    assert theirs.trainable == pytest.approx(ours.trainable, rel=0.2 if name != "Kronecker" else 1)


def layer_of(cls, shape, **arguments):
    base = torch.nn.ModuleDict({"layer": torch.nn.Linear(shape[1], shape[0])})
    layer = convert(base, lambda m, n: cls(m, n, **arguments), ["layer"], start="update")
    layer.layer.bias.requires_grad_(False)
    return layer.layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "arguments", "shape", "called", "count"),
    [
        (LoRA, {"rank": 3}, (64, 48), "peft LoRA r=3", 3 * 112),
        (AdaLoRA, {"rank": 3}, (64, 48), "peft AdaLoRA r=3", 3 * 113),
        (RandLoRA, {"rank": 8}, (64, 48), "peft RandLoRA r=8", None),
        (DCT, {"coefficients": 50}, (12, 8), "peft FourierFT 50", 50),
        (Sparse, {"lora_rank": 4}, (64, 48), "peft SHiRA r=4", 4 * 112),
        (Hashed, {"coefficients": 600}, (64, 48), "peft UniLoRA 600", 600),
        (BlockLowRank, {"lora_rank": 8, "blocks": 4}, (64, 48), "peft GraLoRA r=8 k=4", 8 * 112),
        (Kronecker, {"terms": 1}, (64, 48), "peft LoKr factor=-1 r=4", 8 * 6 + 8 * 8),
        (Kronecker, {"terms": 1, "factor": 4}, (64, 48), "peft LoKr factor=4 r=8", 16 + 16 * 12),
    ],
)
def test_rivals_are_of_a_kind_and_count(cls, arguments, shape, called, count):
    pytest.importorskip("peft")
    layer = layer_of(cls, shape, **arguments)
    found = rival(layer)
    assert found.name == called
    trained = sum(p.numel() for p in peft_layer(found, shape, CPU).parameters() if p.requires_grad)
    own = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trained == own == (count or own)


def test_a_grid_that_peft_cannot_have_has_the_nearest_rival():
    """Of 4 x 2 blocks 2 x 2, of an even rank: 320 numbers are nearer to 2 x 112 than to 4 x 112."""
    found = rival(layer_of(BlockLowRank, SHAPE, blocks=(4, 2), rank=1))
    assert (found.options["gralora_k"], found.options["r"]) == (2, 2)


def test_every_kind_is_of_an_exported_class():
    assert set(RIVALS) <= set(zoo.__all__)


def test_a_subclass_has_the_rival_of_its_base():
    class Mine(LoRA):
        pass

    assert rival(layer_of(Mine, (12, 8), rank=2)).name == "peft LoRA r=2"


def test_what_peft_refuses_leaves_the_layer_without_a_rival(monkeypatch):
    """It is said, once for each of peft's layers, and the layer is measured all the same."""

    def refused(*_):
        raise ValueError("no such shape")

    monkeypatch.setattr("zoo.studies.bench.layers.peft_layer", refused)
    line, *layers = made("LoRA", True, ["peft"])
    assert line.startswith("peft LoRA r=") and line.endswith(": no such shape")
    assert [(each.library, each.rival) for each in layers] == [("zoo", None)]
