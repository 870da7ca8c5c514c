"""A file of a user's own that imports a module of zoo's from where it was is told in one line where
it is.
"""

import importlib
import importlib.util

import pytest
from conftest import refused

import zoo
from results.goals.__main__ import main as goals
from zoo.files.trust import NOBODY
from zoo.parameterizations import DCT, WeightParameterization

TASK = "from zoo.module import ZooModule\n\n\nclass Mine(ZooModule):\n    pass\n"


@pytest.mark.parametrize("name", zoo.MOVED)
def test_the_new_place_is_there(name):
    importlib.import_module(f"zoo.{zoo.MOVED[name].partition(',')[0]}")
    with pytest.raises(ModuleNotFoundError, match=f"^zoo.{name} is zoo.{zoo.MOVED[name]} now$"):
        importlib.import_module(f"zoo.{name}")


@pytest.mark.parametrize("former", zoo.MOVED_NAMES)
def test_the_new_place_of_a_function_is_there(former):
    (module, _, name), place = former.rpartition("."), zoo.MOVED_NAMES[former]
    assert callable(getattr(importlib.import_module(f"zoo.{place}"), name))
    with pytest.raises(ImportError, match=f"^zoo.{former} is zoo.{place}.{name} now$"):
        exec(f"from zoo.{module} import {name}")
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec(f"from zoo.{module} import nonsense")


def test_a_parameterization_by_its_former_file_is_found():
    """Checkpoints of networks made in Python name it so; a class of a user's own is left alone."""
    former = "zoo.parameterizations.dct.DCT"
    assert NOBODY.find(former, WeightParameterization, "a file") is DCT
    assert zoo.path_today(former) == zoo.path_today("zoo.parameterizations.DCT")
    settings = {"a": {"class_path": former, "init_args": {"ratio": 0.5}}}
    assert zoo.path_today(settings)["a"]["class_path"] == "zoo.parameterizations.DCT"
    for other in ("my.parameterizations.dct.DCT", "zoo.parameterizations.dct.DCT.x", 3, None):
        assert zoo.path_today(other) is other


def test_what_is_not_there_is_not_found():
    assert importlib.util.find_spec("zoo.nonsense") is None
    assert importlib.util.find_spec("module") is None


@pytest.mark.parametrize(
    "line",
    [
        "check my_old.Mine",
        "fit --config my_old.yaml",
        "fit --config dct_half.yaml --model.parameterization my_old.Mine",
        "validate --ckpt_path run --trust my_old",
    ],
)
def test_every_command_says_it(line, handed, monkeypatch, capsys):
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (handed / "my_old.py").write_text(TASK)
    (handed / "my_old.yaml").write_text(
        "model: {class_path: my_old.Mine}\ndata: {class_path: my_old.Mine}\n"
    )
    config = handed / "run" / "config.yaml"
    config.write_text(config.read_text().replace("tasks.CharLM", "my_old.Mine"))
    refused(capsys, line.split(), "zoo.module is zoo.training.module now")


def test_goals(place, capsys):
    for words in (["--goals"], ["--goals=step"], ["--goals", "step"]):
        refused(capsys, ["bench", *words], "python -m results.goals")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "some of step,"),
        (["--csv", "none/g.csv"], "no folder 'none'"),
        (["--threads", "0"], "at least 1"),
        (["--goals"], "no option '--goals'"),
    ],
)
def test_a_mistake_of_the_goals_is_one_line(words, said, place, capsys):
    assert goals(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zoo: ") and said in line
    assert list(place.iterdir()) == []
