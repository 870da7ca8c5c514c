"""Several adapters on one network: switched, weighed, by rows, combined and removed."""

import pytest
import torch
from adapting import assert_same_state, made, settings_of, state, train, x
from networks import assert_same, state_of
from torch import nn

import zoo
from zoo.api import record as records
from zoo.layers.convert import zoo_layers


def several(first="LoRA", second="DCT", **more):
    """A network with two trained adapters, and what it gives with each."""
    net = zoo.adapt(
        made(), getattr(zoo, first), name="fr", targets="blocks.*", **settings_of(first), **more
    )
    train(net)
    fr = net(x())
    zoo.adapt(net, getattr(zoo, second), name="law", targets="outer", **settings_of(second), **more)
    assert torch.allclose(net(x()), made()(x()), atol=1e-6)
    train(net)
    return net, fr, net(x())


PAIRS = [("LoRA", "DCT"), ("DoRA", "BlockDCT"), ("DCT", "OFT"), ("VeRA", "Dense")]


@pytest.mark.parametrize("first, second", PAIRS)
def test_adapters_are_switched_and_removed(first, second):
    net, fr, law = several(first, second)
    assert torch.allclose(zoo.use(net, "fr")(x()), fr, atol=1e-6)
    assert torch.equal(zoo.use(net, None)(x()), made()(x()))
    assert not any(p.requires_grad for p in net.parameters())
    assert torch.allclose(zoo.use(net, "law")(x()), law, atol=1e-6)
    with zoo.disabled(net):
        assert torch.equal(net(x()), made()(x()))
    zoo.remove(net, "law")
    assert torch.equal(net(x()), made()(x()))
    assert torch.allclose(zoo.use(net, "fr")(x()), fr, atol=1e-6)
    zoo.remove(net, "fr")
    assert_same_state(net, state(made()))


@pytest.mark.parametrize("first, second", PAIRS)
def test_weights_of_adapters_add_their_updates(first, second):
    net, *_ = several(first, second)
    updates = {}
    for name in ("fr", "law"):
        zoo.use(net, name)
        updates[name] = {n: layer.update().detach().clone() for n, layer in zoo_layers(net).items()}
    statistics = dict(net.named_buffers())
    zoo.use(net, {"fr": 0.5, "law": -2})
    for name, layer in zoo_layers(net).items():
        wanted = 0.5 * updates["fr"][name] - 2 * updates["law"][name]
        assert torch.allclose(layer.update(), wanted, atol=1e-6)
        assert torch.allclose(layer.effective_weight(), layer.base + wanted, atol=1e-6)
    assert statistics.keys() == dict(net.named_buffers()).keys()
    plain = zoo.merged(net)
    assert torch.allclose(plain(x()), net(x()), atol=1e-5)


def test_each_adapter_has_its_own_head():
    net = zoo.adapt(made(), zoo.LoRA, rank=2, name="a", targets="blocks.*", train="head")
    train(net)
    a = net.head.weight.detach().clone()
    zoo.adapt(net, zoo.LoRA, rank=2, name="b", targets="blocks.*", train="head")
    original = made().head.weight
    assert torch.equal(net.head.weight, original)
    train(net)
    b = net.head.weight.detach().clone()
    assert not torch.equal(a, b)
    zoo.use(net, "a")
    assert torch.equal(net.head.weight, a) and net.head.weight.requires_grad
    zoo.use(net, {"a": 0.5, "b": 0.5})
    assert torch.allclose(net.head.weight, (a + b) / 2, atol=1e-6)
    zoo.use(net, "b")
    assert torch.equal(net.head.weight, b)


def test_training_one_adapter_leaves_the_other_alone():
    net, fr, _ = several()
    zoo.use(net, "law")
    train(net)
    assert torch.allclose(zoo.use(net, "fr")(x()), fr, atol=1e-6)


def test_a_graph_from_before_survives_a_look_at_the_base():
    """As preference optimization has it: loss of the policy, beside that of the network before."""
    net = zoo.adapt(made(), zoo.DCT, ratio=0.5, targets="blocks.*", train="head")
    y = net(x())
    with zoo.disabled(net), torch.no_grad():
        base = net(x())
    (y - base - 1).square().mean().backward()
    assert net.head.weight.grad.abs().sum() > 0


class NoNorm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("first, second", PAIRS)
@pytest.mark.parametrize("mode", [True, False])
def test_rows_pass_through_their_own_adapters(first, second, mode):
    net = zoo.adapt(NoNorm(), getattr(zoo, first), name="fr", targets="*", **settings_of(first))
    train(net)
    zoo.adapt(net, getattr(zoo, second), name="law", targets="b", **settings_of(second))
    train(net)
    net.train(mode)
    alone = {name: zoo.use(net, name)(x()) for name in ("fr", "law", None)}
    zoo.use(net, "fr")
    names = ["law", None, "fr", "law"]
    with zoo.rows(net, names):
        y = net(x())
    for i, name in enumerate(names):
        assert torch.allclose(y[i], alone[name][i], atol=1e-6), name
    assert torch.allclose(net(x()), alone["fr"], atol=1e-6)
    with pytest.raises(zoo.UserError, match="4 rows"), zoo.rows(net, names):
        net(x(3))


