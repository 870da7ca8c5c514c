"""A census goes on: after a kill, with a longer list, and past adapters that take too much."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import strangers
from conftest import files, refused

from zoo.__main__ import main
from zoo.studies.census import running
from zoo.studies.census.entries import Entry
from zoo.studies.journal import ADAPTERS, Journal

OPTIONS = ["--out", "out", "--draws", "5", "--transform", "dct", "--jobs", "1"]


@pytest.fixture
def begun(monkeypatch):
    """Jobs are done in this process; their names as they begin."""
    return strangers.in_this_process(monkeypatch)


def listed(*names, file="list.txt"):
    Path(file).write_text("\n".join(names))
    return ["census", file, *OPTIONS]


def statuses():
    adapters = json.loads(Path("out/census.json").read_text())["adapters"]
    return {each["entry"]["name"]: each["status"] for each in adapters}


def table(name):
    return list(csv.DictReader(io.StringIO(Path("out", name).read_text(), newline="")))


# ---- After a kill --------------------------------------------------------------------------------


def test_a_census_that_was_stopped_goes_on(place, begun, monkeypatch, capsys):
    for i, name in enumerate("abc"):
        strangers.peft(name, seed=i)
    said = []

    def stop(text):
        said.append(text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.studies.census.command._say", stop)
        assert main(listed("a", "b", "c")) == 130
    assert len(said) == 1 and begun == ["a"]
    assert [path.name for path in Path("out").iterdir()] == [ADAPTERS]
    with Path("out", ADAPTERS).open("a") as file:
        file.write('\n["0123", {"status": "anal')  # killed while it was written
    capsys.readouterr()
    assert main(listed("a", "b", "c")) == 0
    assert begun[1:3] == ["b", "c"] and {*begun[3:]} == {"a tail", "b tail", "c tail"}
    assert statuses() == dict.fromkeys("abc", "analysed")
    assert "a  2 matrices" in capsys.readouterr().out  # which is said all the same


def test_a_longer_list_goes_on_with_force(place, begun, capsys):
    for i, name in enumerate("abc"):
        strangers.peft(name, seed=i)
    assert main(listed("a", "b")) == 0
    before = Path("out/census.json").read_bytes()
    begun.clear()
    refused(capsys, listed("a", "b"), "holds an earlier report", "--force")
    assert main([*listed("b", "c", "a", "gone"), "--force"]) == 0
    assert begun == ["c", "c tail"]
    assert statuses() == {**dict.fromkeys("bca", "analysed"), "gone": "not found"}
    assert Path("out/census.json").read_bytes() != before
    begun.clear()
    strangers.peft("a", seed=7)  # another one of that name
    assert main([*listed("a", "b"), "--force"]) == 0
    assert begun == ["a", "a tail"]


def test_the_same_census_has_the_same_numbers(place, begun):
    strangers.peft("a", seed=1), strangers.loralib("b.pt", seed=2)
    assert main(listed("a", "b.pt")) == 0
    first = {name: Path("out", name).read_bytes() for name in ("census.csv", "adapters.csv")}
    os.rename("out", "first")
    assert main(listed("a", "b.pt")) == 0
    assert {row.pop("seconds") for row in table("adapters.csv")}
    assert Path("out/census.csv").read_bytes() == first["census.csv"]


def test_somebody_elses_folder_is_left_alone(place, begun, capsys):
    strangers.peft("a")
    Path("out").mkdir()
    Path("out", ADAPTERS).write_text("my own notes")
    before = files(Path("out"))
    refused(capsys, listed("a"), "give another --out")
    refused(capsys, [*listed("a"), "--force"], "give another --out")
    assert files(Path("out"))[Path("out", ADAPTERS)] == before[Path("out", ADAPTERS)]
    assert begun == []


# ---- What is left out ----------------------------------------------------------------------------


def test_what_is_there_twice_counts_once(place, begun):
    """By its path, or by its tensors under another name."""
    strangers.peft("a"), strangers.peft("copy"), strangers.peft("b", seed=1)
    assert main(listed("a", "copy", "./a", "b")) == 0
    assert statuses() == {
        "a": "analysed",
        "copy": "duplicate",
        "./a": "duplicate",
        "b": "analysed",
    }
    why = {row["adapter"]: row["why"] for row in table("adapters.csv")}
    assert why["copy"] == "the same tensors as a"
    assert {row["adapter"] for row in table("census.csv")} == {"a", "b"}
    assert json.loads(Path("out/census.json").read_text())["summary"]["counts"] == {
        "analysed": 2,
        "duplicate": 2,
    }
    assert [name for name in begun if "tail" in name] == ["a tail", "b tail"]


def test_a_census_of_nothing_is_a_mistake(place, begun, capsys):
    """One line and status 2; what was read is known when it is asked for again."""
    strangers.pointer("pointer"), strangers.many_tensors("many")
    refused(capsys, listed("pointer", "many", "gone"), "of 3 adapters none", "pointer", "LFS")
    assert not Path("out").exists() and begun == []
    strangers.nan("nan")
    assert main(listed("nan")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in Path("out").iterdir()] == [ADAPTERS]
    strangers.peft("a")
    assert main(listed("nan", "a")) == 0
    assert begun == ["nan", "a", "a tail"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--draws", "4"], "--draws must be at least 5"),
        (["--draws", "many"], "--draws"),
        (["--jobs", "-1"], "--jobs must be at least 1"),
        (["--memory", "0"], "--memory must be above 0"),
        (["--memory", "nan"], "--memory must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--minutes", "-1"], "--minutes must be above 0"),
        (["--minutes", "inf"], "above 0 and finite"),
        (["--transform", "dct,none"], "'none'"),
        (["--transform", ","], "--transform"),
        (["--darws", "5"], "--draws"),
    ],
)
def test_options_out_of_range(place, begun, capsys, words, said):
    strangers.peft("a")
    Path("list.txt").write_text("a\n")
    refused(capsys, ["census", "list.txt", "--out", "out", *words], said)
    assert begun == []


def test_lists_of_nothing(place, begun, capsys):
    Path("nothing").mkdir()
    Path("empty.txt").touch()
    for name, said in (("nothing", "no adapter"), ("empty.txt", "names no"), ("gone", "no list")):
        refused(capsys, ["census", name, "--out", "out"], said)


def test_a_list_may_have_any_columns_those_of_a_census_too(place, begun):
    """The table of one census is the list of another, and a stranger's words are no numbers."""
    strangers.peft("a")
    rows = [
        "adapter,why,matrices,dct_k90,seconds,architecture,=cmd",
        "a,because,many,x,y,DistilBERT-base,=1+1",
        "gone,who knows,few,x,y,gpt2,<script>",
    ]
    Path("list.csv").write_text("\n".join(rows))
    assert main(["census", "list.csv", *OPTIONS]) == 0
    here, gone = table("adapters.csv")
    assert (here["matrices"], here["why"], here["architecture"]) == ("2", "", "distilbert")
    assert (here["matrices_listed"], here["why_listed"]) == ("many", "because")
    assert (gone["status"], gone["matrices"], gone["matrices_listed"]) == ("not found", "", "few")
    assert (here["'=cmd"], gone["'=cmd"]) == ("'=1+1", "<script>")
    os.rename("out/adapters.csv", "again.csv")
    assert main(["census", "again.csv", *OPTIONS, "--force"]) == 0
    assert {row["status"] for row in table("adapters.csv")} == {"analysed", "not found"}


