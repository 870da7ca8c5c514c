"""`zoo.mask` from Python: the command's numbers, and those of a network that a function scores."""

import copy
import functools
import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from every import factories
from networks import IDS, Net, adapted, assert_same, of_kinds, state_of
from scipy.fft import dctn, idctn
from torch import nn

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import merge, zoo_layers
from zoo.parameterizations import DCT, LoRA
from zoo.studies.mask import frames
from zoo.studies.mask.public import mask

FRAMES = ("runs", "masks", "draws", "scores")
X, Y = torch.randn(20, 12), torch.randint(3, (20,))


def loss(network):
    return F.cross_entropy(network(X).float(), Y)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return adapted(functools.partial(DCT, ratio=0.6))


# ---- The same as the command ---------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["run", "adapter"])
def test_it_is_what_the_command_prints_and_writes(tuned, kind, capsys):
    path, save = tuned, True
    if kind == "adapter":
        assert main(["export", tuned, "--to", "peft", "--output", "lora"]) == 0
        path, save = "lora", False
    hook, shown = threading.excepthook, warnings.showwarning
    options = {"budgets": [10, 100], "order": ["random", "magnitude"], "draws": 2}
    found = mask(path, **options, out="python", save=save)
    assert (threading.excepthook, warnings.showwarning) == (hook, shown)
    capsys.readouterr()
    line = ["mask", path, "--budgets", "10,100", "--order", "random,magnitude", "--draws", "2"]
    assert main([*line, "--out", "command", *["--save"] * save]) == 0
    end = "\n\nwritten to  command\nlook        command/mask.html\n"
    assert capsys.readouterr().out == f"{found}{end}"
    told, written = (json.loads(Path(p, "mask.json").read_text()) for p in ("python", "command"))
    of_the_call = ("command", "date", "seconds")
    assert {k: v for k, v in told.items() if k not in of_the_call} == {
        k: v for k, v in written.items() if k not in of_the_call
    }
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(frames, name)(written))
    files = [sorted(p.name for p in Path(out).rglob("*")) for out in ("python", "command")]
    assert files[0] == files[1]


def test_settings_of_the_data_reach_the_task(tuned, glue, capsys):
    with pytest.raises(UserError, match="gone"):
        mask(tuned, budgets=50, data={"data_dir": "gone"})
    assert len(mask(tuned, budgets=50, order="frequency", data={"data_dir": glue}).masks) == 1


# ---- A network that a function scores ------------------------------------------------------------


def masked_by_hand(network, share):
    """The merged network whose updates have the largest coefficients alone, by scipy."""
    plain, kept, held = merge(network), 0, []
    for name, layer in zoo_layers(network).items():
        update = layer.update().detach().double().numpy()
        plane = dctn(update, norm="ortho")
        k = max(1, round(share * plane.size))
        least = np.sort(np.abs(plane).ravel())[-k]
        left = np.where(np.abs(plane) >= least, plane, 0)
        before = layer.effective_weight().detach().numpy() - update
        weight = torch.from_numpy(before + idctn(left, norm="ortho")).float()
        plain.get_submodule(name).weight.data.copy_(weight)
        kept += k
        held.append(((left**2).sum(), (plane**2).sum()))
    energy = sum(part for part, _ in held) / sum(whole for _, whole in held)
    return plain.eval(), kept, energy


@pytest.mark.parametrize("start", ["update", "random", "project"])
def test_scores_energies_and_counts_are_those_of_scipy(start):
    network = adapted(functools.partial(DCT, ratio=0.6), start=start)
    found = mask(
        network, loss, better="lower", metric="loss", budgets=[5, 30, 100], order="magnitude"
    )
    assert found.runs[["metric", "better", "what"]].values.tolist() == [
        ["loss", "lower", "dW" if start == "update" else "W"]
    ]
    with torch.no_grad():
        assert found.runs.unmasked[0] == pytest.approx(loss(network.eval()).item(), rel=1e-5)
        for row in found.masks.itertuples():
            plain, kept, energy = masked_by_hand(network, row.budget / 100)
            assert row.value == pytest.approx(loss(plain).item(), rel=1e-4)
            assert row.kept == kept and row.energy == pytest.approx(energy, rel=1e-4)
            assert row.values_bytes == 4 * kept
    sizes = found.runs.iloc[0]
    layers = zoo_layers(network).values()
    assert sizes.dense_bytes == sum(4 * layer.effective_weight().numel() for layer in layers)
    assert sizes.trained_bytes == sum(4 * layer.parameterization.coef.numel() for layer in layers)
    assert sizes.other_bytes == 0


