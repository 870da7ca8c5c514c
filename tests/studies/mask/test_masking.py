"""Masked runs: what is evaluated, what is written, and going on after an interruption."""

import copy
import dataclasses
import functools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from adapted import QUERY, classifier, run
from networks import disturb
from scipy import stats

from tasks import CharLM
from tasks.finetuning import Tuning
from zoo.bases import transform
from zoo.bases.masks import keep, restore
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.parameterizations import DCT, LoRA
from zoo.runs import checkpoints
from zoo.runs.updates import read
from zoo.studies.mask.masked_files import DENSE, MaskedFiles
from zoo.studies.mask.masked_network import MaskedNetwork
from zoo.studies.mask.masking import Evaluations, Plan, groups, mask_run


def test_plan():
    plan = Plan(["dct", "haar"], ["magnitude", "random"], [10.0, 100.0], 3)
    assert list(plan.masks()) == [
        (name, order, budget, draws)
        for name in ("dct", "haar")
        for order, budget, draws in [
            ("magnitude", 10.0, 1),
            ("magnitude", 100.0, 1),
            ("random", 10.0, 3),
            ("random", 100.0, 1),
        ]
    ]
    assert plan.evaluations() == 1 + 2 * (1 + 3)


def test_masked_network_is_the_base_and_the_masked_update(tuned):
    """Set to dW it is the trained network, set to 0 the backbone with the trained head."""
    source, file = read(tuned), checkpoints.resolve(tuned)
    model, trained = checkpoints.rebuild(file), checkpoints.rebuild(file)
    network = MaskedNetwork(model.net, source)
    ids = torch.arange(12).view(2, 6) + 5
    network.set_({name: update.matrix() for name, update in source.updates.items()})
    assert torch.allclose(model.net(ids).logits, trained.net(ids).logits, atol=1e-5)
    network.set_({name: 0 * update.matrix() for name, update in source.updates.items()})
    plain = checkpoints.rebuild(file)
    for layer in zoo_layers(plain.net).values():
        layer.parameterization.lora_B.data.zero_()
    assert torch.allclose(model.net(ids).logits, plain.net(ids).logits, atol=1e-5)
    assert not torch.allclose(plain.net(ids).logits, trained.net(ids).logits, atol=1e-3)


def test_mask_run_evaluates_every_mask_once(char):
    source, model = read(char), checkpoints.rebuild(checkpoints.resolve(char))
    name, update = next(iter(source.updates.items()))
    seen = []

    def evaluate():
        seen.append(model.net.get_submodule(name).weight.clone())
        return float(len(seen))

    plan = Plan(["dct"], ["magnitude", "frequency", "random"], [10.0, 100.0], 2)
    run = mask_run(source, model, evaluate, plan, Evaluations(None))
    assert [point["values"] for point in run["points"]] == [
        [2.0],
        [1.0],
        [3.0],
        [1.0],
        [4.0, 5.0],
        [1.0],
    ]
    assert run["points"][4]["value"] == 4.5
    assert (run["metric"], run["better"], run["what"]) == ("loss", "lower", "W")
    # the reference is W itself; the mask by magnitude holds the largest tenth of its coefficients
    # and no others
    assert torch.allclose(seen[0], update.matrix(), atol=1e-6)
    plane = transform("dct").forward(update.matrix()).flatten()
    kept = round(0.1 * plane.numel())
    places = plane.abs().topk(kept).indices
    largest = torch.zeros_like(plane).index_copy(0, places, plane[places])
    expected = transform("dct").inverse(largest.view(update.shape), update.shape)
    assert torch.allclose(seen[1], expected, atol=1e-5)
    assert not torch.allclose(seen[3], seen[4])
    # energy over all layers, and bytes
    planes = [
        transform("dct").forward(u.matrix()).flatten().square() for u in source.updates.values()
    ]
    held = sum(p.topk(round(0.1 * len(p))).values.sum() for p in planes) / sum(
        p.sum() for p in planes
    )
    point = run["points"][0]
    assert point["energy"] == pytest.approx(held.item(), rel=1e-4)
    assert (
        point["bytes"]["values"]
        == 4 * point["kept"]
        == 4 * sum(round(0.1 * len(p)) for p in planes)
    )
    entropy = sum(len(p) for p in planes) * (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)) / 8
    assert point["bytes"]["places"] == pytest.approx(entropy, rel=0.1)
    assert [run["points"][i]["bytes"]["places"] for i in (2, 4)] == [0, 8 * len(planes)]
    assert run["bytes"]["dense"] == 4 * sum(len(p) for p in planes)
    layers = zoo_layers(checkpoints.rebuild(checkpoints.resolve(char)).net).values()
    assert run["bytes"]["trained"] == 4 * sum(
        layer.parameterization.num_trainable for layer in layers
    )


def scratch(seed):
    """A character model whose weights depend on the seed, and its updates."""
    torch.manual_seed(seed)
    model = CharLM(
        "abc", functools.partial(DCT, ratio=0.9), block_size=8, layers=1, width=16, heads=2
    ).eval()
    disturb(model)
    return model, read(run(model, Path(f"scratch{seed}")))