@pytest.mark.parametrize("name, exact", [("Dense", True), ("LoRA", False), ("DCT", False)])
def test_combined_adapters_are_the_nearest_of_their_class(name, exact):
    net = zoo.adapt(NoNorm(), zoo.LoRA, name="fr", targets="*", rank=2)
    train(net)
    zoo.adapt(net, zoo.DoRA, name="law", targets="*", rank=2)
    train(net)
    zoo.use(net, {"fr": 0.5, "law": 0.5})
    dW = {n: layer.update().detach().clone() for n, layer in zoo_layers(net).items()}
    cls, settings = getattr(zoo, name), settings_of(name)
    errors = zoo.combine(net, {"fr": 0.5, "law": 0.5}, "both", cls, **settings)
    for layer, target in dW.items():
        if name == "LoRA":
            tail = torch.linalg.svdvals(target)[2:].norm() / target.norm()
            assert errors[layer] == pytest.approx(tail.item(), abs=1e-5)
        assert (errors[layer] < 1e-6) is exact
        found = zoo_layers(net)[layer].update().detach()
        assert (found - target).norm() / target.norm() == pytest.approx(errors[layer], abs=1e-5)


def test_mistakes_with_adapters_leave_them_as_they_were(tmp_path):
    net, *_ = several()
    y, before = net(x()), state(net)
    for call, said in (
        (lambda: zoo.adapt(net, zoo.LoRA, rank=2, name="law", targets="*"), "already"),
        (lambda: zoo.adapt(net, zoo.LoRA, rank=99, name="new", targets="*"), "rank"),
        (lambda: zoo.use(net, "lw"), "did you mean 'law'"),
        (lambda: zoo.use(net, {"fr": 1, "no": 0}), "no"),
        (lambda: zoo.remove(net, "no"), "fr, law"),
        (lambda: zoo.combine(net, {"fr": 1, "law": 1}, "new"), "different layers"),
        (lambda: zoo.combine(net, {"law": 1}, "new", zoo.DoRA, rank=2), "by itself"),
        (lambda: zoo.rows(net, ["fr"]).__enter__(), "besides"),
        (lambda: zoo.parameterize(net, zoo.DCT, ratio=0.5, targets="*"), "from scratch"),
    ):
        with pytest.raises(zoo.UserError, match=said):
            call()
        assert torch.equal(net(x()), y)
        assert_same_state(net, before)


class Tied(nn.Module):
    """An embedding and a head of one weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def tied():
    torch.manual_seed(0)
    return Tied().eval()


@pytest.mark.parametrize("name", ["LoRA", "DCT", "DoRA", "VeRA"])
def test_a_second_adapter_of_tied_layers_is_as_the_first(name, tmp_path):
    """It is one map, which a network without adapters takes too."""
    cls, settings, ids = getattr(zoo, name), settings_of(name), torch.arange(4)
    net = zoo.adapt(tied(), zoo.LoRA, rank=1, targets=["embed", "head"], name="one")
    zoo.adapt(net, cls, targets=["embed", "head"], name="two", **settings)
    with torch.no_grad():
        for p in zoo.trainable(net).values():
            p.add_(0.1)
    y, layers = net(ids), zoo_layers(net)
    assert layers["embed"].parameterization is layers["head"].parameterization
    folder = zoo.save(net, tmp_path / "a")
    assert torch.allclose(zoo.load(tied(), folder)(ids), y, atol=1e-6)
    assert torch.allclose(zoo.load(net, folder, name="three")(ids), y, atol=1e-6)
    for each in ("one", "two", "three"):
        zoo.remove(net, each)
    assert net.head.weight is net.embed.weight and torch.equal(net(ids), tied()(ids))


@pytest.mark.parametrize(
    "first, second",
    [
        (["embed", "head"], "head"),
        (["embed", "head"], "embed"),
        ("head", ["embed", "head"]),
        ("embed", ["embed", "head"]),
    ],
)
def test_a_second_adapter_of_one_of_two_tied_layers_is_refused(first, second):
    net = zoo.adapt(tied(), zoo.LoRA, rank=1, targets=first, name="one")
    before = state_of(net)
    with pytest.raises(zoo.UserError, match="embed and head|head and embed"):
        zoo.adapt(net, zoo.LoRA, rank=1, targets=second, name="two")
    assert_same(before, state_of(net))
    assert list(records.find_record(net).adapters) == ["one"]


class Attending(nn.Module):
    """Torch's own attention, which reads the weight of a layer that it holds."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.block(x)


@pytest.mark.parametrize("grad", [True, False])
def test_a_module_that_reads_weights_has_the_network_of_before_and_no_rows(grad):
    torch.manual_seed(0)
    net, x = Attending().eval().requires_grad_(False), torch.randn(2, 3, 8)
    with torch.set_grad_enabled(grad):
        base = net(x)
        zoo.adapt(net, zoo.LoRA, rank=1, targets="all")
        with torch.no_grad():
            for p in zoo.trainable(net).values():
                p.add_(0.1)
        after = net(x)
        assert not torch.allclose(after, base, atol=1e-3)
        with zoo.disabled(net):
            assert torch.equal(net(x), base)
        zoo.use(net, None)  # nothing is trained, and torch takes its fast path
        with pytest.raises(zoo.UserError, match="out_proj"), zoo.rows(net, ["default", None]):
            net(x)
        assert torch.allclose(zoo.use(net, "default")(x), after, atol=1e-6)
