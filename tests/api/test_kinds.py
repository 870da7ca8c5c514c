"""Adapters of convolutions, embeddings and layers of other libraries, from adapt to merge."""

import pytest
import torch
from adapting import settings_of, train
from torch import nn

import zoo
from zoo.layers.convert import zoo_layers


class Int8(nn.Module):
    """Stands for a quantized layer of some library: whole numbers and a scale for each row."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        W = torch.randn(out_features, in_features) * 0.3
        scale = W.abs().amax(1, keepdim=True) / 127
        self.register_buffer("packed", (W / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def dequantize(self):
        return self.packed * self.scale

    def forward(self, x):
        return x @ self.dequantize().mT + self.bias


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(12, 8, padding_idx=0)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.mix = Int8(8, 8)
        self.out = nn.Linear(8, 4, bias=False)

    def forward(self, ids):
        x = self.conv(self.embed(ids).mT).mT
        return self.out(self.mix(x.relu()).relu())


IDS = torch.randint(0, 12, (3, 5), generator=torch.Generator().manual_seed(0))
TARGETS = ["embed", "conv", "mix", "out"]
CLASSES = ["LoRA", "DCT", "DoRA", "VeRA", "Kronecker"]


def test_globs_take_embeddings_only_where_nothing_else_matches():
    found = {}
    for targets in ("*", "all", "embed", "conv"):
        net = zoo.adapt(Net(), zoo.LoRA, rank=1, targets=targets)
        found[targets] = list(zoo_layers(net))
    assert found == {
        "*": ["conv", "mix", "out"],
        "all": ["conv", "mix", "out"],
        "embed": ["embed"],
        "conv": ["conv"],
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_kind_of_layer_is_trained_saved_loaded_switched_and_merged(name, tmp_path):
    base = Net().eval()(IDS)
    net = zoo.adapt(Net(), getattr(zoo, name), targets=TARGETS, **settings_of(name, 0.5))
    assert torch.allclose(net.eval()(IDS), base, atol=1e-5)
    train(net, [IDS] * 3)
    after = net(IDS)
    assert all(layer.update().abs().sum() > 0 for layer in zoo_layers(net).values())
    other = zoo.load(Net(), zoo.save(net, tmp_path / "a"), name="one").eval()
    assert torch.allclose(other(IDS), after, atol=1e-5)
    zoo.adapt(other, zoo.LoRA, rank=1, targets=TARGETS, name="two")
    train(other, [IDS] * 3)
    two = other(IDS)
    with zoo.rows(other, ["one", "two", None]):
        y = other(IDS)
    for i, wanted in enumerate((after, two, base)):
        assert torch.allclose(y[i], wanted[i], atol=1e-5), i
    zoo.use(other, {"one": 0.5, "two": 0.5})
    mixed = other(IDS)
    assert torch.allclose(zoo.merged(other)(IDS), mixed, atol=1e-4)
    with zoo.disabled(other):
        assert torch.equal(other(IDS), base)
    errors = zoo.combine(other, {"one": 0.5, "two": 0.5}, "both", zoo.Dense)
    assert max(errors.values()) < 1e-6 and torch.allclose(other(IDS), mixed, atol=1e-4)
    for each in ("both", "one", "two"):
        zoo.remove(other, each)
    assert torch.equal(other(IDS), base) and not zoo_layers(other)
    assert type(other.mix) is Int8


def test_a_layer_that_no_library_unpacks_is_named_and_nothing_changes():
    class Sealed(Int8):
        dequantize = None

        def forward(self, x):
            return x @ (self.packed * self.scale).mT + self.bias

    net = Net()
    net.mix = Sealed(8, 8)
    zoo.adapt(net, zoo.LoRA, rank=1, targets=TARGETS)
    train(net, [IDS] * 3)
    after = net(IDS)
    for copied in (True, False):
        with pytest.raises(zoo.UserError, match="mix"):
            zoo.merged(net, copy=copied)
        assert torch.equal(net(IDS), after) and len(zoo_layers(net)) == 4
    fresh = Net()
    fresh.mix = Sealed(8, 8)
    with pytest.raises(zoo.UserError, match="mix"):
        zoo.adapt(fresh, zoo.PiSSA, rank=1, targets=TARGETS)
    assert not zoo_layers(fresh)