@pytest.mark.parametrize("name", factories(of_base=True))
def test_all_of_an_update_is_the_network_itself(name):
    """Whatever made it, in bfloat16 too; and a tenth is another one."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        make = functools.partial(Net, bias=dtype == torch.float32)
        factory = factories(of_base=True)[name]
        network = adapted(factory, lambda: make().to(dtype), scale=0.3)  # noqa: B023
        x = X.to(dtype)
        seen = []

        def score(given):
            assert given is network and not given.training and not torch.is_grad_enabled()  # noqa: B023
            seen.append(given(x))  # noqa: B023
            return 0.0

        mask(network, score, better="higher", budgets=10, order="magnitude")
        plain = network.eval()(x).detach()
        assert torch.allclose(seen[0], plain, atol=tolerance * plain.abs().max().item())
        assert not torch.allclose(seen[1], plain, atol=1e-3 * plain.abs().max().item())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("failing", [None, 0, 2])
def test_the_network_is_given_back_as_it_was(network, mode, failing):
    """Also where the function raises, at the reference or at a mask, or changes the mode."""
    network = copy.deepcopy(network).train(mode)
    network.blocks[0].value.eval()
    network.blocks[0].query.register_forward_hook(lambda *args: None)
    before, out, drawn = state_of(network), network.head(X), torch.get_rng_state()
    calls = []

    def score(given):
        calls.append(given.train())
        if len(calls) - 1 == failing:
            raise ZeroDivisionError
        return 0.5

    if failing is None:
        mask(network, score, better="higher", budgets=[10, 20], order="magnitude")
        assert len(calls) == 3
    else:
        with pytest.raises(ZeroDivisionError):
            mask(network, score, better="higher", budgets=[10, 20], order="magnitude")
    assert_same(before, state_of(network))
    assert torch.equal(out, network.head(X)) and torch.equal(drawn, torch.get_rng_state())
    assert all(type(layer.parameterization) is DCT for layer in zoo_layers(network).values())


@pytest.mark.parametrize("start", ["update", "random"])
def test_every_kind_of_layer_is_masked(start):
    """Beside a layer of another library too, whose weight nobody asks for."""
    network, seen = of_kinds(start=start), []
    before = state_of(network)

    def score(given):
        seen.append(given(IDS).clone())
        return seen[-1].sum()

    found = mask(network, score, better="higher", budgets=10, order="magnitude")
    assert_same(before, state_of(network))
    plain = network.eval()(IDS)
    assert torch.allclose(seen[0], plain, atol=1e-6)
    assert not torch.allclose(seen[1], plain, atol=1e-3)
    planes = [layer.parameterization.shape for layer in zoo_layers(network).values()]
    assert found.masks.kept[0] == sum(round(0.1 * m * n) for m, n in planes)


def test_training_goes_on_after_it(network):
    """An optimizer that was there before moves what the network computes with."""
    network = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    mask(network, loss, better="lower", budgets=10, order="frequency")
    before = network.eval()(X).detach()
    loss(network.train()).backward()
    optimizer.step()
    assert not torch.allclose(before, network.eval()(X))


def test_a_function_may_use_what_holds_the_network(network):
    """As a Trainer does: it is the network that was given."""
    found = mask(network, lambda _: loss(network), better="lower", budgets=1, order="magnitude")
    assert found.masks.value[0] != found.runs.unmasked[0]


def test_without_a_function_it_is_the_energy(network):
    found = mask(network, budgets=[5, 30], order="magnitude")
    assert found.runs.metric.tolist() == ["energy"] and found.runs.unmasked.tolist() == [1.0]
    for row in found.masks.itertuples():
        _, _, energy = masked_by_hand(network, row.budget / 100)
        assert row.value == row.energy == pytest.approx(energy, rel=1e-4)


def test_a_group_of_networks_is_tested_together():
    """By a paired t-test, as seeds of a run are."""
    from scipy import stats

    networks = [adapted() for _ in range(3)]
    found = mask({"mine": networks}, loss, better="lower", budgets=[5, 20], order="magnitude")
    assert found.runs.run.tolist() == ["mine 1", "mine 2", "mine 3"]
    for row in found.scores.itertuples():
        values = found.masks.query("budget == @row.budget").value
        test = stats.ttest_rel(values, found.runs.unmasked)
        assert (row.n, row.mean) == (3, pytest.approx(values.mean()))
        assert (row.t, row.p) == (pytest.approx(test.statistic), pytest.approx(test.pvalue))


def test_random_masks_are_drawn_as_often_as_it_is_said(network):
    found = mask(network, loss, better="lower", budgets=[10, 100], order="random", draws=4)
    assert found.draws.groupby("budget").draw.apply(list).to_dict() == {
        10.0: [0, 1, 2, 3],
        100.0: [0],
    }
    assert found.draws.query("budget == 10").value.nunique() == 4
    assert found.masks.value[0] == pytest.approx(found.draws.query("budget == 10").value.mean())


@pytest.mark.usefixtures("undrawn")
def test_saving_it(network, place):
    found = mask(network, loss, better="lower", budgets=[10], order="magnitude", out="now")
    found.save("later")
    now, later = (json.loads(Path(p, "mask.json").read_text()) for p in ("now", "later"))
    assert now == later and now["command"].startswith("zoo.mask(Net, score=loss, better='lower', b")


# ---- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (
            "network",
            {"budgets": 101},
            "budgets takes percents in (0, 100], as in 1,10,100, got '10",
        ),
        ("network", {"budgets": [0, 5]}, "budgets takes percents in (0, 100], as in 1,10,100, got"),
        ("network", {"budgets": float("nan")}, "budgets takes percents in (0, 100]"),
        ("network", {"budgets": []}, "budgets takes percents in (0, 100], and there is none"),
        ("network", {"order": "loudest"}, "order takes some of magnitude,frequency,random, got"),
        ("network", {"draws": 0}, "draws must be at least 1, got 0"),
        ("network", {"better": "lower"}, "better goes with score: give both or none"),
        ("network", {"score": loss}, "which scores are better? give better as 'higher' or 'lower'"),
        ("network", {"score": loss, "better": "less"}, "which scores are better? give better as"),
        ("network", {"score": "f1"}, "score takes a function of the network, got a str"),
        ("network", {"score": lambda n: {}, "better": "lower"}, "score must return one number, go"),
        ("network", {"score": lambda n: X, "better": "lower"}, "score must return one number, got"),
        ("network", {"score": lambda n: float("nan"), "better": "lower"}, "'Net': the score of th"),
        ("network", {"save": True, "out": "new"}, "save writes masked runs, and a network in memo"),
        ("network", {"save": True}, "save writes into a folder: give one as out"),
        ("nowhere", {"score": loss, "better": "lower"}, "'nowhere' is scored by its own task"),
        ("nowhere", {}, "no checkpoint 'nowhere'"),
        (Net(), {}, "'Net' has no layer that zoo parameterized"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(network, place, given, options, message):
    before = state_of(network)
    with pytest.raises(UserError) as error:
        mask(network if given == "network" else given, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert "--" not in str(error.value) and list(place.iterdir()) == []
    assert_same(before, state_of(network))


def test_a_number_may_be_a_tensor_or_numpys(network):
    for value in (torch.tensor(0.25), np.float32(0.25), np.array(0.25), torch.tensor([0.25]), 0.25):
        found = mask(network, lambda n, v=value: v, better="higher", budgets=10, order="magnitude")
        assert found.runs.unmasked.tolist() == [0.25]


def test_a_lone_layer_is_a_network(place):
    layer = adapted(functools.partial(LoRA, rank=2), lambda: nn.Linear(9, 10), targets=("*",))
    found = mask(layer, lambda net: net(torch.ones(9)).sum(), better="higher", budgets=50)
    assert found.runs.run.tolist() == ["ZooLinear"] and len(found.masks) == 3


def test_a_dense_phase_is_masked_too(place):
    """Its W is the weight itself, which is given back as it was."""
    network = adapted(start="random", base="warm", dense=True).eval()
    before, seen = state_of(network), []
    layer = zoo_layers(network)["blocks.0.query"]
    whole = layer.base.detach().clone()

    def score(given):
        seen.append(layer.base.detach().clone())
        return loss(given)

    found = mask(network, score, better="lower", budgets=10, order="magnitude")
    assert found.runs.what.tolist() == ["W"] and torch.equal(seen[0], whole)
    plane = dctn(seen[1].double().numpy(), norm="ortho")
    assert (np.abs(plane) > 1e-5).sum() == round(0.1 * whole.numel())
    assert_same(before, state_of(network))
