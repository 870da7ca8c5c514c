"""An adapter from Python at the command line, and one from the command line in Python."""

import pytest
import torch
from networks import disturb
from trainers import logits

import zoo
from zoo.__main__ import main
from zoo.layers.convert import zoo_layers
from zoo.runs import checkpoints

transformers = pytest.importorskip("transformers")

METHODS = {
    "LoRA": {"rank": 2, "alpha": 8},
    "DCT": {"ratio": 0.1, "scale": 2.0},
    "RandLoRA": {"ratio": 0.2},
    "DoRA": {"rank": 2},
    "PiSSA": {"rank": 2},
}


def bert(backbones):
    new = transformers.AutoModelForSequenceClassification.from_pretrained
    return new(backbones("bert"), num_labels=2).eval()


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_from_python_is_looked_into_and_becomes_a_run(name, backbones, place, capsys):
    model = zoo.adapt(bert(backbones), getattr(zoo, name), targets="query_value", **METHODS[name])
    disturb(model)
    zoo.save(model, "mine")
    of_base = zoo_layers(model)[
        "bert.encoder.layer.0.attention.self.query"
    ].parameterization.needs_base
    assert main(["analyze", "mine", "--null", "5"]) == (2 if of_base else 0)
    said = capsys.readouterr()
    assert ("zoo import mine" in said.err) if of_base else ("stable rank" in said.out)
    assert main(["validate", "--ckpt_path", "mine"]) == 2
    assert "zoo import mine" in capsys.readouterr().err
    words = ["--backbone", str(backbones("bert")), "--task", "rte", "--output", "run"]
    assert main(["import", "mine", *words]) == 0
    run = checkpoints.rebuild(checkpoints.resolve("run"))
    assert torch.allclose(logits(run.net), logits(model), atol=1e-5)


def test_an_update_from_python_is_what_the_command_finds(backbones, place):
    from zoo.runs import updates

    model = zoo.adapt(bert(backbones), zoo.DCT, ratio=0.1, targets="query_value", scale=0.5)
    disturb(model)
    zoo.save(model, "mine")
    found = updates.read("mine").updates
    layers = zoo_layers(model)
    assert found.keys() == layers.keys()
    for layer, update in found.items():
        assert torch.allclose(update.matrix(), layers[layer].update().detach(), atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_an_exported_run_is_loaded_in_python(name, backbones, place, capsys):
    import functools

    from adapted import classifier, run

    settings = {key: value for key, value in METHODS[name].items() if key not in ("alpha", "scale")}
    factory = functools.partial(getattr(zoo, name), **settings)
    task = classifier(backbones("bert"), factory)
    assert main(["export", run(task, place / "run"), "--to", "safetensors"]) == 0
    folder = place / "run" / "export-safetensors"
    assert {file.name for file in folder.iterdir()} == {
        "adapter.safetensors",
        "zoo_adapter.json",
        "README.md",
    }
    model = zoo.load(bert(backbones), folder)
    assert torch.allclose(logits(model), logits(task.net), atol=1e-5)
    again = checkpoints.rebuild(checkpoints.resolve(str(folder)))
    assert torch.allclose(logits(again.net), logits(task.net), atol=1e-5)


def test_an_adapter_is_masked_without_its_network(backbones, place, capsys):
    model = zoo.adapt(bert(backbones), zoo.LoRA, rank=2, targets="query_value")
    disturb(model)
    zoo.save(model, "mine")
    assert main(["mask", "mine", "--budgets", "10,50"]) == 0
    assert "10 %" in capsys.readouterr().out
