"""Masked runs: what is evaluated, what is written, and going on after an interruption."""

import copy
import dataclasses
import functools
import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import refused
from scipy import stats
from test_updates import QUERY, classifier, disturb, run

from tasks import CharLM
from tasks.finetuning import Tuning
from zoo import checkpoints
from zoo.__main__ import main
from zoo.cli import open_run
from zoo.commands.mask import describe
from zoo.convert import zoo_layers
from zoo.errors import UserError
from zoo.frequencies import transform
from zoo.lab import masking
from zoo.lab.masking import Journal, MaskedFiles, MaskedNetwork, Plan, groups, mask_run
from zoo.lab.masks import keep, restore
from zoo.lab.updates import read
from zoo.parameterizations import DCT, LoRA


def fit(argv, name, seed=0):
    assert main(["fit", *argv, "--name", name, "--seed_everything", str(seed)]) == 0
    return f"runs/{name}/version_0"


@pytest.fixture
def char(place, small):
    """A character model from scratch."""
    return fit(["--config", "dct_half.yaml", *small], "char")


@pytest.fixture
def tuned(place, tune):
    """A classifier with LoRA at a rate at which it changes."""
    return fit(["--config", "glue_rte_lora.yaml", *tune, "--model.optimizer.lr", "0.05"], "tuned")


def test_plan():
    plan = Plan(["dct", "haar"], ["magnitude", "random"], [10.0, 100.0], 3)
    assert list(plan.masks()) == [
        (name, order, budget, draws) for name in ("dct", "haar")
        for order, budget, draws in [("magnitude", 10.0, 1), ("magnitude", 100.0, 1), ("random", 10.0, 3),
                                     ("random", 100.0, 1)]
    ]
    assert plan.evaluations() == 1 + 2 * (1 + 3)


def test_masked_network_is_the_base_and_the_masked_update(tuned):
    """Set to dW it is the trained network, set to 0 the backbone with the trained head."""
    source, file = read(tuned), checkpoints.resolve(tuned)
    model, trained = checkpoints.rebuild(file), checkpoints.rebuild(file)
    network = MaskedNetwork(model, source)
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
    run = mask_run(source, model, evaluate, plan, Journal(None))
    assert [point["values"] for point in run["points"]] == [[2.0], [1.0], [3.0], [1.0], [4.0, 5.0], [1.0]]
    assert run["points"][4]["value"] == 4.5
    assert (run["metric"], run["better"], run["what"]) == ("loss", "lower", "W")
    # the reference is W itself; the mask by magnitude holds the largest tenth of its coefficients and no others
    assert torch.allclose(seen[0], update.matrix(), atol=1e-6)
    plane = transform("dct").forward(update.matrix()).flatten()
    kept = round(0.1 * plane.numel())
    places = plane.abs().topk(kept).indices
    largest = torch.zeros_like(plane).index_copy(0, places, plane[places])
    expected = transform("dct").inverse(largest.view(update.shape), update.shape)
    assert torch.allclose(seen[1], expected, atol=1e-5)
    assert not torch.allclose(seen[3], seen[4])
    # energy over all layers, and bytes
    planes = [transform("dct").forward(u.matrix()).flatten().square() for u in source.updates.values()]
    held = sum(p.topk(round(0.1 * len(p))).values.sum() for p in planes) / sum(p.sum() for p in planes)
    point = run["points"][0]
    assert point["energy"] == pytest.approx(held.item(), rel=1e-4)
    assert point["bytes"]["values"] == 4 * point["kept"] == 4 * sum(round(0.1 * len(p)) for p in planes)
    entropy = sum(len(p) for p in planes) * (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)) / 8
    assert point["bytes"]["places"] == pytest.approx(entropy, rel=0.1)
    assert [run["points"][i]["bytes"]["places"] for i in (2, 4)] == [0, 8 * len(planes)]
    assert run["bytes"]["dense"] == 4 * sum(len(p) for p in planes)
    layers = zoo_layers(checkpoints.rebuild(checkpoints.resolve(char)).net).values()
    assert run["bytes"]["trained"] == 4 * sum(layer.parameterization.num_trainable for layer in layers)


