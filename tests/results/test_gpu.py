"""`results/gpu.sh`: rows are whole whatever cuts them, a mistake is one line, a part that fails
ends alone.
"""

import csv
import errno
import fcntl
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from results.gpu import PARTS, Part
from results.gpu import __main__ as command
from results.gpu.frame import folder, options, process
from results.gpu.frame.part import AGAIN
from results.gpu.frame.rows import Table
from results.gpu.frame.rows import read as rows_of
from results.gpu.frame.setting import Setting
from results.gpu.frame.summary import summary

SOURCE = {
    "command": "bash results/gpu.sh",
    "commit": "abc",
    "device": "none, really",
    "date": "2026-11-29",
}


def table(path: Path, **source) -> Table:
    return Table(path, ("size", "way"), ("ms",), {**SOURCE, **source})


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_is_read_back_as_it_was_written(tmp_path):
    first = table(tmp_path / "t.csv")
    first.write(size=1024, way="fft, both sides", ms=0.123456)
    assert read(tmp_path / "t.csv") == [
        {"size": "1024", "way": "fft, both sides", "ms": "0.1235", **SOURCE}
    ]
    assert table(tmp_path / "t.csv").has(size=1024, way="fft, both sides")
    assert not table(tmp_path / "t.csv").has(size=1024, way="products")


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_cut_leaves_whole_rows(tmp_path, cut):
    path = tmp_path / "t.csv"
    for size in (1, 2):
        table(path).write(size=size, way="x", ms=1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    again = table(path)
    assert [again.has(size=size, way="x") for size in (1, 2)] == [True, False]
    again.write(size=2, way="x", ms=2.0)
    assert [row["size"] for row in read(path)] == ["1", "2"]


def test_a_column_that_no_table_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no columns"):
        table(tmp_path / "t.csv").write(size=1, way="x", seconds=1)
    with pytest.raises(ValueError, match="other columns"):
        Table(tmp_path / "t.csv", ("size",), ("ms",), SOURCE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "kernel"], "--only has no part 'kernel'"),
        (["--only", ","], "--only names no part"),
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--minutes", "1e9"], "--minutes must be above 0 and at most"),
        (["--minutes", "nine"], "invalid float value: 'nine'"),
        (["--smal", "--out"], "argument --out: expected one argument"),
        (["kernels"], "unrecognized arguments: kernels"),
        (["--data", "nowhere"], "--data 'nowhere' is no folder"),
        (["--data", "."], "--data '.' has no tinyshakespeare/input.txt"),
        (["--wheels", "nowhere"], "--wheels 'nowhere' is no folder"),
        (["--only", "characters"], "the part characters needs --data"),
        (["--only", "kernels"], "has no CUDA"),
        (["--only", "kernels", "--small", "--out", "file"], "--out 'file'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(place, capsys, words, said):
    (place / "file").write_text("")
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in place.iterdir()] == ["file"]


