"""Nothing that a file names is imported or called but zoo's own and what the user has said."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import refused
from every import thinned
from safetensors.torch import save_file

from tasks import CharLM
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.files.paths import ADAPTER
from zoo.files.tensors import read_tensors
from zoo.files.trust import NOBODY, Trust, Untrusted, split
from zoo.parameterizations import DCT, WeightParameterization
from zoo.training.checkpoint_files import OF
from zoo.training.module import ZooData, ZooModule

SHELL = {"class_path": "os.system", "init_args": {"command": "touch OWNED"}}
EVIL: dict[str, Any] = {
    "a function": SHELL,
    "its name": "os.system",
    "by attributes": "zoo.files.access.os.system",
    "a strangers class": {"class_path": "stranger.Basis"},
    "inside arguments": {"class_path": "zoo.parameterizations.DCT", "init_args": {"ratio": SHELL}},
    "a part of a sum": {
        "class_path": "zoo.parameterizations.Sum",
        "init_args": {"parts": ["zoo.parameterizations.LoRA", SHELL], "ratio": 0.5},
    },
    "a factor in a part": {
        "class_path": "zoo.parameterizations.Sum",
        "init_args": {
            "parts": [
                {
                    "class_path": "zoo.parameterizations.Product",
                    "init_args": {"left": {"class_path": "stranger.Basis"}},
                }
            ]
        },
    },
    "yaml in a string": "{class_path: os.system, init_args: {command: touch OWNED}}",
    "a path of a config": "evil.yaml",
    "zoo's, and no class": "zoo.files.access.size",
    "zoo's, and no parameterization": {"class_path": "tasks.CharLM"},
    "a class that zoo imports": {"class_path": "zoo.cli.fit.lightning_cli.LightningCLI"},
    "a list": [SHELL],
    "a number": 3,
    "arguments alone": {"init_args": {"ratio": 0.5}},
}
COMMANDS = [
    "validate --ckpt_path {}",
    "test --ckpt_path {}",
    "predict --ckpt_path {}",
    "fit --ckpt_path {}",
    "generate --ckpt_path {} --length 1",
    "analyze {} --null 5",
    "mask {} --budgets 50 --order magnitude",
    "export {} --to dense --output out",
]


@pytest.fixture
def run(handed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("stranger.py").write_text("open('OWNED', 'w')\nclass Basis: pass\n")
    Path("evil.yaml").write_text(yaml.safe_dump(SHELL))
    return handed


def with_parameterization(where: str, spec: Any) -> str:
    """The run or adapter, with another parameterization in one of the places that have it."""

    def changed(settings: dict[str, Any]) -> dict[str, Any]:
        settings = copy.deepcopy(settings)
        settings["parameterization"] = spec
        return settings

    if where == "last.ckpt":
        path = Path("run/checkpoints/last.ckpt")
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["hyper_parameters"] = changed(checkpoint["hyper_parameters"])
        torch.save(checkpoint, path)
        (beside,) = path.parent.glob("last.resume_*.pt")
        rest = torch.load(beside, weights_only=True)
        # As an older zoo wrote it.
        torch.save({key: value for key, value in rest.items() if key != OF}, beside)
        return "run"
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    if where == "config.yaml":
        config["model"]["init_args"] = changed(config["model"]["init_args"])
        Path("run/config.yaml").write_text(yaml.safe_dump(config))
        return "run"
    tensors, metadata = read_tensors(Path(ADAPTER))
    if where == "the adapter's config":
        config["model"]["init_args"] = changed(config["model"]["init_args"])
        metadata["config"] = yaml.safe_dump(config)
    else:
        settings = json.loads(metadata["zoo"])
        settings["hyper_parameters"] = changed(settings["hyper_parameters"])
        metadata["zoo"] = json.dumps(settings)
    save_file(tensors, ADAPTER, metadata)
    return ADAPTER


@pytest.mark.parametrize(
    "where", ["last.ckpt", "config.yaml", "the adapter", "the adapter's config"]
)
@pytest.mark.parametrize("command", thinned(COMMANDS, 2), ids=lambda command: command.split()[0])
def test_no_command_runs_what_a_file_names(command, where, run, capsys):
    path = with_parameterization(where, SHELL)
    reads = (
        where != "config.yaml"
        and where != "the adapter's config"
        or command.split()[0] in ("validate", "test", "predict", "fit", "mask")
    )
    before = {module for module in sys.modules if module.startswith("stranger")}
    capsys.readouterr()
    status = main(command.format(path).split())
    err = capsys.readouterr().err
    assert not Path("OWNED").exists() and before == {
        m for m in sys.modules if m.startswith("stranger")
    }
    if reads:
        assert status == 2 and err.startswith("zoo: ") and len(err.splitlines()) == 1, err
        assert "os.system" in err and "not zoo's own" in err
    if reads and command.split()[0] != "mask":
        assert f"zoo {command.format(path)} --trust os.system" in err


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize(
    "command", [COMMANDS[0], COMMANDS[4]], ids=["from config.yaml", "from settings"]
)
def test_no_spelling_is_obeyed(kind, command, run, capsys):
    path = with_parameterization(
        "config.yaml" if "validate" in command else "the adapter", EVIL[kind]
    )
    refused(capsys, command.format(path).split())
    assert not Path("OWNED").exists() and "stranger" not in sys.modules


@pytest.mark.parametrize(
    "word", ["os.system", "subprocess.Popen", json.dumps(SHELL), "zoo.files.access.size"]
)
def test_what_the_user_types_must_be_a_class_of_the_right_kind_too(word, place, small, capsys):
    refused(capsys, ["fit", "--config", "dct_half.yaml", *small, "--model.parameterization", word])
    assert not Path("OWNED").exists()


MINE = """
from zoo.parameterizations import {parent}
class MyBasis({parent}):
    '''Mine.'''
