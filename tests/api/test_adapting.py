"""Adapters from Python: what is trained, saved, loaded and merged."""

import copy
import json
import logging
import pickle
import re
import subprocess
import sys

import pytest
import torch
from adapting import adapted, assert_same_state, made, settings_of, state, train, x
from torch import nn

import zoo
from zoo.api import record as records
from zoo.api.say import LOGGER
from zoo.layers.convert import zoo_layers
from zoo.runs.adapter_config import CONFIG

CLASSES = [
    name
    for name in zoo.parameterizations.__all__
    if not getattr(getattr(zoo, name), "__abstractmethods__", None)
    and name not in ("Isometry", "OfBase", "OrthonormalSubspace", "SeparableSubspace")
]


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


# ---- Mistakes ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["LoRA", "DCT", "DoRA", "PiSSA", "VeRA"])
def test_what_is_made_in_inference_mode_can_be_trained(name, tmp_path):
    folder = zoo.save(train(adapted(name)), tmp_path / "a")
    y = zoo.load(made(), folder)(x())
    for net in (made(), adapted("DCT")):
        with torch.inference_mode():
            net = zoo.use(zoo.load(net, folder, name="b", trainable=True), "b")
            assert torch.allclose(net(x()), y, atol=1e-6)
            assert torch.allclose(zoo.merged(net)(x()), y, atol=1e-5)
        assert not torch.allclose(train(net)(x()), y, atol=1e-4)


@pytest.mark.parametrize("name", ["LoRA", "DCT", "DoRA"])
@pytest.mark.parametrize("besides", [None, "head"])
def test_nothing_is_loaded_where_there_are_no_numbers(name, besides, tmp_path):
    folder = zoo.save(adapted(name, train=besides), tmp_path / "a")
    net = made().to("meta")
    with pytest.raises(zoo.UserError, match="meta device"):
        zoo.load(net, folder)
    assert not zoo_layers(net)
