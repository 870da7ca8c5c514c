"""`zoo.report` from Python: the command's tables as data frames, in full precision."""

import json
from pathlib import Path

import pandas as pd
import pytest
from report_runs import write_run, write_sweep

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.studies.report.public import report

LOSSES = {"Dense": [1.500, 1.520, 1.490], "DCT": [1.511, 1.520, 1.514], "LoRA": [1.6, 1.7, 1.65]}


@pytest.fixture
def runs(place):
    top = write_sweep(place / "runs", LOSSES)
    curve = {"val/loss": [(200, 1.7), (400, 1.5)], "stable_rank/a": [(200, 3.0), (400, 4.0)]}
    for lr, loss in ((0.01, 1.6), (0.02, 1.55)):
        write_run(top / f"found-{lr}", loss, 7, lr, events=curve)
    write_run(top / "other", 2.0, steps=100)
    (top / "broken").mkdir()
    (top / "broken" / "summary.json").write_text("{")
    return place / "runs"


def test_it_is_what_the_command_prints_and_writes(runs, capsys):
    found = report(runs, margin=0.1, out="python")
    assert main(["report", str(runs), "--margin", "0.1", "--out", "command"]) == 0
    end = "\n\nwritten to  command\nlook        command/report.html\n"
    assert capsys.readouterr().out == f"{found}{end}"
    names = ("report.csv", "report.json")
    told, written = ({n: Path(p, n).read_text() for n in names} for p in ("python", "command"))
    assert told["report.csv"] == written["report.csv"]
    one, other = (json.loads(each["report.json"]) for each in (told, written))
    of_the_call = ("command", "date", "seconds")
    assert {k: v for k, v in one.items() if k not in of_the_call} == {
        k: v for k, v in other.items() if k not in of_the_call
    }
    assert one["command"] == f"zoo.report('{runs}', margin=0.1, out='python')"
    table = pd.read_csv("command/report.csv")
    pd.testing.assert_frame_equal(
        table.astype({"equivalent": "boolean"}), found.methods, check_dtype=False
    )


def test_frames(runs):
    found = report([runs])
    methods = found.methods[found.methods.comparison == found.comparisons.comparison[0]]
    dct = methods.set_index("method").loc["DCT ratio=0.5"]
    assert dct["mean"] == sum(LOSSES["DCT"]) / 3 and (dct.n, dct.lr) == (3, 0.01)
    assert found.methods.dtypes[["mean", "gap", "gap_p", "seconds"]].unique().tolist() == [
        "float64"
    ]
    assert found.methods.dtypes[["n", "coefficients", "trainable"]].unique().tolist() == ["Int64"]
    assert found.comparisons.runs.sum() == len(found.runs) == 12
    assert found.comparisons[["metric", "better"]].values.tolist() == [["loss", "lower"]] * 2
    assert found.search.value.tolist() == [1.6, 1.55] and found.search.chosen.tolist() == [1, 0]
    curves = found.curves[found.curves.path == "runs/found-0.01"]
    assert curves[["quantity", "step", "value"]].values.tolist() == [
        ["value", 200, pytest.approx(1.7)],
        ["value", 400, pytest.approx(1.5)],
        ["stable_rank", 200, 3.0],
        ["stable_rank", 400, 4.0],
    ]
    assert found.skipped.values.tolist() == [["runs/broken", "its summary.json is damaged"]]
    assert list(report(runs / "other").skipped) == ["path", "why"]


def test_nothing_is_written_unless_it_is_asked_for(runs, capsys):
    before = sorted(Path().rglob("*"))
    found = report(runs)
    assert sorted(Path().rglob("*")) == before and capsys.readouterr() == ("", "")
    assert repr(found).startswith(
        "<Report on tiny / CharLM, steps=400, tiny / CharLM, steps=100: 1"
    )
    found.save("later")
    assert {"report.html", "report.md", "report.csv", "report.json", "figures"} == {
        path.name for path in Path("later").iterdir()
    }


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("nowhere", {}, "'nowhere' is no folder: give a run's folder, or one that contains runs"),
        (3, {}, "runs are a folder or a list of folders, got 3"),
        (None, {}, "runs are a folder or a list of folders, got None"),
        ([3], {}, "runs are a folder or a list of folders, got [3]"),
        ([], {}, "there is nothing to compare: give a folder with runs"),
        ("runs", {"margin": 0}, "margin must be above 0, got 0"),
        ("runs", {"reference": "none"}, "no method 'none'; reference takes one of: "),
        ("runs", {"force": True}, "force replaces an earlier report, and goes with out"),
        ("runs/broken", {}, "no finished run in 'runs/broken': 'runs/broken': its summary.json is"),
        (
            "runs",
            {"out": "runs"},
            "'runs' is there already, and is not overwritten: give another o",
        ),
    ],
)
def test_mistakes_are_one_line(runs, given, options, message):
    with pytest.raises(UserError) as error:
        report(given, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert "--" not in str(error.value)
