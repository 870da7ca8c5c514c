"""A run with whatever in its files is left out of a report by itself, or shown: it never stands in
the others' way.
"""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from every import thinned
from report_runs import write_events, write_run

from zoo.__main__ import main
from zoo.files.trust import Trust
from zoo.pages.page import finite
from zoo.pages.style import svg
from zoo.runs import event_curves
from zoo.runs.finished_runs import read
from zoo.studies.report.comparison import compare, usable
from zoo.studies.report.figures import figures
from zoo.studies.report.markdown import markdown
from zoo.studies.report.page import page
from zoo.studies.report.tables import exported
from zoo.studies.report.terminal import describe

VALUES: list[Any] = [
    None,
    [],
    {},
    "x",
    -1,
    1e400,
    True,
    [[[]]],
    {"a": {}},
    float("nan"),
    10**30,
    "",
    0,
    1e300,
    ["x"],
    "\x1b[31m\ud800$\\",
]
FACTS = {"zoo": "0", "date": "2026-11-22", "command": "zoo report", "device": "CPU", "seconds": 1.0}
SCORED = {
    "glue_task": "rte",
    "examples": {"train": 40, "validation": 16},
    "score": 0.5,
    "max_length": 32,
    "updates": True,
    "metrics": {"val/loss": 1.5, "val/score": 0.5, "val/accuracy": 0.5},
    "devices": 1,
    "cost": {"rows": 32, "training_flops": 6e6, "checkpoint_bytes": 20_400, "decode_bytes": None},
    "versions": {"zoo": "0"},
    "monitor": "val/score",
    "best": 0.5,
    "best_step": 3,
    "data": "rte",
    "vocabulary": 3,
    "weight_decay": 0.1,
    "callback_seconds": {},
    "resumed_at": None,
    "threads": 2,
    "steps_per_second": 3.0,
}