def test_journal_goes_on(tmp_path):
    calls = []

    def evaluate():
        calls.append(1)
        return 0.1 * len(calls)

    path = tmp_path / "out" / "evaluations.jsonl"
    first = Journal(path)
    assert (first("a", evaluate), first("b", evaluate), first("a", evaluate)) == (0.1, 0.2, 0.1)
    with path.open("a") as file:
        file.write('\n["c", 0.')  # killed while it was written
    second = Journal(path)
    assert [second(key, evaluate) for key in "abc"] == pytest.approx([0.1, 0.2, 0.3])
    assert len(calls) == 3
    assert Journal(path)("c", evaluate) == pytest.approx(0.3)


def scratch(seed):
    """A character model whose weights depend on the seed, and its updates."""
    torch.manual_seed(seed)
    model = CharLM("abc", functools.partial(DCT, ratio=0.9), block_size=8, layers=1, width=16, heads=2).eval()
    disturb(model)
    return model, read(run(model, Path(f"scratch{seed}")))


def test_a_value_is_reused_for_the_same_evaluation_alone(place):
    """Not for other weights, another metric, transform, order, budget or draw; the reference is always measured."""
    journal, calls = Journal(None), []

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
    assert masks((first[0], dataclasses.replace(first[1], metric="f1")), plan) == 2
    assert masks(first, dataclasses.replace(plan, transforms=["dct", "haar"])) == 2
    assert masks(first, dataclasses.replace(plan, orders=["magnitude", "frequency", "random"])) == 2
    assert masks(first, dataclasses.replace(plan, budgets=[20.0, 20.000001])) == 2
    assert masks(first, dataclasses.replace(plan, draws=3)) == 1


def test_values_of_other_data_are_forgotten(tmp_path):
    """The reference tells: where it is another than it was, what was evaluated is no longer known."""
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    for model in ("a f1", "b f1"):
        journal.reference(model, 0.5)
        journal(f"{model} dct", lambda: 0.25)
    again = Journal(path)
    again.reference("a f1", 0.6)
    again.reference("b f1", 0.5 + 1e-9)
    assert [again(f"{model} dct", lambda: 0.75) for model in ("a f1", "b f1")] == [0.75, 0.25]
    later = Journal(path)
    later.reference("a f1", 0.6)
    assert later("a f1 dct", lambda: 0.0) == 0.75
    assert Journal(path, anew=True).done == {}


def test_a_reference_that_is_no_number_is_refused(place):
    model, source = scratch(0)
    with pytest.raises(UserError, match="loss of the run is nan"):
        mask_run(source, model, lambda: float("nan"), Plan(["dct"], ["random"], [20.0], 2), Journal(None))


def test_every_mask_is_of_its_own_transform_and_draw(place):
    """What is saved is the first draw of each, which differs from layer to layer; what is set is its matrix."""
    model, source = scratch(0)
    name, seen, saved = list(source.updates)[-1], [], {}
    plan = Plan(["dct", "haar"], ["random"], [20.0], 2)
    mask_run(source, model, lambda: float(seen.append(model.net.get_submodule(name).weight.clone()) or 0), plan,
             Journal(None), files=SimpleNamespace(write=saved.__setitem__))
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


@pytest.mark.parametrize("factory", [functools.partial(LoRA, rank=4), functools.partial(DCT, ratio=0.3)])
def test_a_masked_file_is_the_scaled_update(factory, backbones, place):
    """s of y = x (W0 + s W)^T is not applied twice, a layer without an update stays without, and the head is kept."""
    overrides = {"value": functools.partial(LoRA, rank=2)}
    model = classifier(backbones("bert"), factory, overrides=overrides, tuning=Tuning(scale=0.25))
    with torch.no_grad():
        list(zoo_layers(model.net)[QUERY].parameterization.parameters())[-1].zero_()
    folder = Path(run(model, Path("run")))
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"parameterization": "LoRA"}}}))
    source = read("run")
    kept = {
        name: keep(transform("haar").forward(update.matrix()), update.shape, "haar", "magnitude", 1.0)
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
        "model": {"init_args": {"parameterization": masking.DENSE}}}


def run_of(values, unmasked, name, group="g"):
    keys = {"transform": "dct", "order": "magnitude"}
    points = [{**keys, "budget": b, "value": v} for b, v in zip((1, 2), values, strict=True)]
    facts = {"task": "rte", "model": "m", "parameterization": "LoRA", "metric": "accuracy", "better": "higher"}
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


# ---- The command -----------------------------------------------------------------------------------------------------


