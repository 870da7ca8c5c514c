"""A task of the user's own: the guide's example in every command, and what one that lacks something
hears.
"""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import Mistake, refused
from every import thinned

from zoo.__main__ import main

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """A file that the guide shows."""
    return re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", GUIDE, re.DOTALL)[1]


def write(module: str, old: str = "", new: str = "") -> str:
    """The guide's task as a module of this name, with something replaced; returns its config."""
    source = block("my_task.py")
    assert old in source
    Path(f"{module}.py").write_text(source.replace(old, new) if old else source)
    Path(f"{module}.yaml").write_text(block("my_task.yaml").replace("my_task", module))
    return f"{module}.yaml"


def test_readmes_task_works_in_every_command(mistake, capsys):
    config = write("my_task")
    assert (
        main(["fit", "--config", config, "--trainer.max_steps", "80", "--seed_everything", "1"])
        == 0
    )
    run = "runs/my_task-moons/version_0"
    summary = json.loads(Path(run, "summary.json").read_text())
    assert (
        summary["task"] == "Classifier"
        and summary["coefficients"] == 1024
        and summary["loss"] < 0.5
    )
    capsys.readouterr()
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", run, "--trust", "my_task"]) == 0
        assert re.search(r"loss +0\.\d{4}", capsys.readouterr().out)
    assert (
        main(["fit", "--ckpt_path", run, "--trust", "my_task", "--trainer.max_steps", "120"]) == 0
    )
    assert json.loads(Path(run, "summary.json").read_text())["steps"] == 120
    words = ["--model.parameterization", "LoRA", "--model.width", "32", "--data.noise", "0.3"]
    assert main(["fit", "--config", config, *words, "--trainer.max_steps", "2"]) == 0
    assert main(["params", "--config", config, "--json"]) == 0


INIT = "        super().__init__(**settings)\n        self.save_settings()\n"
LOADER = "        random = torch.Generator().manual_seed(self.seed)\n"
LACKING = [
    (
        "no save_settings",
        "        self.save_settings()\n",
        "",
        ["Classifier", "self.save_settings()"],
    ),
    (
        "no parameterize",
        "self.parameterize(network)",
        "network",
        ["Classifier", "self.parameterize(network)"],
    ),
    ("no net", "self.net = self.", "self.network = self.", ["Classifier", "self.net", "network"]),
    (
        "raises",
        INIT,
        f"{INIT}        raise KeyError('oh')\n",
        ["Classifier cannot be built", "KeyError", "line "],
    ),
    (
        "super last",
        INIT,
        f"        self.a = nn.Linear(2, 2)\n{INIT}",
        ["Classifier cannot be built", "line "],
    ),
    ("no super", INIT, "", ["Classifier", "super().__init__(**settings)"]),
    ("no settings", ", **settings)", ")", ["Classifier", "super().__init__(**settings)"]),
    (
        "logs nothing",
        'self.log("val/loss", ',
        "dict(loss=",
        ["Classifier", "'val/loss'", "logs none"],
    ),
    (
        "logs another",
        '"val/loss"',
        '"val_loss"',
        ["Classifier", "'val/loss'", "logs val_loss", "monitor"],
    ),
    ("no training", "def training_step", "def train", ["Classifier", "training_step", "define it"]),
    (
        "no validation",
        "def validation_step",
        "def validate",
        ["Classifier", "validation_step", "define it"],
    ),
    (
        "no task",
        "Classifier(ZooModule)",
        "Classifier(nn.Module)",
        ["Classifier' is no ZooModule", "inherits from"],
    ),
    ("no data", "Moons(ZooData)", "Moons", ["Moons' is no ZooData", "inherits from"]),
    ("no loader", "def train_dataloader", "def loader", ["Moons", "train_dataloader", "define it"]),
    ("no val loader", "def val_dataloader", "def loader", ["Moons", "val_dataloader", "define it"]),
    ("data's super", "        super().__init__()\n", "", ["Moons", "super().__init__()"]),
    (
        "data raises",
        "        super().__init__()\n",
        "        1 / 0\n",
        ["Moons cannot be built", "ZeroDivisionError"],
    ),
    ("loader is none", LOADER, "        return None\n", ["Moons.train_dataloader", "None"]),
    (
        "loader is empty",
        LOADER,
        "        return []\n",
        ["Moons.train_dataloader has no batch", "batch_size"],
    ),
    (
        "val loader is empty",
        "return DataLoader(self.draw(2)",
        "return []  # (",
        ["Moons.val_dataloader has no batch"],
    ),
    (
        "facts",
        "    def identity",
        "    facts = int\n\n    def identity",
        ["Moons.facts", "dict", "int"],
    ),
    *(
        (
            f"facts of {word}",
            "    def identity",
            f"    def facts(self):\n        return {value}\n\n    def identity",
            words,
        )
        for word, value, words in (
            (
                "tensors",
                "{'mean': torch.ones(2)}",
                ["Moons.facts gives Tensor as 'mean'", "numbers"],
            ),
            ("sets", "{'classes': {1, 2}}", ["Moons.facts gives set as 'classes'"]),
            ("no key", "{(1, 2): 3}", ["Moons.facts gives int as (1, 2)"]),
            ("an error", "1 / 0", ["Moons.facts fails", "ZeroDivisionError"]),
        )
    ),
    ("other name", "class Classifier", "class Sorter", ["no class 'Classifier'"]),
    ("data's other name", "class Moons", "class Moon", ["no class 'Moons'", "'Moon'"]),
    ("syntax", "class Moons(ZooData):", "class Moons(ZooData)", ["cannot import", "line "]),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "words"), thinned(LACKING, 3), ids=[row[0] for row in LACKING]
)
def test_what_a_task_lacks_is_said_in_one_line(name, old, new, words, mistake: Mistake):
    config = write(f"my_{re.sub(r'[^a-z]', '_', name)}", old, new)
    mistake.small = []
    mistake(f"fit --config {config}", words)


