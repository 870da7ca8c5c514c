"""The run that a checkpoint is of: what it keeps itself, and what a summary beside it adds."""

import functools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from adapted import classifier, run
from fits import fit
from transformers import AutoModel

from tasks import CharLM
from zoo.errors import UserError
from zoo.parameterizations import LoRA
from zoo.runs.checkpoint_runs import checkpoint_run
from zoo.runs.names import label
from zoo.runs.updates import read


@pytest.fixture
def lora_run(tune, place) -> Path:
    return fit(*tune, config="glue_rte lora_8")


def test_facts_are_those_of_the_summary(lora_run):
    summary = json.loads((lora_run / "summary.json").read_text())
    source = read(str(lora_run))
    assert (source.task, source.network, source.parameterization, source.seed) == (
        "rte",
        "bert",
        "LoRA",
        0,
    )
    assert (source.loss, source.score, source.metric) == (
        summary["loss"],
        summary["score"],
        "accuracy",
    )
    assert (source.name, source.path) == ("glue_rte+lora_8-rte", str(lora_run))
    assert source.group == "rte / bert / LoRA rank=8"
    assert (source.what, source.notes, len(source.updates)) == ("dW", [], 4)


def test_results_are_those_of_the_checkpoints_step(lora_run):
    best = lora_run / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    path = lora_run / "summary.json"
    summary = json.loads(path.read_text()) | {
        "steps": 99,
        "best_step": content["global_step"],
        "best": 0.75,
    }
    path.write_text(json.dumps(summary))
    source = read(str(best))
    assert (source.loss, source.score, source.name) == (None, 0.75, "glue_rte+lora_8-rte-best")
    path.write_text(json.dumps(summary | {"best_step": 98}))
    assert (read(str(best)).score, read(str(best)).metric) == (None, None)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"parameterization": "DCT"}'])
def test_a_summary_that_cannot_be_used_is_named(content, lora_run):
    whole = read(str(lora_run))
    (lora_run / "summary.json").write_text(content)
    source = read(str(lora_run))
    assert "summary.json" in source.notes[0] and "ignored" in source.notes[0]
    assert (source.task, source.network, source.parameterization, source.seed) == (
        "rte",
        "bert",
        "LoRA",
        0,
    )
    assert (source.loss, source.score, source.metric, source.group) == (
        None,
        None,
        None,
        whole.group,
    )
    (lora_run / "summary.json").unlink()
    assert read(str(lora_run)).notes == []


def test_the_mean_of_several_metrics_is_called_score(tune, place):
    source = read(str(fit(*tune, config="glue_qqp lora_8")))
    summary = json.loads((Path(source.path) / "summary.json").read_text())
    assert len({summary["metrics"][f"val/{name}"] for name in ("accuracy", "f1", "score")}) == 3
    assert (source.score, source.metric) == (summary["score"], "score")


@pytest.mark.parametrize("linked", ["checkpoints/last.ckpt", "checkpoints", "."])
def test_a_checkpoint_that_lies_elsewhere(lora_run, linked):
    """Its summary stands where the link does, or where that leads."""
    whole = read(str(lora_run))
    given = lora_run / linked
    given.rename("scratch")
    given.symlink_to(Path("scratch").absolute())
    source = read(str(lora_run))
    assert (source.loss, source.score, source.notes) == (
        whole.loss,
        whole.score,
        [],
    ) and source.score is not None
    assert source.name == whole.name
    Path("elsewhere.ckpt").symlink_to(lora_run / "checkpoints" / "last.ckpt")
    assert read("elsewhere.ckpt").score == (whole.score if linked == "." else None)


@pytest.mark.parametrize(
    "key",
    [
        "examples",
        "metrics",
        "score",
        "loss",
        "steps",
        "best",
        "best_step",
        "monitor",
        "glue_task",
        "corpus",
        "precision",
        "batch_size",
        "max_length",
    ],
)
@pytest.mark.parametrize(
    "value", [None, [], {}, "x\x1b", [[]], {"a": {}}, 10**400, True, -1, float("nan")]
)
def test_a_summary_with_any_value(tmp_path, key, value):
    """Facts that cannot be are none, and those that can are printable."""
    model = CharLM(
        "abc", functools.partial(LoRA, rank=2), block_size=8, layers=1, width=16, heads=2
    )
    folder = Path(run(model, tmp_path / "run"))
    content = {
        **model.describe(),
        "steps": 0,
        "loss": 1.5,
        "score": 0.5,
        "metrics": {"val/f1": 0.5},
        key: value,
    }
    (folder / "summary.json").write_text(json.dumps(content))
    found, _ = checkpoint_run(str(folder), folder / "checkpoints" / "last.ckpt", model)
    assert found.score is None or math.isfinite(found.score)
    assert "\x1b" not in repr([found.group, found.task, *found.settings.values()]).replace(
        "\\x1b", "\x1b"
    )
    label([found])


@pytest.mark.parametrize("settings", [None, [], "x"])
def test_settings_that_are_none(tmp_path, settings):
    model = CharLM(
        "abc", functools.partial(LoRA, rank=2), block_size=8, layers=1, width=16, heads=2
    )
    file = Path(run(model, tmp_path / "run")) / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(file, weights_only=True), "hyper_parameters": settings}, file)
    with pytest.raises(UserError, match="hyper_parameters|settings"):
        checkpoint_run("run", file, model)


def test_settings_that_hold_themselves(tmp_path):
    model = CharLM(
        "abc", functools.partial(LoRA, rank=2), block_size=8, layers=1, width=16, heads=2
    )
    file = Path(run(model, tmp_path / "run")) / "checkpoints" / "last.ckpt"
    settings = {}
    settings["a"] = settings
    torch.save({**torch.load(file, weights_only=True), "hyper_parameters": settings}, file)
    with pytest.raises(UserError):
        checkpoint_run("run", file, model)


def test_older_runs_are_of_the_network_that_they_had(backbones, place):
    """One that moved is the same, and one that was edited another, whatever its path and name."""
    folders = {place: Path(place) / "bert" for place in ("here", "moved", "edited")}
    for folder in folders.values():
        shutil.copytree(backbones("bert"), folder)
    network = AutoModel.from_pretrained(folders["edited"])
    with torch.no_grad():
        network.get_parameter("encoder.layer.0.output.dense.weight")[0, 0] += 0.5
    network.save_pretrained(folders["edited"])
    runs = [
        read(run(classifier(folder, functools.partial(LoRA, rank=4)), Path(f"run_{place}")))
        for place, folder in folders.items()
    ]
    here, moved, edited = (each.group for each in label(runs))
    assert here == moved != edited and all("backbone_sha256=" in name for name in (here, edited))
