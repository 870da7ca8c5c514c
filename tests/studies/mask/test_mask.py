"""`zoo mask` as a user meets it: what it prints, writes and saves, and what it refuses."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from every import thinned
from scipy import fft

from zoo.__main__ import main
from zoo.bases import transform
from zoo.cli.open_run import open_run
from zoo.errors import UserError
from zoo.files.tensors import write_tensors
from zoo.layers.convert import zoo_layers
from zoo.runs import checkpoints, peft
from zoo.runs.updates import read
from zoo.studies.mask.masked_files import MaskedFiles
from zoo.studies.mask.masked_network import MaskedNetwork
from zoo.studies.mask.masking import Evaluations
from zoo.studies.mask.terminal import describe


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
    score = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("score")
    ).split()[-1]
    assert main(["mask", tuned, "--budgets", "5,100", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(Path("out/mask.json").read_text())
    run, group = report["runs"][0], report["groups"][0]
    assert run["unmasked"] == pytest.approx(float(score), abs=1e-4)
    assert f"\naccuracy of 1 run, unmasked {run['unmasked']:.4f}\n" in printed
    assert (report["budgets"], report["orders"]) == (
        [5.0, 100.0],
        ["magnitude", "frequency", "random"],
    )
    assert [p["value"] for p in run["points"] if p["budget"] == 100] == [run["unmasked"]] * 3
    assert [p["mean"] for p in group["points"]] == [p["value"] for p in run["points"]]
    assert (run["metric"], run["better"], run["seed"], run["task"]) == (
        "accuracy",
        "higher",
        0,
        "rte",
    )
    assert {path.name for path in Path("out").iterdir()} == {"mask.json", "mask.html", "figures"}
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", thinned(["tuned", "char"], 2))
def test_a_saved_mask_loads_back(kind, request, capsys):
    """As a run of Dense updates, with the same score and the masked dW; it is taken wherever a run
    is.
    """
    folder = request.getfixturevalue(kind)
    assert (
        main(
            [
                "mask",
                folder,
                "--budgets",
                "20",
                "--order",
                "magnitude,random",
                "--out",
                "out",
                "--save",
            ]
        )
        == 0
    )
    run = json.loads(Path("out/mask.json").read_text())["runs"][0]
    files = sorted(Path("out/masked").iterdir())
    assert [file.name for file in files] == [
        f"{kind}-dct-{order}-20.safetensors" for order in ("magnitude", "random")
    ]
    before = read(folder)
    capsys.readouterr()
    for file, point in zip(files, run["points"], strict=True):
        again = read(str(file))
        assert again.updates.keys() == before.updates.keys()
        kept = sum(u.matrix().square().sum() for u in again.updates.values())
        whole = sum(u.matrix().square().sum() for u in before.updates.values())
        assert (kept / whole).item() == pytest.approx(point["energy"], rel=1e-4)
        counts = [
            transform("dct").forward(u.matrix()).abs().gt(1e-6 * u.norm()).sum()
            for u in again.updates.values()
        ]
        assert sum(counts).item() <= point["kept"]
        assert main(["validate", "--ckpt_path", str(file)]) == 0
        name = "validation loss" if kind == "char" else "score"
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith(name))
        assert float(line.split()[-1]) == pytest.approx(point["values"][0], abs=2e-3)
        assert file.stat().st_size == point["bytes"]["file"]
        # values, places, and what else is trained; the rest is names and settings
        content = point["bytes"]["values"] + point["bytes"]["places"] + run["bytes"]["other"]
        assert content <= file.stat().st_size <= content + 30_000


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_command_goes_on(tuned, monkeypatch, capsys):
    real, calls = Evaluations.__call__, []

    def counted(self, key, evaluate):
        def once():
            calls.append(key)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return evaluate()

        return real(self, key, once)

    argv = ["mask", tuned, "--budgets", "5,50", "--order", "magnitude,frequency", "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluations, "__call__", counted)
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


def test_seeds_are_one_group(seeds, capsys):
    capsys.readouterr()
    assert main(["mask", *seeds, "--budgets", "1", "--order", "magnitude"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("rte / bert / LoRA rank=8\naccuracy of 2 runs, unmasked 0.")
    assert "+-" in printed
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_a_star_is_of_the_corrected_p():
    """Of 0.03 and 0.01, both below 0.05, Holm leaves one; bytes are of values and places."""
    budgets = {5.0: 0.03, 10.0: 0.01, 50.0: None}
    point = {"transform": "dct", "order": "magnitude", "mean": 0.5, "sd": 0.1}
    points = [{**point, "budget": b, "p": p, "p_holm": p and 2 * p} for b, p in budgets.items()]
    sized = [
        {**p, "bytes": {"values": 4000, "places": 321, "encoding": "rice", "file": None}}
        for p in points
    ]
    run = {
        "group": "g",
        "name": "s0",
        "unmasked": 0.6,
        "reported": None,
        "notes": [],
        "points": sized,
    }
    run["bytes"] = {"dense": 1, "trained": 2, "other": 3}
    group = {
        "group": "g",
        "metric": "f1",
        "n": 3,
        "unmasked": {"mean": 0.6, "sd": 0.1},
        "points": points,
    }
    report = {
        "runs": [run],
        "orders": ["magnitude"],
        "transforms": ["dct"],
        "budgets": list(budgets),
    }
    rows = [line for line in describe(group, report).splitlines() if " %" in line]
    assert [("*" in row, "4,321" in row) for row in rows] == [
        (False, True),
        (True, True),
        (False, True),
    ]


@pytest.mark.usefixtures("undrawn")
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


def test_a_dense_run_from_scratch(trained, small):
    run = trained("dense", "dense.yaml", *small)
    assert main(["analyze", run, "--null", "5"]) == 0
    assert main(["mask", run, "--budgets", "50", "--order", "magnitude"]) == 0


@pytest.mark.usefixtures("undrawn")
def test_a_causal_model(backbones, text, trained, capsys):
    """GPT-2, whose layers are Conv1D."""
    options = [
        "--model.backbone",
        str(backbones("gpt2")),
        "--data.corpus",
        str(text),
        "--trainer.max_steps",
        "3",
        "--data.block_size",
        "16",
        "--trainer.precision",
        "32-true",
    ]
    run = trained("causal", "causal_lm_lora.yaml", *options)
    assert main(["validate", "--ckpt_path", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    loss = next(
        float(line.split()[-1]) for line in reversed(lines) if line.startswith("validation loss")
    )
    assert main(["mask", run, "--budgets", "50", "--order", "magnitude", "--out", "out"]) == 0
    report = json.loads(Path("out/mask.json").read_text())["runs"][0]
    assert (report["unmasked"], report["better"]) == (pytest.approx(loss, abs=1e-4), "lower")
    assert main(["analyze", run, "--null", "5"]) == 0


@pytest.mark.slow
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


def test_a_backbone_in_bfloat16_is_evaluated_in_float32(trained, tune):
    """Or W0 + dW would be rounded, and little of dW be left."""
    run = trained("half", "glue_rte lora_8", *tune, "--model.tuning.dtype", "bfloat16")
    source, model = read(run), checkpoints.rebuild(checkpoints.resolve(run))
    network = MaskedNetwork(model.net.float(), source)
    network.set_({name: update.matrix() for name, update in source.updates.items()})
    found = checkpoints.rebuild(checkpoints.resolve(run))
    for name, layer in zoo_layers(found.net).items():
        assert layer.base.dtype == torch.bfloat16
        expected = layer.base.float() + source.updates[name].matrix()
        assert torch.allclose(network.layers[name].weight, expected, atol=1e-7)
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--budgets 0,5", ["--budgets", "(0, 100]", "'0'"]),
        ("--budgets 101", ["--budgets", "(0, 100]", "'101'"]),
        ("--budgets ten", ["--budgets", "(0, 100]", "'ten'"]),
        ("--budgets nan", ["--budgets", "(0, 100]", "'nan'"]),
        ("--budgets=", ["--budgets", "(0, 100]"]),
        ("--order loudest", ["--order", "magnitude,frequency,random", "'loudest'"]),
        ("--transform dst", ["--transform", "dct,fourier,hadamard,haar,random,hartley", "'dst'"]),
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
    ],
)
def test_mistakes(char, capsys, line, found):
    for file in (
        "other/mine.txt",
        "report/mask.json",
        "mixed/mask.json",
        "mixed/mine.txt",
        "pictures/figures/mine.png",
        "analysed/mask.json",
        "analysed/analysis.html",
    ):
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


@pytest.mark.usefixtures("undrawn")
def test_full_fine_tuning_is_masked_but_not_saved(trained, tune, capsys):
    run = trained("full", "glue_rte full", *tune, "--model.optimizer.lr", "0.01")
    refused(
        capsys,
        ["mask", run, "--budgets", "5", "--out", "out", "--save"],
        "--save",
        "full fine-tuning",
    )
    assert main(["mask", run, "--budgets", "5,100", "--order", "magnitude", "--out", "out"]) == 0
    report = json.loads(Path("out/mask.json").read_text())["runs"][0]
    assert report["what"] == "dW"
    assert main(["validate", "--ckpt_path", run]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("score"))
    assert report["unmasked"] == pytest.approx(float(line.split()[-1]), abs=1e-4)


def test_classes_of_ones_own_must_be_trusted(place, small, capsys, monkeypatch):
    """A checkpoint may name any class; that of a run is imported where the command says so, and
    only there.
    """
    Path("my_basis.py").write_text(
        "from zoo.parameterizations import DCT\n\n\nclass MyBasis(DCT):\n    pass\n"
    )
    option = "--model.parameterization=my_basis.MyBasis"
    assert main(["fit", "--config", "dct_half.yaml", *small, option, "--name", "own"]) == 0
    monkeypatch.delitem(sys.modules, "my_basis")
    run = "runs/own/version_0"
    for command in (
        ["analyze", run, "--null", "5"],
        ["mask", run, "--budgets", "50", "--order", "frequency"],
    ):
        refused(capsys, command, "my_basis.MyBasis", "--trust")
        assert "my_basis" not in sys.modules
        assert main([*command, "--trust", "my_basis"]) == 0
        assert main([*command, "--trust=my_basis.MyBasis"]) == 0
        monkeypatch.delitem(sys.modules, "my_basis")


@pytest.mark.parametrize(
    "config", ["[1]", "model: 3", "model: {init_args: []}", "&a [*a]", "model: ["]
)
def test_a_config_that_is_damaged_is_not_saved(char, capsys, config):
    source, model = read(char), checkpoints.rebuild(checkpoints.resolve(char))
    Path(char, "config.yaml").write_text(config)
    with pytest.raises(UserError):
        MaskedFiles(Path("masked"), source, model)


def test_an_adapter_is_masked_without_its_backbone(tmp_path, capsys):
    """Its score is the energy that is kept: that of the largest numbers of scipy's transform."""
    prefix = f"{peft.PREFIX}a.hada_w"
    generator = torch.Generator().manual_seed(0)
    shapes = {"1_a": (12, 2), "1_b": (2, 10), "2_a": (12, 2), "2_b": (2, 10)}
    parts = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_tensors(folder / peft.TENSORS, {f"{prefix}{key}": part for key, part in parts.items()})
    config = {"peft_type": "LOHA", "r": 2, "alpha": 3}
    (folder / peft.CONFIG).write_text(json.dumps(config))
    budgets = ["--budgets", "10,50,100", "--order", "magnitude"]
    assert main(["mask", str(folder), *budgets, "--out", str(tmp_path / "out")]) == 0
    run = json.loads((tmp_path / "out" / "mask.json").read_text())["runs"][0]
    dw = (parts["1_a"] @ parts["1_b"]) * (parts["2_a"] @ parts["2_b"])
    energy = np.sort(fft.dctn(dw.double().numpy(), norm="ortho").ravel() ** 2)[::-1]
    wanted = [energy[:count].sum() / energy.sum() for count in (12, 60, 120)]
    assert [point["value"] for point in run["points"]] == pytest.approx(wanted, rel=1e-5)
    assert run["metric"] == "energy" and run["bytes"]["trained"] == 4 * (2 * 24 + 2 * 20)
    assert "energy of 1 run" in capsys.readouterr().out
    mistake = ["mask", str(folder), "--out", str(tmp_path / "other"), "--save"]
    refused(capsys, mistake, "adapter of peft's", "zoo import")
