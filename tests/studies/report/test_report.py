"""`zoo report`: the table in the terminal, the files of --out, and mistakes in one line."""

import csv
import json
import re
import subprocess
import sys

import pytest
from report_runs import write_run, write_sweep

from zoo.__main__ import main

LOSSES = {
    "Dense": [1.500, 1.520, 1.490],
    "DCT": [1.511, 1.520, 1.514],
    "RandomOrthonormal": [1.600, 1.700, 1.650],
}
FILES = {"report.html", "report.md", "report.csv", "report.json", "figures"}


@pytest.fixture
def runs(place):
    write_sweep(place / "runs", LOSSES)
    return place / "runs"


def printed(capsys, *words):
    assert main(["report", *words]) == 0
    return capsys.readouterr().out


def test_the_table(runs, capsys):
    """One row per method, best first, within 80 columns."""
    out = printed(capsys, "runs")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "tiny / CharLM" and "steps 400" in out and "width 128" in out
    row = {line.split()[0]: line.split() for line in lines if re.search(r"\d% +0\.01 ", line)}
    assert list(row) == ["Dense", "DCT", "RandomOrthonormal"]
    assert row["Dense"][1:] == ["100%", "0.01", "3", "1.503", "0.015", "10.0"]
    assert row["DCT"][2:] == [
        "50%",
        "0.01",
        "3",
        "1.515",
        "0.005",
        "+0.012",
        "[-0.018,+0.042]",
        "no",
        "10.0",
    ]
    assert row["RandomOrthonormal"][-4] == "+0.147"
    assert "search  no search, one learning rate" in out and "paired 95 % interval" in out.replace(
        "\n        ", " "
    )


def test_a_wider_margin_is_met(runs, capsys):
    rows = {
        margin: next(
            line
            for line in printed(capsys, "runs", "--margin", margin).splitlines()
            if "DCT" in line
        )
        for margin in ("0.024", "0.1")
    }
    assert rows["0.024"].split()[-2] == "no" and rows["0.1"].split()[-2] == "yes"


def test_one_run_has_no_empty_columns(place, capsys):
    write_run(place / "a", 1.25)
    head, row = next(
        (a, b)
        for a, b in zip(*[printed(capsys, "a").splitlines()[i:] for i in (0, 1)], strict=False)
        if a.startswith("method")
    )
    assert head.split() == ["method", "share", "lr", "n", "loss", "rank"]
    assert row.split() == ["DCT", "ratio=0.5", "50%", "0.01", "1", "1.250", "10.0"]


def test_a_row_says_what_is_odd_about_it(runs, capsys):
    """A count that is not its budget's, a rate tuned on its own seed, seeds that diverged, several
    devices.
    """
    for i, (loss, changes) in enumerate([(1.0, {"device": "GPU"}), (float("nan"), {}), (2.0, {})]):
        write_run(runs / f"z{i}", loss, i, name="Zigzag", coefficients=5200, **changes)
    for lr in (0.01, 0.02):
        write_run(runs / f"l{lr}", lr, 1, lr, "LoRA")
    lines = printed(capsys, "runs").splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("Zigzag"))
    assert [line.strip() for line in lines[place + 1 : place + 4]] == [
        "count +4.0 %",
        "1 diverged",
        "2 devices",
    ]
    assert "0.01*" in next(line for line in lines if line.startswith("LoRA")).split()
    assert "0.01" in lines[place].split() and any(line.startswith("*  ") for line in lines)


COST = {
    "rows": 1024,
    "forward_flops": 2e4,
    "training_flops": 61_000,
    "total_training_flops": 61_000 * 1024 * 400,
    "checkpoint_bytes": 20_400,
    "decode_bytes": 40_000,
}


def test_costs_stand_below_and_older_runs_have_none(runs, capsys):
    """Of the mean over the runs that say them; a cost that is none leaves its run out by itself."""
    assert "cost  " not in printed(capsys, "runs")
    for i, flops in enumerate((61_000, 63_000, None)):
        cost = {**COST, "training_flops": flops}
        write_run(runs / f"z{i}", 1.4 + i / 10, i, name="Zigzag", cost=cost)
    for i, cost in enumerate(({"training_flops": "much"}, [1], {"rows": -1})):
        write_run(runs / f"bad{i}", 1.0, 7, name="LoRA", cost=cost)
    out = printed(capsys, "runs", "--out", "there")
    assert max(map(len, out.splitlines())) <= 80 and out.count("json is damaged: cost\n") == 3
    start = out.index("method", out.index("\nsearch  "))
    rows = {line.split()[0]: line.split() for line in out[start:].splitlines()[:5] if line}
    assert rows["Zigzag"][2:] == ["5,100", "20.4", "kB", "40", "kB", "20k", "62k", "25G"]
    assert rows["DCT"][2:] == ["5,100", *"-----"]
    (comparison,) = json.loads((runs.parent / "there" / "report.json").read_text())["comparisons"]
    assert list(comparison["frontiers"].values()) == [["Zigzag ratio=0.5"]] * 3
    assert (runs.parent / "there" / "figures" / "loss_by_cost.png").exists()
    text = (runs.parent / "there" / "report.md").read_text()
    assert "| 20.4 kB | 62k |" in text and "No other is as cheap and as good" in text
    assert "forward and backward, 1,024 at once" in text


