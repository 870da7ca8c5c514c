"""The files of `zoo bench`: rows stay apart after a crash, and no file of the user's own is
replaced.
"""

import csv
import json
import os
from pathlib import Path

import pytest

from results.goals.__main__ import GOALS
from zoo.errors import UserError
from zoo.studies.bench.rows import SOURCE, Results

FACTS = {
    "command": '=zoo, "bench"',
    "commit": None,
    "device": "CPU",
    "threads": 1,
    "torch": "2",
    "date": "2026-11-22T",
}
ROW = {
    "case": "-c",
    "at_least": True,
    "goal": 1.0,
    "met": True,
    "note": "x",
    "median": 1.0,
    "low": 0.5,
    "high": 2.0,
}


def results(
    json_path: Path | None = None, csv_path: Path | None = None, force: bool = False
) -> Results:
    return Results(json_path, csv_path, GOALS, {"goals": None}, lambda: FACTS, force)


@pytest.mark.parametrize("cut", [1, 2, 9, 20, 40])
def test_a_line_that_was_cut_short_does_not_take_the_next_one(tmp_path, cut):
    """Within quotes or not: rows before and after it are whole."""
    path = tmp_path / "rows.csv"
    for case in ("first", "second"):
        results(csv_path=path).add([{**ROW, "case": case}])
    path.write_bytes(path.read_bytes()[:-cut])
    for case in ("third", "fourth"):
        results(csv_path=path).add([{**ROW, "case": case}])
    with path.open() as file:
        found = list(csv.DictReader(file))
    assert [row["case"] for row in found] == ["first", "second", "third", "fourth"]
    assert all(
        row["command"] == '\'=zoo, "bench"' and row["note"] == "x"
        for row in found
        if row["case"] != "second"
    )


def test_a_last_line_that_an_editor_left_open(tmp_path):
    path = tmp_path / "rows.csv"
    results(csv_path=path).add([ROW])
    whole = path.read_text()
    path.write_text(whole.rstrip("\n"))
    results(csv_path=path).add([ROW])
    assert path.read_text() == whole + whole.splitlines()[1] + "\n"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\x00", b'"' * 99, b"a" * 100_000])
def test_a_table_of_something_else(tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UserError, match="other columns"):
        results(csv_path=tmp_path / "rows.csv")


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for given in ({"csv_path": tmp_path / "pipe"}, {"json_path": tmp_path / "pipe"}):
        with pytest.raises(UserError, match="no regular file"):
            results(**given)


@pytest.mark.parametrize("content", ["{}", '{"rows": []}', "[]", "mine"])
def test_force_replaces_results_alone(tmp_path, content):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(UserError, match="mine.json"):
        results(tmp_path / "mine.json", force=True)
    assert (tmp_path / "mine.json").read_text() == content


def test_results_are_whole_and_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "rows.json").symlink_to(tmp_path / "disk" / "rows.json")
    for case in ("a", "b"):
        results(tmp_path / "rows.json").add([{**ROW, "case": case}])
    assert (tmp_path / "rows.json").is_symlink()
    assert [row["case"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == [
        "a",
        "b",
    ]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "rows.json", "rows.json"]
    assert set(SOURCE) <= {"command", "commit", "device", "date"}
