"""What a census is of: lists, folders, and what is named in them twice, wrongly or not at all."""

import os
from pathlib import Path

import pytest
import strangers

from zoo.errors import UserError
from zoo.studies.census.entries import read_list
from zoo.studies.census.running import before_reading, job_of, key_of


def named(path):
    return [(entry.what, entry.name, entry.status) for entry in read_list(str(path))]


def test_a_text_has_one_adapter_a_line(place):
    strangers.peft("a"), strangers.loralib("lib/b.bin")
    Path("list.txt").write_text("# head\n\n  a  # one\nlib/b.bin\n./a\nmissing\nme/on-a-hub\n")
    assert named("list.txt") == [
        ("a", "a", ""),
        ("lib/b.bin", "lib/b.bin", ""),
        ("", "./a", "duplicate"),
        ("missing", "missing", ""),
        ("me/on-a-hub", "me/on-a-hub", ""),
    ]


def test_paths_are_relative_to_the_list_and_a_missing_one_is_asked_of_no_hub(place):
    """`lists/b` looks like a hub's name, and nobody has given it."""
    strangers.peft("lists/a")
    Path("lists/list.txt").write_text("a\nb\n")
    here, gone = read_list("lists/list.txt")
    assert (here.what, here.name) == ("lists/a", "a")
    assert before_reading(here) is None
    assert before_reading(gone).status == "not found"


def test_a_csv_says_how_an_adapter_is_read_and_keeps_what_else_it_says(place):
    strangers.loralib("b.bin")
    rows = [
        "adapter,name,before,alpha,enable_lora,cluster,status,licence,repository",
        'b.bin,the b,,16,"True, false",me,,MIT,',
        "after,,before,,,,,,you/repo",
        ",,,,,,no licence,,them/repo",
        "",
    ]
    Path("list.csv").write_text("\n".join(rows))
    one, pair, none = read_list("list.csv")
    assert (one.name, one.alpha, one.enable_lora, one.cluster) == ("the b", 16, (True, False), "me")
    assert dict(one.about) == {"licence": "MIT"}
    assert (pair.what, pair.before, pair.cluster) == ("after", "before", "you")
    assert (none.what, none.name, none.status) == ("", "them/repo", "no licence")
    assert before_reading(none).status == "no licence"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list.txt", "", "names no adapter"),
        ("list.txt", "# nothing\n\n", "names no adapter"),
        ("list.csv", "adapter\n\n", "names no adapter"),
        ("list.csv", "name\na\n", "no column adapter"),
        ("list.csv", "adapter,alpha\na,many\n", "line 2: alpha must be a number"),
        ("list.csv", "adapter,enable_lora\na,perhaps\n", "takes true and false"),
        ("list.csv", "adapter,name\na,b\n,c\n", "line 3 names no adapter"),
        ("list.csv", f"adapter\n{'x' * 200_000}\n", "no CSV file"),
    ],
)
def test_a_list_with_a_mistake(place, name, text, words):
    Path(name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_list(name)


def test_no_list(place):
    Path("empty").mkdir()
    Path("bytes").write_bytes(b"\xff\xfe\x00")
    for name, words in (
        ("nowhere", "no list"),
        ("", "no list"),
        ("empty", "no adapter lies"),
        ("bytes", "UTF-8"),
    ):
        with pytest.raises(UserError, match=words):
            read_list(name)


def test_a_folder_has_adapters_at_any_depth(place):
    """Below an adapter are its checkpoints, of its cluster; links are not followed."""
    strangers.peft("all/a")
    strangers.peft("all/a/checkpoint-5", seed=1)
    strangers.loralib("all/a/checkpoint-5/global/optimizer.pt", seed=2)
    strangers.peft_binary("all/b/c/d", seed=3)
    strangers.loralib("all/b/lora.bin", seed=4)
    Path("all/b/notes.txt").write_text("nothing")
    os.symlink("..", "all/b/up")
    found = [(entry.name, entry.cluster) for entry in read_list("all")]
    assert found == [
        ("a", "a"),
        ("a/checkpoint-5", "a"),
        ("b/lora.bin", "b/lora.bin"),
        ("b/c/d", "b/c/d"),
    ]
    assert [entry.name for entry in read_list("all/b/c/d")] == ["d"]


def test_a_folder_in_a_list_is_what_is_in_it(place):
    strangers.peft("all/a"), strangers.peft("all/b")
    Path("nothing").mkdir()
    Path("list.csv").write_text("adapter,licence\nall,MIT\nnothing,\nall/a,\n")
    entries = read_list("list.csv")
    assert [(e.name, e.status) for e in entries] == [
        ("all/a", ""),
        ("all/b", ""),
        ("nothing", ""),
        ("all/a", "duplicate"),
    ]
    assert {e.cluster for e in entries[:2]} == {"all"}
    assert entries[0].about == {"licence": "MIT"}
    assert before_reading(entries[2]).status == "no adapter"


def test_a_run_is_one_adapter(place):
    for name in ("runs/x/version_0", "runs/x/version_1"):
        Path(name, "checkpoints").mkdir(parents=True)
        for file in ("last.ckpt", "last.resume_6.pt"):
            Path(name, "checkpoints", file).write_bytes(b"x")
        strangers.peft(Path(name, "export-peft"))
    Path("list.txt").write_text("runs/x/version_0\nruns\n")
    found = named("list.txt")
    assert found == [
        ("runs/x/version_0", "runs/x/version_0", ""),
        ("", "runs/x/version_0", "duplicate"),
        ("runs/x/version_1", "runs/x/version_1", ""),
    ]
    assert before_reading(read_list("list.txt")[0]) is None


def test_names_that_no_file_can_have(place):
    """They are not found, and end nothing."""
    strangers.peft("a")
    names = ["x" * 5000, f"{'y' * 300}/z", "b\0c", "../../../nowhere", "~nobody-here/x", "a"]
    Path("list.txt").write_text("\n".join(names))
    entries = read_list("list.txt")
    left = [before_reading(entry) for entry in entries]
    assert [each and each.status for each in left] == [
        "not found",
        None,  # as a hub's name may be
        *["not found"] * 3,
        None,
    ]
    assert len({key_of(job_of(entry, ["dct"], 5, 0)) for entry in entries}) == len(names)


def test_commits_of_one_repository_are_different_adapters(place):
    Path("list.csv").write_text("adapter,commit\nme/mine,aaa\nme/mine,bbb\nme/mine,aaa\n")
    entries = read_list("list.csv")
    assert [entry.status for entry in entries] == ["", "", "duplicate"]
    keys = [key_of(job_of(entry, ["dct"], 5, 0)) for entry in entries[:2]]
    assert keys[0] != keys[1]


def test_a_folder_of_ten_thousand(place):
    Path("many").mkdir()
    for i in range(10_000):
        Path(f"many/{i}.bin").write_text(strangers.POINTER)
    entries = read_list("many")
    assert len({entry.what for entry in entries}) == 10_000
    assert {before_reading(entry).status for entry in entries} == {"pointer"}