def test_a_run_is_opened_in_float32_as_it_was_trained(char):
    """Whatever it was trained in, and with its own coefficients."""
    config = Path(char, "config.yaml")
    config.write_text(config.read_text().replace("precision: 32-true", "precision: bf16-mixed"))
    assert "precision: bf16-mixed" in config.read_text()
    model, data, trainer = open_run(char)
    trained = checkpoints.load(checkpoints.resolve(char))["state_dict"]
    assert (trainer.precision, trainer.num_devices, trainer.loggers) == ("32-true", 1, [])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in trained.items())
    assert data.block_size == 16


def test_a_backbone_that_was_moved(tuned, backbones):
    """It is looked for where --backbone says, and nowhere else."""
    config = Path(tuned, "config.yaml")
    config.write_text(config.read_text().replace(str(backbones("bert")), "gone"))
    with pytest.raises(UserError, match="gone"):
        open_run(tuned)
    model, _, _ = open_run(tuned, str(backbones("bert")))
    assert model.backbone == str(backbones("bert"))


def test_mask_command_agrees_with_validate(tuned, capsys):
    assert main(["validate", "--ckpt_path", tuned]) == 0
    score = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("score")).split()[-1]
    assert main(["mask", tuned, "--budgets", "5,100", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(Path("out/mask.json").read_text())
    run, group = report["runs"][0], report["groups"][0]
    assert run["unmasked"] == pytest.approx(float(score), abs=1e-4)
    assert f"\naccuracy of 1 run, unmasked {run['unmasked']:.4f}\n" in printed
    assert (report["budgets"], report["orders"]) == ([5.0, 100.0], ["magnitude", "frequency", "random"])
    assert [p["value"] for p in run["points"] if p["budget"] == 100] == [run["unmasked"]] * 3
    assert [p["mean"] for p in group["points"]] == [p["value"] for p in run["points"]]
    assert (run["metric"], run["better"], run["seed"], run["task"]) == ("accuracy", "higher", 0, "rte")
    assert {path.name for path in Path("out").iterdir()} == {"mask.json", "mask.html", "figures"}
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["char", "tuned"])
def test_a_saved_mask_loads_back(kind, request, capsys):
    """As a run of Dense updates, with the same score and the masked dW; it is taken wherever a run is."""
    folder = request.getfixturevalue(kind)
    assert main(["mask", folder, "--budgets", "20", "--order", "magnitude,random", "--out", "out", "--save"]) == 0
    run = json.loads(Path("out/mask.json").read_text())["runs"][0]
    files = sorted(Path("out/masked").iterdir())
    assert [file.name for file in files] == [f"{kind}-dct-{order}-20.safetensors" for order in ("magnitude", "random")]
    before = read(folder)
    capsys.readouterr()
    for file, point in zip(files, run["points"], strict=True):
        again = read(str(file))
        assert again.updates.keys() == before.updates.keys()
        kept = sum(u.matrix().square().sum() for u in again.updates.values())
        whole = sum(u.matrix().square().sum() for u in before.updates.values())
        assert (kept / whole).item() == pytest.approx(point["energy"], rel=1e-4)
        counts = [transform("dct").forward(u.matrix()).abs().gt(1e-6 * u.norm()).sum() for u in again.updates.values()]
        assert sum(counts).item() <= point["kept"]
        assert main(["validate", "--ckpt_path", str(file)]) == 0
        name = "validation loss" if kind == "char" else "score"
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith(name))
        assert float(line.split()[-1]) == pytest.approx(point["values"][0], abs=2e-3)
        assert file.stat().st_size == point["bytes"]["file"]
        # values, places, and what else is trained; the rest is names and settings
        content = point["bytes"]["values"] + point["bytes"]["places"] + run["bytes"]["other"]
        assert content <= file.stat().st_size <= content + 30_000