def test_what_was_left_out_is_counted_and_named(runs, capsys):
    (write_run(runs / "bad") / "summary.json").write_text("{")
    (write_run(runs / "killed") / "summary.json").unlink()
    out = printed(capsys, "runs")
    assert "left out  2 runs" in out
    assert "runs/bad: its summary.json is damaged" in out and "runs/killed: not finished" in out


def test_the_files(runs, capsys):
    out = printed(capsys, "runs", "--out", "there")
    assert "look        there/report.html" in out
    assert {path.name for path in (runs.parent / "there").iterdir()} == FILES
    data = json.loads((runs.parent / "there" / "report.json").read_text())
    assert data["command"] == "zoo report runs --out there"
    (comparison,) = data["comparisons"]
    rows = list(csv.DictReader((runs.parent / "there" / "report.csv").read_text().splitlines()))
    assert len(rows) == 3
    for row in rows:
        method = next(m for m in comparison["methods"] if m["method"] == row["method"])
        for key in ("n", "mean", "sd", "low", "high", "coefficients", "lr"):
            assert float(row[key]) == pytest.approx(method[key])
        gap = method["gap"] or {"mean": None}
        assert (
            row["gap"] == ""
            if gap["mean"] is None
            else float(row["gap"]) == pytest.approx(gap["mean"])
        )
        assert float(row["stable_rank"]) == 10.0
    page = (runs.parent / "there" / "report.html").read_text()
    text = (runs.parent / "there" / "report.md").read_text()
    for name in ("DCT ratio=0.5", "RandomOrthonormal ratio=0.5"):
        assert name in page and name in text
    figures = sorted(path.suffix for path in (runs.parent / "there" / "figures").iterdir())
    assert set(figures) == {".png", ".svg"} and figures.count(".png") == figures.count(".svg") > 0


def test_an_earlier_report_is_replaced_with_force_only(runs, capsys, monkeypatch):
    monkeypatch.setattr("zoo.studies.report.figures.figures", lambda data: {})
    printed(capsys, "runs", "--out", "there")
    before = (runs.parent / "there" / "report.json").read_bytes()
    assert main(["report", "runs", "--out", "there"]) == 2
    assert "replace it with --force" in capsys.readouterr().err
    assert (runs.parent / "there" / "report.json").read_bytes() == before
    write_run(runs / "more", 1.0, 1, name="Zigzag")
    printed(capsys, "runs", "--out", "there", "--force")
    assert "Zigzag" in (runs.parent / "there" / "report.md").read_text()
    (runs.parent / "there" / "notes.txt").write_text("mine")
    assert main(["report", "runs", "--out", "there", "--force"]) == 2
    assert (
        "notes.txt" in capsys.readouterr().err
        and (runs.parent / "there" / "notes.txt").read_text() == "mine"
    )


def test_a_report_that_fails_leaves_nothing(runs, monkeypatch):
    monkeypatch.setattr("zoo.studies.report.figures.figures", lambda data: {})
    monkeypatch.setattr("zoo.studies.report.markdown.markdown", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["report", "runs", "--out", "there"])
    assert [path.name for path in runs.parent.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "'nowhere' is no folder"),
        (["empty"], "no run in 'empty'"),
        (
            ["killed"],
            "no finished run in 'killed': 'killed/a': not finished: it has no summary.json; "
            "train some",
        ),
        (["runs", "--margin", "0"], "--margin must be above 0, got 0.0"),
        (["runs", "--margin", "nan"], "--margin must be above 0, got nan"),
        (["runs", "--margin", "wide"], "invalid float value: 'wide'"),
        (
            ["runs", "--reference", "Dens"],
            "no method 'Dens'; --reference takes one of: Dense; DCT ratio=0.5;",
        ),
        (["runs", "--force"], "--force replaces an earlier report, and goes with --out"),
        (["runs", "--out", "runs"], "'runs' is there already"),
        (["runs", "--outt", "x"], "no option '--outt'; did you mean '--out'?"),
    ],
)
def test_a_mistake_is_one_line(runs, capsys, words, said):
    (runs.parent / "empty").mkdir()
    (write_run(runs.parent / "killed" / "a") / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in runs.parent.rglob("*")}
    assert main(["report", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("zoo: ") and said in err
    assert {path: path.stat().st_mtime_ns for path in runs.parent.rglob("*")} == before


@pytest.mark.slow
def test_a_table_needs_no_lightning(runs):
    code = (
        "import sys; from zoo.__main__ import main; main(['report', 'runs']); "
        "print('lightning' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=runs.parent
    )
    assert result.stdout.splitlines()[-1] == "False"