def shown(top: Path, drawn: bool = False) -> tuple[list[str], list[str]]:
    """Everything that a report shows of runs, and the names of those that it has and leaves out."""
    found, skipped = read([str(top)])
    found, more = usable(found)
    data = finite({**FACTS, **compare(found, [*skipped, *more])})
    for comparison in data["comparisons"]:
        describe(comparison, data)
    assert len(exported(data)) and markdown(data).encode()
    drawings = {name: svg(figure) for name, figure in figures(data).items()} if drawn else {}
    assert page(data, drawings).encode() and json.dumps(data, allow_nan=False)
    return [run.name for run in found], [Path(item.path).name for item in (*skipped, *more)]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in nested mappings something stands."""
    found = [path] if path else []
    for key, item in value.items() if isinstance(value, dict) else ():
        found += places(item, (*path, key))
    return found


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    whole = copy.deepcopy(whole)
    node = whole
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("file", "more"),
    thinned(
        [
            ("summary.json", SCORED),
            ("config.yaml", {}),
            ("summary.json", {}),
            ("config.yaml", SCORED),
        ],
        lambda file, more: (file == "summary.json") == bool(more),
    ),
)
def test_any_value_at_any_key(tmp_path, file, more):
    """The whole run is reported, whatever the other holds; that one is too, or it is named."""
    write_run(tmp_path / "good", **more)
    bad = (
        write_run(
            tmp_path / "bad",
            1.25,
            1,
            **more,
            events={"val/loss": [(1, 2.0), (2, 1.0), (400, 1.25)]},
        )
        / file
    )
    whole = (
        json.loads(bad.read_text()) if file == "summary.json" else yaml.safe_load(bad.read_text())
    )
    todo = places(whole)
    assert len(todo) > 20
    for i, path in enumerate(todo):
        for j, value in enumerate(VALUES):
            if (i + j) % 8:  # each value at an eighth of the keys
                continue
            content = changed(whole, path, value)
            bad.write_text(json.dumps(content) if file == "summary.json" else yaml.dump(content))
            kept, left = shown(tmp_path, drawn=(i + j) % 40 == 0)
            assert "good" in kept and sorted([*kept, *left]) == ["bad", "good"], (path, value)


BOMB = (
    "a: &a [x, x, x, x, x, x, x, x]\n"
    + "\n".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "\nmodel: *i\n"
)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        '{"loss": ' + "9" * 10_000 + "}",
        b"\xff\xfe\x00",
        BOMB,
        "&a [*a]",
        "? [a, b]\n: 1\n",
        "model: !!python/object/apply:os.system [exit]\n",
        "model: {? {a: 1} : 2}\n",
        "\x00",
        "!!set {a}",
        "model: !!set {a}\ndata: {}\ntrainer: {}\n",
        "model: {class_path: 2001-01-01}\ndata: {}\ntrainer: {}\n",
        "model: &a {class_path: x.Y, init_args: *a}\ndata: {}\ntrainer: {}\n",
    ],
)
@pytest.mark.parametrize("file", ["summary.json", "config.yaml"])
def test_what_is_no_file_of_a_run(tmp_path, file, content):
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad") / file
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert shown(tmp_path) == (["good"], ["bad"])


def test_another_runs_settings_of_any_kind_and_number(tmp_path):
    """Names stay short and quickly found: that two settings differ in nothing that is shown ends
    the search.
    """
    write_run(tmp_path / "good")
    config = {f"model.init_args.s{i}": "1" for i in range(1000)} | {
        "model.init_args.long": "y" * 9_000
    }
    for name, value in (("a", "1"), ("b", 1)):
        write_run(
            tmp_path / name,
            config={**config, **{f"model.init_args.s{i}": value for i in range(1000)}},
        )
    write_run(tmp_path / "many", config={f"model.init_args.s{i}": "1" for i in range(6_000)})
    kept, left = shown(tmp_path, drawn=True)
    assert (kept, left) == (["a", "b", "good"], ["many"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("file", ["summary.json", "config.yaml"])
def test_a_pipe_is_not_waited_for(tmp_path, file):
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad") / file
    bad.unlink()
    os.mkfifo(bad)
    os.mkfifo(tmp_path / "good" / "events.out.tfevents.1.host")
    assert shown(tmp_path) == (["good"], ["bad"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        os.urandom,
        lambda content: bytes(len(content)),
        lambda content: content[:20] + b"\xff" * 40 + content[60:],
        lambda content: content.replace(b"val/loss", b"val/\xff\xff\xff\xff"),
        lambda content: content + b"\xff" * 99,
    ],
)
def test_damaged_events(tmp_path, damage):
    """What comes before the damage is read, and nothing else of it matters."""
    run = write_run(tmp_path / "run")
    write_events(run, {"val/loss": [(step, 2.0) for step in range(1, 20)]})
    (events,) = run.glob("events*")
    content = events.read_bytes()
    events.write_bytes(damage(len(content) if damage is os.urandom else content))
    assert shown(tmp_path) == (["run"], [])
    assert set(event_curves.read(run, ["val/"]).get("val/loss", ())) <= {
        (step, 2.0) for step in range(1, 20)
    }


def test_steps_that_are_none(tmp_path):
    run = write_run(
        tmp_path / "run",
        events={"val/loss": [(-5, 1.0), (2**60, 1.0), (3, 2.0), (4, float("inf"))]},
    )
    assert event_curves.read(run, ["val/"]) == {"val/loss": [(3, 2.0)]}


def test_what_the_checks_miss_is_left_out_alone(tmp_path, monkeypatch, capsys):
    """A run that raises by itself is damaged, at any step of the way."""
    for name in ("good", "bad"):
        write_run(tmp_path / name)
    for place in (
        "zoo.runs.older_runs.completed",
        "zoo.runs.finished_runs._run",
        "zoo.studies.report.comparison._row",
    ):
        module, _, function = place.rpartition(".")
        real = getattr(sys.modules[module], function)

        def broken(*args, real=real):
            assert not any("bad" in str(getattr(each, "path", each)) for each in args), "by design"
            assert not any(isinstance(each, dict) and each.get("device") == "bad" for each in args)
            return real(*args)

        write = tmp_path / "bad" / "summary.json"
        write.write_text(json.dumps(json.loads(write.read_text()) | {"device": "bad"}))
        with monkeypatch.context() as patch:
            patch.setattr(place, broken)
            assert main(["report", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "left out  1 run\n" in out and "bad: its summary.json is damaged" in out, place


def test_a_run_names_classes_that_are_not_imported(tmp_path, place):
    """Or a stranger's config could run what lies in the current folder; what the user trusts is,
    for its defaults.
    """
    Path("theirs.py").write_text(
        "open('ran', 'w').close()\nclass Basis:\n    def __init__(self, k=3): pass\n"
    )
    for name, arguments in (("a", {"k": 3}), ("b", {})):
        path = {
            "model.init_args.parameterization": {
                "class_path": "theirs.Basis",
                "init_args": arguments,
            }
        }
        write_run(tmp_path / "runs" / name, name="Basis", config=path)
    a, b = read([str(tmp_path / "runs")])[0]
    compare([a, b])
    assert not Path("ran").exists() and a.method != b.method
    main(["report", str(tmp_path / "runs")])
    assert not Path("ran").exists()
    a, b = read([str(tmp_path / "runs")], Trust.of(["report", "--trust", "theirs"]))[0]
    assert Path("ran").exists() and a.method == b.method
    Path("ran").unlink()
    del sys.modules["theirs"]
    assert main(["report", str(tmp_path / "runs"), "--trust", "theirs.Basis"]) == 0
    assert Path("ran").exists() or "theirs" in sys.modules
    sys.modules.pop("theirs", None)


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    write_run(tmp_path / "a\x1b[2Jb", corpus="c\x1b]0;x\x07\u202ed\x9b", device="\x00")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    files = [tmp_path / "out" / f"report.{end}" for end in ("md", "html")]
    for text in (capsys.readouterr().out, *(file.read_text() for file in files)):
        assert not set("\x1b\x07\u202e\x9b\x00") & set(text)
        assert "c\ufffd]0;x\ufffd\ufffdd\ufffd" in text.replace("\\", "")


def test_paths_are_as_given(tmp_path, monkeypatch):
    """A sweep that is a link to another disk is shown by its own name; a run that is met twice is
    there once.
    """
    write_run(tmp_path / "disk" / "a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "runs").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "here")
    (run,), _ = read(["runs", str(tmp_path / "disk")])
    assert run.path == "runs/a" and run.name == "a"
    monkeypatch.chdir(tmp_path / "disk" / "a")
    (run,), _ = read(["."])
    assert run.name == "a"
