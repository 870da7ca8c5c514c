"""What is known of a run, and names and groups that tell several apart."""

import functools
import json
from pathlib import Path

import pytest
import torch
from test_run import fit
from test_updates import classifier, run

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.lab.facts import Facts, label
from zoo.lab.names import nickname
from zoo.lab.updates import read
from zoo.parameterizations import LoRA


@pytest.fixture
def lora_run(tune, place) -> Path:
    return fit(*tune, config="glue_rte_lora.yaml")


def test_facts_are_those_of_the_summary(lora_run):
    summary = json.loads((lora_run / "summary.json").read_text())
    source = read(str(lora_run))
    assert (source.task, source.model, source.parameterization, source.seed) == ("rte", "bert", "LoRA", 0)
    assert (source.loss, source.score, source.metric) == (summary["loss"], summary["score"], "accuracy")
    assert (source.name, source.path, source.group) == ("glue_rte_lora-rte", str(lora_run), "rte / bert / LoRA rank=8")
    assert (source.what, source.notes, len(source.updates)) == ("dW", [], 4)


def test_results_are_those_of_the_checkpoints_step(lora_run):
    best = lora_run / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    path = lora_run / "summary.json"
    summary = json.loads(path.read_text()) | {"steps": 99, "best_step": content["global_step"], "best": 0.75}
    path.write_text(json.dumps(summary))
    source = read(str(best))
    assert (source.loss, source.score, source.name) == (None, 0.75, "glue_rte_lora-rte-best")
    path.write_text(json.dumps(summary | {"best_step": 98}))
    assert (read(str(best)).score, read(str(best)).metric) == (None, None)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"parameterization": "DCT"}'])
def test_a_summary_that_cannot_be_used_is_named(content, lora_run):
    whole = read(str(lora_run))
    (lora_run / "summary.json").write_text(content)
    source = read(str(lora_run))
    assert "summary.json" in source.notes[0] and "ignored" in source.notes[0]
    assert (source.task, source.model, source.parameterization, source.seed) == ("rte", "bert", "LoRA", 0)
    assert (source.loss, source.score, source.metric, source.group) == (None, None, None, whole.group)
    (lora_run / "summary.json").unlink()
    assert read(str(lora_run)).notes == []


def test_the_mean_of_several_metrics_is_called_score(tune, place):
    source = read(str(fit(*tune, config="glue_qqp_lora.yaml")))
    summary = json.loads((Path(source.path) / "summary.json").read_text())
    assert len({summary["metrics"][f"val/{name}"] for name in ("accuracy", "f1", "score")}) == 3
    assert (source.score, source.metric) == (summary["score"], "score")


def test_runs_that_differ_in_their_seed_are_one_group(tune, place):
    options = ["--seed_everything=0", "--seed_everything=1", "--model.optimizer.lr=0.01",
               "--model.tuning.head_lr=0.02", "--trainer.max_epochs=2"]
    folders = [fit(*tune, option, config="glue_rte_lora.yaml") for option in options]
    folders.append(fit(*tune, "--model.parameterization.lora_rank=4", config="glue_rte_dct.yaml"))
    sources = label([read(str(folder)) for folder in folders])
    groups = [source.group for source in sources]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 5
    assert all(group.startswith("rte / bert / LoRA rank=8, ") for group in groups[:5])
    assert "lr=0.01" in groups[2] and "head_lr=0.02" in groups[3] and "steps=10" in groups[4]
    assert groups[5] == "rte / bert / DCT lora_rank=4"
    assert [source.seed for source in sources[:2]] == [0, 1]
    assert len({source.name for source in sources}) == 6


def facts(path: str = "a", **settings: str) -> Facts:
    return Facts(path=path, name=nickname(path), group="rte / bert / LoRA", settings=settings)


def test_groups_differ_by_the_setting_that_tells():
    sources = [facts(f"run{i}", a="1", lr=lr, rare=rare, long=long)
               for i, (lr, rare, long) in enumerate([("1", "x", "y" * 99), ("2", "x", "y" * 99), ("3", "z", "y" * 99)])]
    assert [s.group for s in label(sources)] == [f"rte / bert / LoRA, lr={i}" for i in (1, 2, 3)]
    assert label(sources[:1])[0].group == "rte / bert / LoRA"
    hidden = label([facts("a", long="y" * 99 + "1"), facts("b", long="y" * 99 + "2"), facts("c", long="y" * 99 + "1")])
    assert hidden[0].group == hidden[2].group != hidden[1].group


def test_adapters_are_groups_of_their_own(backbones, place):
    """Nothing in them says what they were trained on."""
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=4)), Path("run"))
    for name in ("cola", "rte", "x/rte"):
        assert main(["export", path, "--to", "peft", "--output", name]) == 0
    sources = label([read(name) for name in ("cola", "rte", "x/rte")])
    assert sources[0].group == "cola / bert / LoRA rank=4"
    assert len({source.group for source in sources}) == len({source.name for source in sources}) == 3


@pytest.mark.parametrize(("path", "name"), [
    ("runs/rte/version_0", "rte"), ("runs/rte/version_1", "rte-version_1"), ("bert-base-uncased", "bert-base-uncased"),
    ("google/bert", "bert"), ("runs/rte/version_0/checkpoints/last.ckpt", "rte"), ("packages/minilm/model", "minilm"),
    ("runs/rte/version_2/checkpoints/best.ckpt", "rte-version_2-best"), ("a/adapter/adapter_model.safetensors",
     "a-adapter"), (f"hub/models--google--bert/snapshots/{'0a' * 20}", "bert"), ("runs/v1.5", "v1.5"),
])
def test_a_path_in_short(path, name):
    assert nickname(path) == name


def test_names_differ():
    paths = ["x/rte/version_0", "y/rte/version_0", "y/cola/version_0"]
    assert [s.name for s in label([facts(path) for path in paths])] == ["x-rte", "y-rte", "cola"]
    with pytest.raises(UserError, match="'x/rte' and 'x/rte/version_0' are the same"):
        label([facts("x/rte"), facts("x/rte/version_0")])