def test_a_value_is_reused_for_the_same_evaluation_alone(place):
    """Not for other weights, another metric, transform, order, budget or draw; the reference is
    always measured.
    """
    journal, calls = Evaluations(None), []

    def masks(run, plan):
        before = len(calls)
        mask_run(run[1], copy.deepcopy(run[0]), lambda: float(calls.append(1) or 0), plan, journal)
        return len(calls) - before - 1

    first, second = scratch(0), scratch(1)
    plan = Plan(["dct"], ["random"], [20.0], 2)
    assert [masks(first, plan) for _ in range(2)] == [2, 0]
    assert masks(second, plan) == 2
    other = copy.deepcopy(first[0])
    other.net.head.bias.data += 1  # what is trained besides
    assert masks((other, first[1]), plan) == 2
    assert masks((first[0], dataclasses.replace(first[1], metrics=["f1"], score=0.5)), plan) == 2
    assert masks(first, dataclasses.replace(plan, transforms=["dct", "haar"])) == 2
    assert masks(first, dataclasses.replace(plan, orders=["magnitude", "frequency", "random"])) == 2
    assert masks(first, dataclasses.replace(plan, budgets=[20.0, 20.000001])) == 2
    assert masks(first, dataclasses.replace(plan, draws=3)) == 1


def test_a_reference_that_is_no_number_is_refused(place):
    model, source = scratch(0)
    with pytest.raises(UserError, match="loss of the run is nan"):
        mask_run(
            source,
            model,
            lambda: float("nan"),
            Plan(["dct"], ["random"], [20.0], 2),
            Evaluations(None),
        )


def test_every_mask_is_of_its_own_transform_and_draw(place):
    """What is saved is the first draw of each, which differs from layer to layer; what is set is
    its matrix.
    """
    model, source = scratch(0)
    name, seen, saved = list(source.updates)[-1], [], {}
    plan = Plan(["dct", "haar"], ["random"], [20.0], 2)
    mask_run(
        source,
        model,
        lambda: float(seen.append(model.net.get_submodule(name).weight.clone()) or 0),
        plan,
        Evaluations(None),
        files=SimpleNamespace(write=saved.__setitem__),
    )
    assert list(saved) == ["dct-random-20", "haar-random-20"]
    for i, kept in enumerate(saved.values()):
        assert torch.allclose(restore(kept[name]), seen[1 + 2 * i], atol=1e-6)
        assert not torch.allclose(restore(kept[name]), seen[2 + 2 * i], atol=1e-3)
        plane = transform(kept[name].transform).forward(source.updates[name].matrix()).flatten()
        energy = restore(kept[name]).square().sum()
        assert kept[name].values.square().sum().item() == pytest.approx(energy.item(), rel=1e-4)
        assert torch.isin(kept[name].values, plane).all()
    of_one_shape = [kept for kept in saved["dct-random-20"].values() if kept.shape == (16, 16)]
    assert len({kept.places for kept in saved["dct-random-20"].values()}) == len(source.updates)
    assert all(len(kept.values) == round(0.2 * 256) for kept in of_one_shape)


@pytest.mark.parametrize(
    "factory", [functools.partial(LoRA, rank=4), functools.partial(DCT, ratio=0.3)]
)
def test_a_masked_file_is_the_scaled_update(factory, backbones, place):
    """s of y = x (W0 + s W)^T is not applied twice, a layer without an update stays without, and
    the head is kept.
    """
    overrides = {"value": functools.partial(LoRA, rank=2)}
    model = classifier(backbones("bert"), factory, overrides=overrides, tuning=Tuning(scale=0.25))
    with torch.no_grad():
        list(zoo_layers(model.net)[QUERY].parameterization.parameters())[-1].zero_()
    folder = Path(run(model, Path("run")))
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"parameterization": "LoRA"}}})
    )
    source = read("run")
    kept = {
        name: keep(
            transform("haar").forward(update.matrix()), update.shape, "haar", "magnitude", 1.0
        )
        for name, update in source.updates.items()
    }
    size = MaskedFiles(Path("masked"), source, model).write("all", kept)
    file = Path("masked/run-all.safetensors")
    assert size == file.stat().st_size
    again = read(str(file))
    assert QUERY not in source.updates and again.updates.keys() == source.updates.keys()
    for name, update in source.updates.items():
        assert torch.allclose(again.updates[name].matrix(), update.matrix(), atol=1e-6)
    ids = torch.arange(12).view(2, 6) + 5
    logits = checkpoints.rebuild(file).net(ids).logits
    assert torch.allclose(logits, model.net(ids).logits, atol=1e-5)
    assert yaml.safe_load(checkpoints.load(file)["config"]) == {
        "model": {"init_args": {"parameterization": DENSE}}
    }


def run_of(values, unmasked, name, group="g"):
    keys = {"transform": "dct", "order": "magnitude"}
    points = [{**keys, "budget": b, "value": v} for b, v in zip((1, 2), values, strict=True)]
    facts = {
        "task": "rte",
        "model": "m",
        "parameterization": "LoRA",
        "metric": "accuracy",
        "better": "higher",
    }
    return {"name": name, "group": group, "unmasked": unmasked, "points": points, **facts}


def test_groups_are_paired_tests_against_the_unmasked_model():
    values, unmasked = [(0.50, 0.61), (0.55, 0.64), (0.51, 0.60)], [0.62, 0.63, 0.61]
    runs = [run_of(v, u, f"s{i}") for i, (v, u) in enumerate(zip(values, unmasked, strict=True))]
    group, alone = groups([*runs, run_of((0.1, 0.2), 0.3, "alone", "other")])
    assert (group["n"], group["runs"], alone["n"]) == (3, ["s0", "s1", "s2"], 1)
    ps = []
    for i, point in enumerate(group["points"]):
        column = [v[i] for v in values]
        expected = stats.ttest_rel(column, unmasked)
        assert (point["t"], point["p"]) == pytest.approx((expected.statistic, expected.pvalue))
        assert point["difference"] == pytest.approx(sum(column) / 3 - sum(unmasked) / 3)
        ps.append(expected.pvalue)
    assert group["points"][0]["p_holm"] == pytest.approx(min(1, 2 * ps[0]))
    assert group["points"][1]["p_holm"] == pytest.approx(ps[1])
    assert (alone["points"][0]["p"], alone["points"][0]["sd"]) == (None, None)
