"""What the functions of `import zoo` are given wrongly is one line, and changes nothing."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from networks import assert_same, state_of
from torch import nn

import zoo
from zoo.api.record import find_record


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


def two():
    """A network with two adapters, which are not 0."""
    net = zoo.adapt(made(), zoo.LoRA, rank=1, name="fr")
    zoo.adapt(net, zoo.DCT, ratio=0.5, name="law")
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    return net


def assert_refused(net, call, said=""):
    """A call is refused in one line, and the network and its record are as they were."""
    before, record = state_of(net), copy.deepcopy(find_record(net))
    with pytest.raises(zoo.UserError) as error:
        call(net)
    text = str(error.value)
    assert said in text and "\n" not in text and len(text) < 500, text
    assert_same(before, state_of(net))
    after = find_record(net)
    assert (after is None) is (record is None)
    if record is not None:
        assert after.weights == record.weights and after.adapters.keys() == record.adapters.keys()


WITH_A_NETWORK = {
    "adapt": lambda net: zoo.adapt(net, zoo.DCT, ratio=0.5),
    "parameterize": lambda net: zoo.parameterize(net, zoo.DCT, ratio=0.5, targets="all"),
    "use": lambda net: zoo.use(net, "fr"),
    "disabled": lambda net: zoo.disabled(net).__enter__(),
    "rows": lambda net: zoo.rows(net, ["fr"]).__enter__(),
    "merged": lambda net: zoo.merged(net),
    "remove": lambda net: zoo.remove(net, "fr"),
    "save": lambda net: zoo.save(net, "nowhere"),
    "load": lambda net: zoo.load(net, "nowhere"),
    "combine": lambda net: zoo.combine(net, {"fr": 1.0}, "new"),
    "summary": lambda net: zoo.summary(net),
    "trainable": lambda net: zoo.trainable(net),
    "param_groups": lambda net: zoo.param_groups(net, lr=1e-3),
    "push": lambda net: zoo.push(net, "me/mine"),
}


@pytest.mark.parametrize("function", WITH_A_NETWORK)
def test_what_is_no_network_is_said(function):
    for thing in (None, "bert", [made()], made):
        with pytest.raises(zoo.UserError, match="is no network: give a torch module"):
            WITH_A_NETWORK[function](thing)


NUMBERS = {
    "scale": lambda net, value: zoo.adapt(net, zoo.LoRA, rank=1, name="new", scale=value),
    "alpha": lambda net, value: zoo.adapt(net, zoo.LoRA, rank=1, name="new", alpha=value),
    "weight": lambda net, value: zoo.use(net, {"fr": 0.5, "law": value}),
    "combine": lambda net, value: zoo.combine(net, {"fr": 0.5, "law": value}, "new"),
    "lr": lambda net, value: zoo.param_groups(net, lr=value),
    "weight_decay": lambda net, value: zoo.param_groups(net, lr=1.0, weight_decay=value),
    "rates": lambda net, value: zoo.param_groups(net, lr=1.0, rates={"0": value}),
}
NO_NUMBERS = ["1", b"1", [1.0], {}, 1j, float("nan"), float("inf"), 10**400, 10**5000, nn.ReLU()]


@pytest.mark.parametrize("argument", NUMBERS)
def test_numbers_are_finite(argument):
    for value in NO_NUMBERS:
        assert_refused(two(), lambda net, value=value: NUMBERS[argument](net, value), "number")


BY_NAME = {
    "use": lambda net, value: zoo.use(net, value),
    "combine": lambda net, value: zoo.combine(net, value, "new"),
    "rates": lambda net, value: zoo.param_groups(net, lr=1.0, rates=value),
    "metrics": lambda net, value: zoo.save(net, "nowhere", metrics=value),
}


@pytest.mark.parametrize("argument", BY_NAME)
def test_numbers_go_by_name(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (["fr"], 3, True, {"fr": "x"}, {"fr": [1]}):
        assert_refused(two(), lambda net, value=value: BY_NAME[argument](net, value))
    assert list(tmp_path.iterdir()) == []


PATTERNS = {
    "targets": lambda net, value: zoo.adapt(net, zoo.IA3, targets=value),
    "exclude": lambda net, value: zoo.adapt(net, zoo.IA3, exclude=value),
    "train": lambda net, value: zoo.adapt(net, zoo.IA3, targets="0", train=value),
    "from scratch": lambda net, value: zoo.parameterize(net, zoo.DCT, ratio=0.5, targets=value),
}


@pytest.mark.parametrize("argument", PATTERNS)
def test_patterns_are_texts_or_expressions(argument):
    for value in ("", 3, b"0", [None], [["0"]], nn.ReLU, made(), re.compile(b"0"), "y" * 9000):
        assert_refused(made(), lambda net, value=value: PATTERNS[argument](net, value))
    if argument != "train":
        assert_refused(made(), lambda net: PATTERNS[argument](net, None))
    if argument in ("targets", "from scratch"):
        assert_refused(made(), lambda net: PATTERNS[argument](net, []), "targets names no layer")


NAMES = [name for name in dir(nn.ModuleDict()) if name[0] != "_"]


@pytest.mark.parametrize("name", [*NAMES, "", "a.b", "../a", "a/b", "a\n", 3, None, ["a"]])
def test_names_that_no_adapter_can_have(name):
    for net in (made(), two()):
        assert_refused(net, lambda net: zoo.adapt(net, zoo.LoRA, rank=1, name=name), "name")
    assert_refused(two(), lambda net: zoo.combine(net, {"fr": 1.0}, name), "name")
    for call in (zoo.use, zoo.remove, lambda net, name: zoo.save(net, "x", name=name)):
        if name is not None:
            assert_refused(two(), lambda net, call=call: call(net, name))


PATHS = {
    "save": lambda net, value: zoo.save(net, value),
    "load": lambda net, value: zoo.load(net, value, name="new"),
}


@pytest.mark.parametrize("function", PATHS)
def test_paths_that_no_file_can_have(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for value in (None, 3, ["a"], "a\0b", "a" * 5000, "file", "file/inside", tmp_path):
        net = zoo.adapt(made(), zoo.DCT, ratio=0.5)
        if (function, value) != ("save", tmp_path):
            assert_refused(net, lambda net, value=value: PATHS[function](net, value))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("start", ["update", "warm", "", None, 3])
def test_from_scratch_weights_begin_at_random_or_as_a_projection(start):
    call = functools.partial(zoo.parameterize, cls=zoo.DCT, ratio=0.5, targets="all", start=start)
    assert_refused(made(), call, "random or project")


def test_rows_are_a_list_of_names():
    for names in ("fr", 3, None, [], {"fr": 1}, [["fr"]], ["fr", 3]):
        assert_refused(two(), lambda net, names=names: zoo.rows(net, names).__enter__())


def test_a_second_adapter_is_refused_by_the_layer_as_the_first_is():
    def call(net):
        return zoo.adapt(net, zoo.DCT, ratio=0.5, alpha=2.0, name="new")

    assert_refused(made(), call, "0: DCT has no rank")
    assert_refused(two(), call, "0: DCT has no rank")


def test_what_makes_a_map_of_the_base_cannot_combine():
    for cls in (zoo.IA3, functools.partial(zoo.DoRA, rank=1), lambda m, n: zoo.DoRA(m, n, rank=1)):
        assert_refused(
            two(), lambda net, cls=cls: zoo.combine(net, {"fr": 1.0}, "n", cls), "itself"
        )


CHANGES = {name: call for name, call in WITH_A_NETWORK.items() if name not in ("summary", "push")}
del CHANGES["disabled"], CHANGES["trainable"], CHANGES["param_groups"], CHANGES["load"]


@pytest.mark.parametrize("within", ["rows", "disabled"])
@pytest.mark.parametrize("function", CHANGES)
def test_nothing_is_changed_within_rows_or_disabled(function, within):
    net, x = two(), torch.ones(2, 6)
    y = net(x)
    context = zoo.rows(net, ["fr", "law"]) if within == "rows" else zoo.disabled(net)
    with context:
        inside = net(x)
        with pytest.raises(zoo.UserError, match=f"within zoo.{within}|already"):
            CHANGES[function](net)
        assert torch.equal(net(x), inside)
    assert torch.equal(net(x), y)


@pytest.mark.parametrize("within", ["rows", "disabled"])
def test_an_exception_within_ends_it(within):
    net, x = two(), torch.ones(2, 6)
    y = net(x)
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with zoo.rows(net, ["fr", None]) if within == "rows" else zoo.disabled(net):
            raise ZeroDivisionError
    assert torch.equal(net(x), y)
    assert torch.equal(zoo.use(net, "law")(x), y)


SETTINGS = {
    "scale": (zoo.LoRA, {"rank": 1, "scale": np.float32(2)}),
    "scale of torch": (zoo.LoRA, {"rank": 1, "scale": torch.tensor(2.0)}),
    "a boolean": (zoo.LoRA, {"rank": 1, "scale": True}),
    "alpha": (zoo.LoRA, {"rank": np.int64(1), "alpha": np.float32(2)}),
    "ratio": (zoo.DCT, {"ratio": np.float32(0.5)}),
    "ratio of torch": (zoo.DCT, {"ratio": torch.tensor(0.5)}),
    "seed": (zoo.DCT, {"ratio": 0.5, "seed": np.int64(3)}),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_adapt_takes_can_be_saved(setting, tmp_path):
    cls, settings = SETTINGS[setting]
    net, x = zoo.adapt(made(), cls, **settings), torch.ones(2, 6)
    with torch.no_grad():
        for p in zoo.trainable(net).values():
            p.add_(0.1)
    other = zoo.load(made(), zoo.save(net, tmp_path / "a"))
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("seed", ["x", 1.5, None])
def test_a_seed_is_a_whole_number(seed):
    assert_refused(made(), lambda net: zoo.adapt(net, zoo.DCT, ratio=0.5, seed=seed), "whole")


def test_globs_of_what_is_trained_leave_out_other_adapters():
    net = zoo.adapt(made(), zoo.LoRA, rank=1, name="fr", targets="2")
    zoo.adapt(net, zoo.LoRA, rank=1, name="law", targets="0", train="2")
    assert set(zoo.trainable(net)) == {
        "0.parameterization.maps.law.lora_A",
        "0.parameterization.maps.law.lora_B",
        "2.weight",
        "2.bias",
    }


@pytest.mark.parametrize("mode", [True, False])
def test_maps_are_in_the_mode_of_their_layers(mode, tmp_path):
    """A network that was loaded is in eval mode, where nothing drops out."""

    def modes(net):
        return {module.training for module in net.modules()}

    net = zoo.adapt(made().train(mode), zoo.LoRA, rank=1, dropout=0.5)
    assert modes(net) == {mode}
    folder = zoo.save(net, tmp_path / "a")
    assert modes(zoo.load(made().train(mode), folder)) == {mode}
    zoo.adapt(net, zoo.LoRA, rank=1, dropout=0.5, name="b")
    assert modes(net) == {mode}
    assert modes(zoo.load(net, folder, name="c")) == {mode}
    assert modes(zoo.parameterize(made().train(mode), zoo.DCT, ratio=0.5, targets="0")) == {mode}
