"""Adapters from Python: what is trained, saved, loaded, switched, combined and merged."""

import copy
import json
import logging
import pickle
import re
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from every import BUDGETS
from torch import nn

import zoo
from zoo.api import record as records
from zoo.api.say import LOGGER
from zoo.layers.convert import zoo_layers
from zoo.runs.adapter_folder import CONFIG

CLASSES = [
    name
    for name in zoo.parameterizations.__all__
    if not getattr(getattr(zoo, name), "__abstractmethods__", None)
    and name not in ("Isometry", "OfBase", "OrthonormalSubspace", "SeparableSubspace")
]


def settings_of(name):
    return BUDGETS.get(name, {"ratio": 0.35})


class Net(nn.Module):
    """A small network with what real ones have: norms with statistics, a layer without bias."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            OrderedDict(
                inner=nn.Linear(8, 8),
                act=nn.ReLU(),
                norm=nn.BatchNorm1d(8),
                outer=nn.Linear(8, 8, bias=False),
            )
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


def made(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def x(rows=4):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))


def train(net, steps=3):
    net.train()
    optimizer = torch.optim.AdamW(zoo.param_groups(net, lr=0.05))
    for step in range(steps):
        batch = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        loss = (net(batch) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_same_state(net, before):
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def adapted(name="LoRA", **more):
    return zoo.adapt(made(), getattr(zoo, name), targets="blocks.*", **settings_of(name) | more)


# ---- adapt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameterization_is_trained_saved_loaded_disabled_and_merged(name, tmp_path):
    base = made()(x())
    net = zoo.adapt(
        made(), getattr(zoo, name), targets="blocks.*", train="head", **settings_of(name)
    )
    assert torch.allclose(net(x()), base, atol=1e-6)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {n for n in trained if ".parameterization." not in n} == {"head.weight", "head.bias"}
    assert len(trained) > 2
    train(net)
    after = net(x())
    assert not torch.allclose(after, base, atol=1e-3)
    with zoo.disabled(net):
        assert torch.equal(net(x()), base)
    assert torch.equal(net(x()), after)

    folder = zoo.save(net, tmp_path / "adapter")
    other = zoo.load(made(), folder)
    assert torch.allclose(other(x()), after, atol=1e-6)
    assert not any(p.requires_grad for p in other.parameters())

    plain = zoo.merged(net)
    assert type(plain.blocks.inner) is nn.Linear and not zoo_layers(plain)
    assert torch.allclose(plain(x()), after, atol=1e-5)
    assert torch.equal(net(x()), after)

    zoo.remove(net, "default")
    assert_same_state(net, state(made()))
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(net(x()), base)


def test_merged_in_place_is_the_same_network():
    net = train(adapted("BlockDCT"))
    after = net(x())
    assert zoo.merged(net, copy=False) is net
    assert not zoo_layers(net) and torch.allclose(net(x()), after, atol=1e-5)


def test_alpha_is_divided_by_the_rank():
    for rslora, s in ((False, 4.0), (True, 8 / 2**0.5)):
        net = zoo.adapt(made(), zoo.LoRA, rank=2, targets="blocks.*", alpha=8, rslora=rslora)
        assert {layer.scale for layer in zoo_layers(net).values()} == {s}


@pytest.mark.parametrize(
    "targets, exclude, found",
    [
        ("all", (), ["blocks.inner", "blocks.outer", "head"]),
        ("*", "head", ["blocks.inner", "blocks.outer"]),
        (re.compile(r".*\.(inner|nothing)"), (), ["blocks.inner"]),
        (["outer", "head"], (), ["blocks.outer", "head"]),
        ("blocks.*", re.compile("blocks.o.*"), ["blocks.inner"]),
    ],
)
def test_targets_are_presets_globs_and_regular_expressions(targets, exclude, found):
    net = zoo.adapt(made(), zoo.DCT, ratio=0.5, targets=targets, exclude=exclude)
    assert list(zoo_layers(net)) == found


def test_what_is_done_is_said_once_and_can_be_silenced(capsys, monkeypatch):
    monkeypatch.setattr(LOGGER, "hasHandlers", lambda: False)  # pytest has some
    net = adapted("DCT")
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "DCT(ratio=0.35), 2 layers" in said.err
    assert zoo.summary(net).line() in said.err
    assert max(map(len, str(zoo.summary(net)).splitlines())) <= 80
    monkeypatch.setattr(LOGGER, "level", logging.WARNING)
    LOGGER.manager._clear_cache()
    adapted("DCT")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["DCT", "LoRA", "DoRA"])
def test_copies_and_pickles_are_the_same_network(name):
    net = train(adapted(name, train="head"))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x()), net(x()))
        with zoo.disabled(other):
            assert torch.equal(other(x()), zoo.remove(copy.deepcopy(net), "default")(x()))


def test_a_network_with_nothing_to_train_is_told_from_others(tmp_path):
    folder = zoo.save(adapted(), tmp_path / "a")
    frozen = zoo.load(made(), folder)
    with pytest.raises(zoo.UserError, match="trainable=True"):
        zoo.param_groups(frozen, lr=1e-3)
    assert zoo.param_groups(zoo.load(made(), folder, trainable=True), lr=1e-3)


def test_running_statistics_are_part_of_an_adapter(tmp_path):
    """Training changes them, whatever is frozen."""
    net = train(adapted())
    assert not torch.equal(net.blocks.norm.running_mean, made().blocks.norm.running_mean)
    other = zoo.load(made(), zoo.save(net, tmp_path / "a"))
    assert torch.equal(other.blocks.norm.running_mean, net.blocks.norm.running_mean)


# ---- From scratch --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["random", "project"])
def test_parameterized_networks_are_saved_whole(tmp_path, start):
    net = zoo.parameterize(made(), zoo.DCT, ratio=0.5, targets="blocks.*", start=start)
    assert {type(layer.base) for layer in zoo_layers(net).values()} == {type(None)}
    assert all(p.requires_grad for p in net.parameters())
    train(net)
    folder = zoo.save(net, tmp_path / "a")
    other = zoo.load(made(seed=5), folder, trainable=True)
    assert torch.equal(other(x()), net(x()))
    assert torch.allclose(zoo.merged(net)(x()), net(x()), atol=1e-5)
    with pytest.raises(zoo.UserError, match="zoo.parameterize"), zoo.disabled(net):
        pass


# ---- Several -------------------------------------------------------------------------------------


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


# ---- Mistakes ------------------------------------------------------------------------------------


def copied(net):
    return copy.deepcopy(net)


MISTAKES = {
    "nothing matches": (lambda net: zoo.adapt(net, zoo.LoRA, rank=2, targets="bloks.*"), "blocks"),
    "no setting": (lambda net: zoo.adapt(net, zoo.LoRA, rnk=2, targets="*"), "did you mean 'rank'"),
    "no class": (lambda net: zoo.adapt(net, nn.Linear, targets="*"), "zoo.DCT"),
    "no rank": (lambda net: zoo.adapt(net, zoo.DCT, ratio=0.5, alpha=4, targets="*"), "rank"),
    "rank": (lambda net: zoo.adapt(net, zoo.LoRA, rank=99, targets="*"), "rank"),
    "later layer": (lambda net: zoo.adapt(net, zoo.LoRA, rank=4, targets="*"), "head"),
    "train": (lambda net: zoo.adapt(net, zoo.IA3, targets="blocks.*", train="hed"), "head"),
    "both": (lambda net: zoo.adapt(net, zoo.IA3, targets="*", train="head"), "head.weight"),
    "name": (lambda net: zoo.adapt(net, zoo.IA3, targets="*", name="a.b"), "letters"),
    "excluded": (lambda net: zoo.adapt(net, zoo.IA3, targets="head", exclude="*"), "exclude"),
    "no adapter": (lambda net: zoo.save(net, "nowhere"), "zoo.adapt"),
    "nothing": (lambda net: zoo.load(net, "nowhere"), "zoo.save"),
    "preset": (lambda net: zoo.adapt(net, zoo.IA3, targets="mlp"), "'all'"),
    "rslora": (lambda net: zoo.adapt(net, zoo.LoRA, rank=2, targets="*", rslora=True), "alpha"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_the_network_as_it_was(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, said = MISTAKES[mistake]
    net = made()
    before, grads = state(net), [p.requires_grad for p in net.parameters()]
    with pytest.raises(zoo.UserError) as error:
        call(net)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert_same_state(net, before)
    assert [p.requires_grad for p in net.parameters()] == grads and not zoo_layers(net)
    assert records.find_record(net) is None and list(tmp_path.iterdir()) == []


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


# ---- Folders -------------------------------------------------------------------------------------


class Mine(zoo.LoRA):
    """A user's own."""


def test_a_users_own_class_is_handed_over_and_never_imported(tmp_path, monkeypatch):
    net = train(zoo.adapt(made(), Mine, rank=2, targets="blocks.*"))
    folder = zoo.save(net, tmp_path / "a")
    with pytest.raises(zoo.UserError, match=r"classes=\[Mine\]"):
        zoo.load(made(), folder)
    assert torch.equal(zoo.load(made(), folder, classes=[Mine])(x()), net(x()))
    config = json.loads((folder / CONFIG).read_text())
    for path in ("os.system", "antigravity.fly", "subprocess.Popen", "zoo.x.os.system"):
        config["maps"][0]["class_path"] = path
        (folder / CONFIG).write_text(json.dumps(config))
        with pytest.raises(zoo.UserError):
            zoo.load(made(), folder)
    assert "antigravity" not in sys.modules


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import zoo; "
        "assert 'torch' not in sys.modules and not hasattr(zoo, 'nothing'); "
        "assert 'torch' not in sys.modules; zoo.DCT; zoo.adapt; assert 'tasks' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