"""


@pytest.mark.parametrize(
    "words", thinned([["--trust", "my_basis.MyBasis"], ["--trust=my_basis"]], 2)
)
def test_a_class_of_the_users_own_goes_on_when_it_is_trusted(
    words, place, small, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("my_basis.py").write_text(MINE.format(parent="DCT"))
    mine = [
        "--model.parameterization",
        "my_basis.MyBasis",
        "--model.parameterization.ratio",
        "0.5",
        "--name",
        "mine",
    ]
    assert main(["fit", "--config", "dct_half.yaml", *small, *mine]) == 0
    folder = "runs/mine/version_0"
    for command in (
        "validate --ckpt_path {}",
        "generate --ckpt_path {} --length 1",
        "export {} --to dense --output o",
        "fit --ckpt_path {}",
    ):
        argv = command.format(folder).split()
        refused(capsys, argv, "my_basis.MyBasis", f"zoo {' '.join(argv)} --trust my_basis.MyBasis")
        assert main([*argv, *words]) == 0
    assert (
        main(["validate", "--ckpt_path", folder, "--model.parameterization", "my_basis.MyBasis"])
        == 0
    )
    del sys.modules["my_basis"]


@pytest.mark.parametrize("trust", [Trust(("my",)), Trust(("my.Basis",)), Trust((), ("my.Basis",))])
def test_trust_is_of_a_class_in_its_own_file(trust, tmp_path, monkeypatch):
    """Not of whatever a trusted module has imported; and a class still has to fit its place."""
    monkeypatch.syspath_prepend(tmp_path)
    imports = "from subprocess import Popen\nfrom zoo.parameterizations import DCT as Basis\n"
    (tmp_path / "my.py").write_text(f"{imports}x = 1\n")
    if trust.names == ("my",):
        assert trust.find("my.Basis", WeightParameterization, "it") is DCT
        for path in ("my.Popen", "my.x", "my.subprocess.Popen"):
            with pytest.raises(UserError):
                trust.find(path, object, "it")
    with pytest.raises(UserError, match="no ZooModule"):
        trust.find("my.Basis", ZooModule, "it")
    with pytest.raises(Untrusted):
        trust.find("mys.Basis", object, "it")
    del sys.modules["my"]


def test_only_options_that_take_a_class_opt_it_in():
    """A file that is called like a module of a stranger's is none."""
    trust = Trust.of(
        [
            "generate",
            "--ckpt_path",
            "evil.safetensors",
            "--data.corpus=my.text",
            "--trainer.callbacks+=a.B",
            "--model.parameterization",
            "c.D",
        ]
    )
    assert trust.names == () and set(trust.typed) == {"a.B", "c.D"}
    with pytest.raises(Untrusted):
        trust.find("evil.safetensors", object, "it")
    assert split(["fit", "--trust", "a", "--x", "--trust=b"]) == (["fit", "--x"], ["a", "b"])
    for words in (["--trust"], ["--trust="], ["--trust", "--config"]):
        with pytest.raises(UserError, match="--trust takes"):
            split(["fit", *words])


@pytest.mark.parametrize("text", ['{"mlp.fc": "my.Basis"}', "{mlp.fc: {class_path: my.Basis}}"])
def test_a_pattern_of_layers_opts_nothing_in(text):
    assert Trust.of(["fit", "--model.overrides", text]).typed == ("my.Basis",)


def test_a_text_with_a_dot_is_a_text_where_anything_may_stand(tmp_path, monkeypatch):
    class Anything:
        def __init__(self, table="weights.bin") -> None: ...

    NOBODY.check_arguments(Anything, {"table": "weights.bin"}, "it")


def test_a_package_of_a_strangers_that_is_called_like_ours_is_not_ours(monkeypatch):
    assert NOBODY.find("tasks.CharLM", ZooModule, "it") is CharLM
    assert NOBODY.find("CharData", ZooData, "it").__name__ == "CharData"
    package = type(sys)("tasks")
    package.__file__ = "/elsewhere/tasks/__init__.py"
    monkeypatch.setitem(sys.modules, "tasks", package)
    with pytest.raises(Untrusted, match="'tasks' that Python finds here is another one than zoo's"):
        NOBODY.find("tasks.CharLM", ZooModule, "it")