def test_an_interrupted_command_goes_on(tuned, monkeypatch, capsys):
    real, calls = masking.Journal.__call__, []

    def counted(self, key, evaluate):
        def once():
            calls.append(key)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return evaluate()
        return real(self, key, once)

    argv = ["mask", tuned, "--budgets", "5,50", "--order", "magnitude,frequency", "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(masking.Journal, "__call__", counted)
        assert main(argv) == 130
        assert [path.name for path in Path("out").iterdir()] == ["evaluations.jsonl"]
        assert main(argv) == 0
    assert len(calls) == 3 + 2  # of four masks two were done
    assert calls[2] == calls[3]
    report = json.loads(Path("out/mask.json").read_text())
    assert main([*argv[:-1], "fresh"]) == 0
    again = json.loads(Path("fresh/mask.json").read_text())
    assert report["runs"] == again["runs"]
    assert not Path("out/evaluations.jsonl").exists()


def test_seeds_are_one_group(place, tune, capsys):
    argv = ["--config", "glue_rte_lora.yaml", *tune, "--model.optimizer.lr", "0.05"]
    runs = [fit(argv, f"s{seed}", seed) for seed in (0, 1)]
    capsys.readouterr()
    assert main(["mask", *runs, "--budgets", "1", "--order", "magnitude"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("rte / bert / LoRA rank=8\naccuracy of 2 runs, unmasked 0.")
    assert "+-" in printed
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_a_star_is_of_the_corrected_p():
    """Of 0.03 and 0.01, both below 0.05, Holm leaves one; bytes are of values and places."""
    budgets = {5.0: 0.03, 10.0: 0.01, 50.0: None}
    point = {"transform": "dct", "order": "magnitude", "mean": 0.5, "sd": 0.1}
    points = [{**point, "budget": b, "p": p, "p_holm": p and 2 * p} for b, p in budgets.items()]
    sized = [{**p, "bytes": {"values": 4000, "places": 321, "encoding": "rice"}} for p in points]
    run = {"group": "g", "name": "s0", "unmasked": 0.6, "reported": None, "notes": [], "points": sized}
    run["bytes"] = {"dense": 1, "trained": 2, "other": 3}
    group = {"group": "g", "metric": "f1", "n": 3, "unmasked": {"mean": 0.6, "sd": 0.1}, "points": points}
    report = {"runs": [run], "orders": ["magnitude"], "transforms": ["dct"], "budgets": list(budgets)}
    rows = [line for line in describe(group, report).splitlines() if " %" in line]
    assert [("*" in row, "4,321" in row) for row in rows] == [(False, True), (True, True), (False, True)]


def test_a_saved_mask_can_be_looked_into_and_masked_again(tuned, capsys):
    """And its own coefficients are all that a mask of as many keeps."""
    argv = ["--budgets", "20", "--order", "magnitude"]
    assert main(["mask", tuned, *argv, "--out", "out", "--save"]) == 0
    (file,) = Path("out/masked").iterdir()
    first = json.loads(Path("out/mask.json").read_text())["runs"][0]
    assert main(["mask", str(file), *argv, "--out", "again"]) == 0
    second = json.loads(Path("again/mask.json").read_text())["runs"][0]
    assert second["unmasked"] == second["points"][0]["value"] == first["points"][0]["value"]
    assert second["points"][0]["energy"] == pytest.approx(1)
    capsys.readouterr()
    assert main(["analyze", str(file), "--null", "5"]) == 0
    assert "80 % of the coefficients are 0" in " ".join(capsys.readouterr().out.split())


def test_a_dense_run_from_scratch(place, small):
    run = fit(["--config", "dense.yaml", *small], "dense")
    assert main(["analyze", run, "--null", "5"]) == 0
    assert main(["mask", run, "--budgets", "50", "--order", "magnitude"]) == 0


def test_a_causal_model(backbones, text, place, capsys):
    """GPT-2, whose layers are Conv1D."""
    options = ["--model.backbone", str(backbones("gpt2")), "--data.corpus", str(text), "--trainer.max_steps", "3",
               "--data.block_size", "16", "--trainer.precision", "32-true"]
    run = fit(["--config", "causal_lm_lora.yaml", *options], "causal")
    assert main(["validate", "--ckpt_path", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    loss = next(float(line.split()[-1]) for line in reversed(lines) if line.startswith("validation loss"))
    assert main(["mask", run, "--budgets", "50", "--order", "magnitude", "--out", "out"]) == 0
    report = json.loads(Path("out/mask.json").read_text())["runs"][0]
    assert (report["unmasked"], report["better"]) == (pytest.approx(loss, abs=1e-4), "lower")
    assert main(["analyze", run, "--null", "5"]) == 0


def test_data_that_was_moved(tuned, glue, tmp_path, capsys):
    """The run's config names a folder that is gone; options of the data say where it is now."""
    config = Path(tuned, "config.yaml")
    config.write_text(config.read_text().replace(str(glue), str(tmp_path / "gone")))
    argv = ["mask", tuned, "--budgets", "5", "--order", "magnitude"]
    refused(capsys, argv, str(tmp_path / "gone"), "--data.data_dir")
    assert main([*argv, "--data.data_dir", str(glue)]) == 0
    assert main([*argv, f"--data.data_dir={glue}"]) == 0
    refused(capsys, [*argv, "--data.dat_dir", str(glue)], "'dat_dir'", "'data_dir'")


def test_interrupted_while_it_evaluates(tuned, monkeypatch, capsys):
    """Lightning ends the process with status 1 there."""
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.glue.GlueClassifier.on_validation_epoch_end", interrupted)
    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores it from then on
    assert main(["mask", tuned, "--budgets", "5"]) == 130
    signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err.splitlines()[-1] == "zoo: stopped"


def test_a_head_that_is_no_number(tuned, capsys):
    file = Path(tuned, "checkpoints/last.ckpt")
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["net.classifier.weight"][0, 0] = float("nan")
    torch.save(checkpoint, file)
    for command in ("mask", "analyze"):
        refused(capsys, [command, tuned], "net.classifier.weight", "NaN", tuned)


def test_a_backbone_in_bfloat16_is_evaluated_in_float32(place, tune, capsys):
    """Or W0 + dW would be rounded, and little of dW be left."""
    argv = ["--config", "glue_rte_lora.yaml", *tune, "--model.tuning.dtype", "bfloat16"]
    run = fit(argv, "half")
    source, model = read(run), checkpoints.rebuild(checkpoints.resolve(run))
    network = MaskedNetwork(model, source)
    network.set_({name: update.matrix() for name, update in source.updates.items()})
    found = checkpoints.rebuild(checkpoints.resolve(run))
    for name, layer in zoo_layers(found.net).items():
        assert layer.weight.dtype == torch.bfloat16
        expected = layer.weight.float() + source.updates[name].matrix()
        assert torch.allclose(network.layers[name].weight, expected, atol=1e-7)
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}


@pytest.mark.parametrize(("line", "found"), [
    ("--budgets 0,5", ["--budgets", "(0, 100]", "'0'"]),
    ("--budgets 101", ["--budgets", "(0, 100]", "'101'"]),
    ("--budgets ten", ["--budgets", "(0, 100]", "'ten'"]),
    ("--budgets nan", ["--budgets", "(0, 100]", "'nan'"]),
    ("--budgets=", ["--budgets", "(0, 100]"]),
    ("--order loudest", ["--order", "magnitude,frequency,random", "'loudest'"]),
    ("--transform dst", ["--transform", "dct,fourier,hadamard,haar", "'dst'"]),
    ("--draws 0", ["--draws", "at least 1", "0"]),
    ("--save", ["--save", "--out"]),
    ("--force", ["--force", "--out"]),
    ("--bugdets 3", ["'--bugdets'", "'--budgets'"]),
    ("--out other", ["'other'", "not overwritten", "another --out"]),
    ("--out report", ["'report'", "earlier report", "--force"]),
    ("--out mixed --force", ["'mixed'", "'mine.txt'", "another --out"]),
    ("--out pictures --force", ["'pictures'", "'figures/mine.png'", "another --out"]),
    ("--out analysed --force", ["'analysed'", "'analysis.html'", "another --out"]),
    ("--out file.txt", ["'file.txt'", "not overwritten", "another --out"]),
])
def test_mistakes(char, capsys, line, found):
    for file in ("other/mine.txt", "report/mask.json", "mixed/mask.json", "mixed/mine.txt", "pictures/figures/mine.png",
                 "analysed/mask.json", "analysed/analysis.html"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}")
    Path("file.txt").write_text("")
    refused(capsys, ["mask", char, *line.split()], *found)


def test_what_is_no_run(place, capsys):
    Path("empty").mkdir()
    refused(capsys, ["mask", "empty"], "'empty'")
    refused(capsys, ["mask", "none"], "'none'")
    Path("notes.md").write_text("a note")
    refused(capsys, ["mask", "notes.md"], "'notes.md'", "no checkpoint")


def test_full_fine_tuning_is_masked_but_not_saved(place, tune, capsys):
    argv = ["--config", "glue_rte_dense.yaml", *tune, "--model.optimizer.lr", "0.01"]
    run = fit(argv, "full")
    refused(capsys, ["mask", run, "--budgets", "5", "--out", "out", "--save"], "--save", "full fine-tuning")
    assert main(["mask", run, "--budgets", "5,100", "--order", "magnitude", "--out", "out"]) == 0
    report = json.loads(Path("out/mask.json").read_text())["runs"][0]
    assert report["what"] == "dW"
    assert main(["validate", "--ckpt_path", run]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("score"))
    assert report["unmasked"] == pytest.approx(float(line.split()[-1]), abs=1e-4)