def test_rows_of_another_commit_or_device_are_not_gone_on_with(place, capsys):
    (place / "gpu").mkdir()
    table(place / "gpu" / "kernels.csv", commit="older").write(size=1, way="x", ms=1.0)
    assert command.main(["--small", "--only", "kernels"]) == 2
    assert "other columns" in capsys.readouterr().err
    (place / "gpu" / "kernels.csv").unlink()
    part = PARTS["blocks"]
    source = {**SOURCE, "command": "bash results/gpu.sh --small"}
    Table(place / "gpu" / "blocks.csv", part.case, part.measured, source).write(
        **dict.fromkeys(part.case, 1)
    )
    assert command.main(["--small", "--only", "kernels"]) == 2
    assert "rows of another commit, 'abc'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("known", "pattern"),
    [("abc", "abc"), ("abc+", r"abc\+ sources [0-9a-f]{7}"), (None, "sources [0-9a-f]{7}")],
)
def test_code_that_no_commit_names_is_told_by_its_hash(monkeypatch, known, pattern):
    monkeypatch.setattr("zoo.provenance.commit", lambda: known)
    assert re.fullmatch(pattern, folder._commit())


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace(b"2,x", b"2,\0"),
        lambda whole: whole.replace(b"2,x,", b"2,"),
        lambda whole: whole.replace(b"2,x", b'2,"x'),
        lambda whole: whole.replace(b"2,x", b"2,\xff"),
        lambda whole: whole.decode().encode("utf-16"),
        lambda whole: whole[5:],
    ],
)
def test_a_damaged_table_is_a_mistake_and_stays_as_it_is(place, capsys, monkeypatch, damage):
    parts = {"kernels": Part(1, 0, ("size", "way"), ("ms",))}
    for module in (command, folder, options):
        monkeypatch.setattr(module, "PARTS", parts)
    path = place / "kernels.csv"
    for size in (1, 2, 3):
        table(path).write(size=size, way="x", ms=1.0)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    assert command.main(["--small", "--out", ".", "--only", "kernels"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu.sh: --out: 'kernels.csv' ") and said.count("\n") == 1
    assert path.read_bytes() == damaged and [each.name for each in place.iterdir()] == [
        "kernels.csv"
    ]


def test_a_row_that_does_not_fit_the_disk_leaves_none_of_it(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    table(path).write(size=1, way="x", ms=1.0)
    opened = Path.open

    class Full(io.FileIO):
        def write(self, line):
            return super().write(line[:9])

    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: Full(self, "ab") if "ab" in a else opened(self, *a, **k)
    )
    whole = table(path)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        whole.write(size=2, way="x", ms=1.0)
    assert [row["size"] for row in rows_of(path, whole.columns)] == ["1"]
    assert path.read_bytes().endswith(b"\n")


def test_a_text_of_several_lines_is_one_row(tmp_path):
    table(tmp_path / "t.csv").write(size=1, way="a\nb\x85\0", ms=1.0)
    assert read(tmp_path / "t.csv")[0]["way"] == "a b  "
    assert table(tmp_path / "t.csv").has(size=1, way="a\nb\x85\0")


def test_two_runs_do_not_write_into_one_folder(place, capsys):
    (place / "gpu").mkdir()
    number = os.open(place / "gpu", os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    assert command.main(["--small", "--only", "kernels"]) == 2
    assert "is being written by another run" in capsys.readouterr().err
    os.close(number)


@pytest.mark.parametrize("content", [b"", b"To be", "To be".encode("utf-16")])
def test_a_corpus_that_is_another_is_said_before_anything_starts(place, capsys, content):
    (place / "tinyshakespeare").mkdir()
    (place / "tinyshakespeare" / "input.txt").write_bytes(content)
    assert command.main(["--small", "--data", "."]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu.sh: --data: ") and said.count("\n") == 1
    assert not (place / "gpu").exists()


@pytest.mark.parametrize("name", ["thresholds", "blocks"])
def test_a_folder_without_rows_is_one_line_to_who_prints_constants(place, capsys, name):
    """None, several, one that is missing or empty, and tables that are damaged."""
    module, part = importlib.import_module(f"results.gpu.{name}"), PARTS[name]
    path = place / f"{name}.csv"
    head = ",".join([*part.case, *part.measured, *SOURCE]) + "\n"
    assert (
        module.main([])
        == module.main(["a", "b"])
        == module.main(["nowhere"])
        == module.main(["."])
        == 2
    )
    changed = [
        "fft" if column in ("threshold", "first") else "x"
        for column in [*part.case, *part.measured, *SOURCE]
    ]
    for content in ("size,ms\n1,2\n", head + "1,2\n", head + ",".join(changed) + "\n", head + "\0"):
        path.write_text(content)
        if "\0" not in content or name == "blocks":  # no row is whole
            assert module.main(["."]) == 2, content
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"{name}: ") for line in said) and len(said) >= 7


# ---- Processes -----------------------------------------------------------------------------------


def alive(number: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(number: int) -> bool:
    """Whether a process ends before it would by itself."""
    end = time.monotonic() + 30
    while alive(number) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(number)


def shell(text: str, seconds: float = 20.0) -> process.Ended:
    return process.run(["sh", "-c", text], os.environ, seconds)


def test_what_a_part_says_is_read_while_it_runs():
    status, said = shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; printf '\\377 last'; exit 3")
    assert status == 3 and said.endswith("\ufffd last") and len(said) <= process.KEPT


def test_a_part_that_hangs_is_killed_with_what_it_started():
    start = time.monotonic()
    status, said = shell("trap '' TERM; sleep 60 & echo $!; wait; sleep 60", 0.3)
    assert status is None and time.monotonic() - start < 40 and gone(int(said))


def test_what_a_part_leaves_behind_is_killed():
    status, said = shell("sleep 60 & echo $!")
    assert status == 0 and gone(int(said))
    assert shell("kill -9 $$").status == -signal.SIGKILL


def test_a_part_ends_with_the_process_that_started_it(tmp_path):
    code = (
        f"import os; from results.gpu.frame import process; process.run(['sh', '-c', "
        f"'sleep 60 & sleep 0.5; echo $! > {tmp_path}/n; wait'], os.environ, 60)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root) as parent:
        number, end = "", time.monotonic() + 30
        while not number.endswith("\n") and time.monotonic() < end:
            time.sleep(0.02)
            with suppress(OSError):
                number = (tmp_path / "n").read_text()
        assert alive(int(number))
        parent.kill()
    assert gone(int(number))


def test_a_signal_ends_the_run_in_one_line(place, capsys, monkeypatch):
    monkeypatch.setattr(command, "check", lambda options: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert command.main(["--small"]) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert said.startswith("gpu.sh: stopped by SIGTERM") and said.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_reader_that_goes_does_not_end_the_run(tmp_path):
    code = (
        "from results.gpu.__main__ import _say\nfor _ in range(3): _say('x' * 99)\nopen('end', 'w')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"") and (tmp_path / "end").exists()


@pytest.mark.parametrize(
    ("words", "place_of"), [("--only x", "link"), ("--only x", "a folder/link")]
)
def test_it_may_be_called_through_a_link_beside_other_modules(place, words, place_of):
    """Those of the current folder are not imported."""
    for name in ("results/__init__.py", "packaging.py", "argparse.py", "zoo.py"):
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('not this one')")
    link = place / place_of
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path(__file__).parents[2] / "results" / "gpu.sh")
    ended = subprocess.run(
        ["bash", str(link), *words.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert ended.returncode == 2 and ended.stderr.startswith("gpu.sh: --only has no part 'x'"), (
        ended.stderr
    )


def test_a_python_that_lacks_everything_is_one_line(place):
    script = Path(__file__).parents[2] / "results" / "gpu.sh"
    ended = subprocess.run(
        ["bash", script], capture_output=True, text=True, env={**os.environ, "PYTHON": "false"}
    )
    assert ended.returncode == 2 and ended.stderr.startswith("gpu.sh: 'false' is no Python")
    assert ended.stderr.count("\n") == 1


# ---- Parts ---------------------------------------------------------------------------------------


def test_a_part_that_fails_is_named_and_the_next_one_runs(place, capsys, monkeypatch):
    parts = {name: Part(1, 0, ("size",), ("ms",)) for name in ("fails", "ends")}
    (place / "results").mkdir()
    monkeypatch.setattr("results.gpu.PARTS", parts)
    for module in (command, folder, options):
        monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setattr("results.gpu.frame.summary.PARTS", {})
    started = []

    def part(name, seconds, most, options, source):
        started.append(name)
        return "RuntimeError: an illegal memory access" if name == "fails" else ""

    monkeypatch.setattr(command, "_part", part)
    assert command.main(["--small", "--only", "fails, ends,fails,"]) == 1
    assert started == ["fails", "ends"]
    assert "fails failed: RuntimeError: an illegal memory access" in capsys.readouterr().out


@pytest.mark.parametrize(("left", "runs"), [(100.0, 2), (5.0, 1)])
def test_a_poisoned_process_is_followed_by_another_while_there_is_time(
    tmp_path, capsys, monkeypatch, left, runs
):
    ends = [process.Ended(AGAIN, "RuntimeError: an illegal memory access"), process.Ended(0, "")]
    monkeypatch.setattr(command.process, "run", lambda *rest: ends.pop(0))
    given = command.parser().parse_args(["--small", "--out", str(tmp_path)])
    why = command._part("kernels", left, left + 15, given, dict.fromkeys(SOURCE, "x"))
    assert len(ends) == 2 - runs and why == (
        "" if runs == 2 else "RuntimeError: an illegal memory access"
    )
    assert ("another process goes on" in capsys.readouterr().out) == (runs == 2)


def test_every_part_has_a_module_that_measures_and_says_lines(tmp_path):
    for name in PARTS:
        module = importlib.import_module(f"results.gpu.{name}")
        assert callable(module.measure) and module.lines([]) is not None
    said = summary(tmp_path, {"kernels": "x" * 200}, SOURCE)
    assert all(len(line) <= 80 for line in said.splitlines())


def test_the_summary_has_thirty_lines_at_most_and_always_what_failed(tmp_path, monkeypatch):
    for name in PARTS:
        monkeypatch.setattr(
            f"results.gpu.{name}.lines", lambda rows: [f"line {i}" for i in range(9)]
        )
    monkeypatch.setattr("results.gpu.blocks.lines", lambda rows: float("of a row that was changed"))
    said = summary(tmp_path, dict.fromkeys(PARTS, "x" * 200), SOURCE).splitlines()
    assert len(said) <= 30 and said[0].startswith("none, really")
    assert [line.split()[0] for line in said[-7:]] == list(PARTS)
    assert [line for line in said if line.startswith("blocks     its rows cannot be read: ")]


def test_a_setting_comes_through_the_environment(monkeypatch, tmp_path):
    setting = Setting("cpu", True, 1.5, str(tmp_path), None, SOURCE)
    for name, value in setting.environment().items():
        monkeypatch.setenv(name, value)
    assert Setting.given() == setting