def test_names_that_are_no_text(place, begun):
    """Bytes in a file's name, half a surrogate in a config, and a terminal's commands."""
    strangers.peft("x", base_model_name_or_path="\ud800\x1b[2J<script>", seed=1)
    tensors = {key.replace("layer", "\ud800\x1b"): v for key, v in strangers.factors(1).items()}
    strangers.peft_binary("y", tensors)
    os.mkdir("all")
    os.rename("x", b"all/\xff\x1bx")
    os.rename("y", "all/=y")
    assert main(["census", "all", *OPTIONS]) == 0
    written = [Path("out", f"{name}").read_text() for name in ("census.html", "adapters.csv")]
    assert not any("\x1b" in text or "<script" in text for text in written)
    assert [row["adapter"] for row in table("adapters.csv")] == ["'=y", "\ufffd\ufffdx"]


# ---- In processes --------------------------------------------------------------------------------


def job(name, seed=0):
    return running.job_of(Entry(str(strangers.peft(name, seed=seed)), name), ["dct"], 5, 0)


def run(jobs, bounds, journal=None):
    journal = journal or Journal(None, lambda value: value)
    return running.run(jobs, bounds, 2, journal, lambda place, result: None)


def test_what_takes_too_long_is_tried_again_with_more_time(place, monkeypatch):
    journal, jobs = Journal(Path("journal"), lambda value: value), [job("a")]
    (late,) = run(jobs, running.Bounds(4, 1e-4), journal)
    assert (late["status"], late["minutes"]) == ("too slow", 1e-4)
    assert late["why"] == "it takes more than 0.0001 minutes"
    begun = strangers.in_this_process(monkeypatch)
    assert run(jobs, running.Bounds(4, 1e-4), journal)[0]["status"] == "too slow" and begun == []
    assert run(jobs, running.Bounds(4, 10), journal)[0]["status"] == "analysed"
    assert run(jobs, running.Bounds(4, 1), journal)[0]["status"] == "analysed"
    assert begun == ["a"]


def test_a_process_that_is_killed_ends_no_other(place, monkeypatch):
    """It could be the system, out of memory: the adapter has crashed, and the next is analysed."""
    start = running._start

    def killing(job, bounds, file):
        started = start(job, bounds, file)
        if job["entry"]["name"] == "a":
            started.process.kill()
        return started

    monkeypatch.setattr(running, "_start", killing)
    crashed, fine = run([job("a"), job("b", 1)], running.Bounds(4, 10))
    assert (crashed["status"], fine["status"]) == ("crashed", "analysed")
    assert crashed["why"] == "its process was ended by signal 9"


def test_what_takes_too_much_memory(place):
    tensors = strangers.factors(1, 2000, 2000, 500)
    strangers.peft("large", tensors, 500)
    jobs = [running.job_of(Entry("large", "large"), ["dct"], 5, 0)]
    (result,) = run(jobs, running.Bounds(0.02, 10))
    assert (result["status"], result["memory"]) == ("out of memory", 0.02), result


def test_a_worker_ends_with_the_census(place):
    """At the end of its standard input, whatever it is doing."""
    given = {**job("a"), "memory": 4, "result": str(place / "result")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "zoo.studies.census.worker"],
        input=json.dumps(given) + "\n",
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(running.__file__).parents[3])},
    )
    assert done.returncode == 1 and not Path("result").exists()
