"""--force replaces what zoo wrote, and nothing else: a report lists its files, and a name alone
proves nothing.
"""

import json
from pathlib import Path

import pytest
from conftest import refused
from every import thinned
from report_runs import write_run

from zoo.__main__ import main
from zoo.studies.folder import facts
from zoo.studies.journal import is_journal

ARGV = ["report", "runs", "--out", "out"]
FORMS = {
    "analysis": ["analyze"],
    "mask": ["mask", "--budgets", "50", "--order", "frequency", "--save"],
}


@pytest.fixture
def reported(place, monkeypatch):
    """A report with one figure, quickly drawn."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("zoo.studies.report.figures.figures", lambda data: {"gaps": Figure((1, 1))})
    write_run(Path("runs/a"))
    assert main(ARGV) == 0
    return Path("out")


def test_a_report_lists_its_files(reported):
    listed = json.loads((reported / "report.json").read_text())["files"]
    assert (
        listed
        == sorted(listed)
        == sorted(
            path.relative_to(reported).as_posix() for path in reported.rglob("*") if path.is_file()
        )
    )
    assert "figures/gaps.png" in listed and "report.csv" in listed
    assert main([*ARGV, "--force"]) == 0


@pytest.mark.parametrize(
    "mine", ["figures/my.png", "figures/my.svg", "masked/x.safetensors", "notes.txt", "mask.json"]
)
def test_a_file_of_the_users_own_is_in_the_way(reported, capsys, mine):
    (reported / mine).parent.mkdir(exist_ok=True)
    (reported / mine).write_text("mine")
    refused(capsys, [*ARGV, "--force"], f"'{mine}'", "--force", "another --out")
    assert (reported / mine).read_text() == "mine"


def test_a_list_that_names_what_no_report_has(reported, capsys):
    """A report may come from anyone, and say that it wrote ../x or notes.txt."""
    data = json.loads((reported / "report.json").read_text())
    for mine in ("notes.txt", "figures/a.txt", "deep/figures/x.png"):
        (reported / mine).parent.mkdir(exist_ok=True, parents=True)
        (reported / mine).write_text("mine")
        (reported / "report.json").write_text(
            json.dumps({**data, "files": [*data["files"], mine, "../runs", 3, {}]})
        )
        refused(capsys, [*ARGV, "--force"], f"'{mine}'", "another --out")
        (reported / mine).unlink()


@pytest.mark.parametrize("listed", [None, "x", {}, 3])
def test_a_report_without_a_list(reported, capsys, listed):
    """Of an older version: what lies at its top is known, and a figure may be anybody's."""
    data = json.loads((reported / "report.json").read_text())
    data |= {"files": listed}
    if listed is None:
        del data["files"]
    (reported / "report.json").write_text(json.dumps(data))
    refused(capsys, [*ARGV, "--force"], "another --out")
    for figure in (reported / "figures").iterdir():
        figure.unlink()
    if listed is None:
        assert main([*ARGV, "--force"]) == 0
    else:
        refused(capsys, [*ARGV, "--force"], "another --out")


def test_a_page_without_a_report_is_anybodys(place, capsys):
    write_run(Path("runs/a"))
    Path("out").mkdir()
    Path("out/report.html").write_text("mine")
    refused(capsys, [*ARGV, "--force"], "another --out")


def test_a_file_that_comes_meanwhile_is_kept(reported, monkeypatch):
    """While the report is made."""

    def later(*args):
        (reported / "figures" / "mine.png").write_text("mine")
        return facts(*args)

    monkeypatch.setattr("zoo.studies.report.public.facts", later)
    main([*ARGV, "--force"])
    assert (reported / "figures" / "mine.png").read_text() == "mine"


@pytest.mark.parametrize("name", thinned(FORMS, "mask".__eq__))
def test_analyses_and_masks(char, capsys, name):
    command, *options = FORMS[name]
    argv = [command, char, *options, "--out", "out"] + (
        ["--null", "5"] if command == "analyze" else []
    )
    assert main(argv) == 0
    listed = json.loads(Path(f"out/{name}.json").read_text())["files"]
    assert listed == sorted(
        path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()
    )
    inside = Path("out/masked" if name == "mask" else "out/figures")
    mine = inside / f"mine{next(inside.iterdir()).suffix}"
    mine.write_text("mine")
    refused(capsys, [*argv, "--force"], f"'{mine.relative_to('out')}'", "another --out")
    mine.unlink()
    assert main([*argv, "--force"]) == 0


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", True),
        ('\n["a", 0.5]\n["b"', True),
        ('\n["a"', True),
        ("\n[", True),
        ("mine", False),
        ('{"a": 1}', False),
        ('["a"]\n["b"]', False),
        ("[1, 2]", False),
    ],
)
def test_which_file_is_a_journal(tmp_path, content, found):
    (tmp_path / "evaluations.jsonl").write_text(content)
    assert is_journal(tmp_path / "evaluations.jsonl") is found


def test_evaluations_of_the_users_own_stay(char, capsys):
    Path("out").mkdir()
    Path("out/evaluations.jsonl").write_text('{"mine": 1}\n')
    refused(capsys, ["mask", char, "--budgets", "5", "--out", "out"], "'out'", "another --out")
    refused(
        capsys, ["mask", char, "--budgets", "5", "--out", "out", "--force"], "'evaluations.jsonl'"
    )