# ---- A run's trainer -----------------------------------------------------------------------------

STRANGER = {"class_path": "stranger.Basis"}
ENTRIES: dict[str, Any] = {
    "callbacks": [STRANGER],
    "logger": STRANGER,
    "profiler": STRANGER,
    "plugins": [STRANGER],
    "strategy": STRANGER,
    "accelerator": STRANGER,
    "enable_progress_bar": STRANGER,
}
TEXTS: dict[str, Any] = {
    "yaml for a word": {"strategy": "{class_path: stranger.Basis}"},
    "json": {"profiler": json.dumps(STRANGER)},
    "a path for a word": {"accelerator": "./evil.yaml"},
    "a file called like a word": {"strategy": "ddp"},
    "a path for a class": {"callbacks": ["./evil.yaml"]},
    "yaml for anything": {
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor",
                "init_args": {"cpu_stats": '{"cl\\x61ss_path": "stranger.Basis"}'},
            }
        ]
    },
}


@pytest.mark.parametrize("kind", TEXTS)
def test_no_text_in_a_runs_trainer_is_read_as_a_class(kind, run, capsys):
    Path("evil.yaml").write_text(yaml.safe_dump(STRANGER))
    Path("ddp").write_text(yaml.safe_dump(STRANGER))
    with_trainer(**TEXTS[kind])
    refused(capsys, ["fit", "--ckpt_path", "run"])
    assert "stranger" not in sys.modules and not Path("OWNED").exists()


def test_a_text_that_stands_for_anything_may_name_no_class():
    """jsonargparse reads one as YAML, escapes and all."""

    class Anything:
        def __init__(self, untyped, anything: Any = None, thing: object = None) -> None: ...

    for key in ("untyped", "anything", "thing"):
        NOBODY.check_arguments(Anything, {key: "plain words: of a kind"}, "it")
        for text in (
            "{class_path: os.system}",
            '{"cl\\x61ss_path": "os.system"}',
            "[{a: {class_path: os.system}}]",
        ):
            with pytest.raises(Untrusted):
                NOBODY.check_arguments(Anything, {key: text}, "it")


WRITES: dict[str, Any] = {
    "a profiler": {
        "profiler": {
            "class_path": "lightning.pytorch.profilers.SimpleProfiler",
            "init_args": {"dirpath": "{there}", "filename": "OWNED"},
        }
    },
    "a logger": {
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "{there}"},
        }
    },
    "a relative path": {
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "logs"},
        }
    },
    "a name": {
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "run", "name": "../../OWNED"},
        }
    },
    "a function": {
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": "os.abort"},
            }
        ]
    },
}


def with_trainer(**entries: Any) -> None:
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["trainer"] |= {"max_steps": 8, **entries}
    Path("run/config.yaml").write_text(yaml.safe_dump(config))


def test_a_runs_trainer_is_left_alone_by_commands_that_look(run):
    with_trainer(**ENTRIES)
    for command in (COMMANDS[0], COMMANDS[1]):
        assert main(command.format("run").split()) == 0
    assert main(["mask", "run", "--budgets", "50", "--order", "magnitude"]) == 0
    assert "stranger" not in sys.modules and not Path("OWNED").exists()


@pytest.mark.parametrize("key", thinned(ENTRIES, 4))
def test_a_runs_trainer_is_taken_by_fit_when_it_is_trusted(key, run, capsys):
    with_trainer(**{key: ENTRIES[key]})
    refused(capsys, ["fit", "--ckpt_path", "run"], "stranger.Basis", "--trust stranger.Basis")
    assert "stranger" not in sys.modules and not Path("OWNED").exists()
    if key not in ("accelerator", "enable_progress_bar"):
        assert (
            main(
                [
                    "fit",
                    "--ckpt_path",
                    "run",
                    f"--trainer.{key}={'auto' if key == 'strategy' else 'null'}",
                ]
            )
            == 0
        )


@pytest.mark.parametrize("kind", WRITES)
def test_a_runs_trainer_writes_nothing_outside_the_run(kind, run, tmp_path, capsys):
    there = tmp_path / "there"
    with_trainer(**json.loads(json.dumps(WRITES[kind]).replace("{there}", str(there))))
    refused(capsys, ["fit", "--ckpt_path", "run"], "--trust")
    assert not there.exists() and not Path("logs").exists()


def test_ones_own_run_goes_on_and_says_once_what_it_imports(run, capsys):
    monitor = "lightning.pytorch.callbacks.LearningRateMonitor"
    spec = {"class_path": monitor, "init_args": {"logging_interval": "step"}}
    with_trainer(callbacks=[spec], default_root_dir="/nowhere")
    assert main(["fit", "--ckpt_path", "run"]) == 0
    assert capsys.readouterr().err.count(f"the run imports {monitor}") == 1
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 8