def test_a_loader_that_ends_for_good_ends_the_run(mistake, capsys):
    """Steps alone would never end it."""
    new = (
        "        if not hasattr(self, 'once'):\n"
        "            self.once = iter([next(iter(self.val_dataloader()))])\n"
    )
    config = write("my_once", LOADER, f"{new}        return self.once\n")
    assert main(["fit", "--config", config]) == 2
    assert (
        "Moons.train_dataloader gives no batch in epoch 1"
        in capsys.readouterr().err.splitlines()[-1]
    )


def test_loaders_are_made_after_setup(mistake, capsys):
    """A parser writes the data into its log, for which Lightning would make every loader."""
    config = write("my_setup", LOADER, f"        assert self.trainer is not None\n{LOADER}")
    assert main(["fit", "--config", config, "--trainer.max_steps", "1"]) == 0


def test_a_loss_that_trains_nothing(mistake, capsys):
    config = write(
        "my_lossless", "        return loss\n", "        return loss.detach().requires_grad_()\n"
    )
    assert main(["fit", "--config", config]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "Classifier.training_step" in said and "return the loss" in said


@pytest.mark.parametrize("path", ["tasks.mine.Model", "tasks.Mine"])
def test_a_tasks_package_of_ones_own_hides_nothing_and_is_named(
    path, mistake, small, capsys, monkeypatch
):
    """zoo's own package of that name is found first; who means the other one is told."""
    Path("tasks").mkdir()
    Path("tasks/__init__.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    refused(
        capsys,
        ["fit", "--config", "dct_half.yaml", *small, "--model", path],
        "zoo's own 'tasks'",
        "rename that",
    )


def test_a_module_that_is_missing_belongs_where_the_command_was_called(mistake):
    Path("below").mkdir()
    Path("below/mine.yaml").write_text("model: {class_path: my_absent.Model}\ndata: CharData\n")
    mistake.small = []
    mistake(
        "fit --config below/mine.yaml", ["'my_absent'", f"a file in {Path.cwd()}, or installed"]
    )
