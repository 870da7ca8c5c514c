"""`zoo analyze` as a user meets it: what it prints, what it writes, and what it refuses."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import configs, refused
from safetensors.torch import save_file

from zoo.__main__ import main
from zoo.runs.updates import read


@pytest.fixture
def pair(place):
    """Two checkpoints that differ by a known matrix."""
    torch.manual_seed(0)
    before = {"layer.0.query.weight": torch.randn(24, 16), "head.weight": torch.randn(3, 16)}
    after = {
        **before,
        "layer.0.query.weight": before["layer.0.query.weight"]
        + torch.randn(24, 2) @ torch.randn(2, 16),
    }
    for name, state in (("before", before), ("after", after)):
        Path(name).mkdir()
        save_file(state, f"{name}/model.safetensors")
    return ["after", "--before", "before"]


def test_a_run_is_described_within_80_columns(seeds, capsys):
    capsys.readouterr()
    assert main(["analyze", *seeds, "--transform", "dct,hadamard", "--null", "5"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.startswith("s0: dW (rte / bert / LoRA rank=8)\n")
    assert "\ns1: dW (rte / bert / LoRA rank=8)\n" in printed
    found = [printed.split().count(word) for word in ("query", "value", "dct:", "hadamard:")]
    assert found == [6, 6, 3, 3]  # a verdict for each run, and one for both together
    assert "\nrte / bert / LoRA rank=8: 2 runs together\n" in printed
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_everything_is_written(seeds, capsys):
    assert main(["analyze", *seeds, "--out", "deep/out", "--null", "5"]) == 0
    report = json.loads(Path("deep/out/analysis.json").read_text())
    assert report["command"] == f"zoo analyze {' '.join(seeds)} --out deep/out --null 5"
    assert (report["draws"], report["transforms"], len(report["runs"])) == (5, ["dct"], 2)
    assert [group["runs"] for group in report["groups"]] == [["s0", "s1"]]
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    page = Path("deep/out/analysis.html").read_text()
    assert all(run["verdicts"]["dct"]["words"].partition(".")[0] in page for run in report["runs"])
    names = {path.name for path in Path("deep/out/figures").iterdir()}
    figures = {
        "k90_by_task",
        "cumulative_energy",
        "k90_heatmap",
        "singular_values",
        "rank_against_loss",
    }
    assert all(any(name.startswith(figure) for name in names) for figure in figures), names
    assert {path.suffix for path in Path("deep/out/figures").iterdir()} == {".png", ".svg"}


@pytest.mark.usefixtures("undrawn")
def test_a_run_and_its_peft_adapter_are_the_same(seeds, capsys):
    assert main(["export", seeds[0], "--to", "peft", "--output", "lora8"]) == 0
    assert main(["analyze", seeds[0], "lora8", "--out", "out", "--null", "5"]) == 0
    run, adapter = json.loads(Path("out/analysis.json").read_text())["runs"]
    assert (adapter["what"], adapter["name"], adapter["seed"]) == ("dW", "lora8", None)
    for one, other in zip(run["matrices"], adapter["matrices"], strict=True):
        assert one["layer"] == other["layer"]
        assert one["singular_values"] == pytest.approx(other["singular_values"], rel=1e-4)
        assert one["spectra"]["dct"]["k90"]["value"] == pytest.approx(
            other["spectra"]["dct"]["k90"]["value"], abs=0.01
        )


def test_from_scratch_is_said_to_be_w(place, small, capsys):
    assert main(["fit", "--config", "dct_half.yaml", *small, "--name", "char"]) == 0
    capsys.readouterr()
    assert (
        main(["analyze", "runs/char/version_0", "--null", "5", "--layers", "attn.qkv,mlp.*"]) == 0
    )
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == [
        "char: W (text / CharLM / DCT ratio=0.5)",
        "note: trained from scratch: W itself is analysed",
    ]
    assert "attn.proj" not in printed


@pytest.mark.usefixtures("undrawn")
def test_a_pair_of_checkpoints(pair, capsys):
    assert main(["analyze", *pair, "--out", "out"]) == 0
    run = json.loads(Path("out/analysis.json").read_text())["runs"][0]
    assert [(m["layer"], m["numerical_rank"], m["shape"]) for m in run["matrices"]] == [
        ("layer.0.query", 2, [24, 16])
    ]
    assert any("unchanged" in note for note in run["notes"])


def test_force_replaces_a_report_as_a_whole(pair, capsys):
    argv = ["analyze", *pair, "--null", "5", "--out", "out"]
    assert main(argv) == 0
    written = json.loads(Path("out/analysis.json").read_text())
    Path("out/figures/old.png").write_text("")  # of an earlier version, say: its report lists it
    Path("out/analysis.json").write_text(
        json.dumps({**written, "files": [*written["files"], "figures/old.png"]})
    )
    refused(capsys, argv, "'out'", "earlier report", "--force")
    assert main([*argv, "--transform", "haar", "--force"]) == 0
    assert json.loads(Path("out/analysis.json").read_text())["transforms"] == ["haar"]
    assert not Path("out/figures/old.png").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["after", "before", "out"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "--transform dct,dst",
            ["--transform", "'dst'", "dct,fourier,hadamard,haar,random,hartley"],
        ),
        ("--transform ,", ["--transform", "dct,fourier,hadamard,haar,random,hartley"]),
        ("--null 4", ["--null", "at least 5", "4"]),
        ("--null many", ["--null", "'many'"]),
        ("--force", ["--force", "--out"]),
        ("--out before", ["'before'", "not overwritten", "another --out"]),
        ("--out before --force", ["'before'", "'model.safetensors'", "another --out"]),
        ("--out before/model.safetensors/x", ["before/model.safetensors", "another --out"]),
        ("--layers no.*", ["--layers", "'no.*'", "layer.*.query"]),
        ("--tranform dct", ["'--tranform'", "'--transform'"]),
        ("before", ["--before", "one checkpoint"]),
    ],
)
def test_mistakes(pair, capsys, line, found):
    refused(capsys, ["analyze", *pair, *line.split()], *found)


def broken(state):
    Path("broken").mkdir()
    save_file(state, "broken/model.safetensors")


def test_updates_that_cannot_be_analysed(pair, capsys):
    Path("empty").mkdir()
    refused(capsys, ["analyze", "empty"], "'empty'", "nothing to analyse")
    refused(capsys, ["analyze", "nowhere"], "'nowhere'")
    refused(capsys, ["analyze", "after"], "'after'", "--before")
    refused(capsys, ["analyze", "before", "--before", "before"], "nothing changed")
    nan = torch.randn(24, 16)
    nan[3, 4] = float("nan")
    broken({"layer.0.query.weight": nan, "head.weight": torch.zeros(3, 16)})
    refused(capsys, ["analyze", "broken", *pair[1:]], "'broken'", "layer.0.query", "NaN")
    save_file({"layer.0.query.weight": torch.randn(16, 24)}, "broken/model.safetensors")
    refused(capsys, ["analyze", "broken", *pair[1:]], "layer.0.query", "(16, 24)", "(24, 16)")


def test_an_untrained_run_has_no_update(place, tune, capsys):
    argv = [
        "fit",
        *configs("glue_rte lora_8"),
        *tune,
        "--model.optimizer.lr",
        "0",
        "--name",
        "still",
    ]
    assert main(argv) == 0
    refused(capsys, ["analyze", "runs/still/version_0"], "no update to analyse", "was not trained")


@pytest.mark.parametrize("library", ["scipy", "matplotlib", "pandas", "jinja2"])
def test_a_missing_library_is_named(pair, capsys, monkeypatch, library):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else real(name)
    )
    for command in (["analyze", *pair], ["mask", "after"]):
        refused(capsys, command, library, 'pip install -e ".[lab]"')


@pytest.mark.usefixtures("undrawn")
def test_a_null_draw_is_of_the_layer_alone(seeds):
    """Runs analysed together or alone have the same numbers."""
    for out, runs in (("both", seeds), ("one", seeds[:1])):
        assert main(["analyze", *runs, "--null", "5", "--out", out]) == 0
    both, one = (
        json.loads(Path(out, "analysis.json").read_text())["runs"][0] for out in ("both", "one")
    )
    assert both["matrices"] == one["matrices"]
    assert {m["layer"] for m in one["matrices"]} == set(read(seeds[0]).updates)


def test_long_names_fit_80_columns(place, capsys):
    kinds = ("attention.output.dense", "a.very.long.name.of.a.module.that.goes.on")
    state = {
        f"encoder.layer.{i}.{kind}.weight": torch.zeros(12, 12) for i in range(2) for kind in kinds
    }
    save_file(state, "before.safetensors")
    save_file({name: torch.randn(12, 12) for name in state}, "after.safetensors")
    argv = ["analyze", "after.safetensors", "--before", "before.safetensors", "--null", "5"]
    assert main([*argv, "--transform", "fourier,hadamard"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert ".output.dense" in printed


def test_the_journal_of_masks_is_not_a_report_of_updates(pair, capsys):
    """Force or not: it is what an interrupted command needs to go on."""
    Path("out").mkdir()
    Path("out/evaluations.jsonl").write_text('["a", 1.0]')
    for force in ([], ["--force"]):
        refused(capsys, ["analyze", *pair, "--out", "out", *force], "'out'", "another --out")


def test_runs_of_one_seed_are_noted(seeds, capsys):
    shutil.copytree("runs/s0/version_0", "runs/copy/version_0")
    assert main(["analyze", seeds[0], "runs/copy/version_0", "--null", "5"]) == 0
    printed = capsys.readouterr().out
    assert "note: has the seed of s0: the statistics take both for independent, and err" in printed
    assert printed.count("note:") == 1


def test_small_matrices_are_noted(pair, capsys):
    save_file({"layer.0.query.weight": torch.randn(4, 3)}, "a.safetensors")
    save_file({"layer.0.query.weight": torch.randn(4, 3)}, "b.safetensors")
    assert main(["analyze", "a.safetensors", "--before", "b.safetensors", "--null", "5"]) == 0
    assert (
        "note: has matrices with fewer than 8 rows or columns, too small to say much"
        in capsys.readouterr().out
    )
    refused(
        capsys,
        ["analyze", "a.safetensors", "--before", "b.safetensors", "--layers", ""],
        "--layers",
        "''",
    )
