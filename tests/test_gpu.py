"""`results/gpu.sh`: rows are whole whatever cuts them, a mistake is one line, a part that fails ends alone."""

import csv
import importlib
from pathlib import Path

import pytest

from results.gpu import PARTS, Part
from results.gpu import __main__ as command
from results.gpu.frame.rows import Table
from results.gpu.frame.setting import Setting
from results.gpu.frame.summary import summary

SOURCE = {"command": "bash results/gpu.sh", "commit": "abc", "device": "none, really", "date": "2026-11-29"}


def table(path: Path, **source) -> Table:
    return Table(path, ("size", "way"), ("ms",), {**SOURCE, **source})


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_is_read_back_as_it_was_written(tmp_path):
    first = table(tmp_path / "t.csv")
    first.write(size=1024, way="fft, both sides", ms=0.123456)
    assert read(tmp_path / "t.csv") == [{"size": "1024", "way": "fft, both sides", "ms": "0.1235", **SOURCE}]
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


@pytest.mark.parametrize(("words", "said"), [
    (["--only", "kernel"], "--only has no part 'kernel'"),
    (["--only", ","], "--only names no part"),
    (["--minutes", "0"], "--minutes must be above 0"),
    (["--minutes", "nan"], "--minutes must be above 0"),
    (["--data", "nowhere"], "--data 'nowhere' is no folder"),
    (["--data", "."], "--data '.' has no tinyshakespeare/input.txt"),
    (["--wheels", "nowhere"], "--wheels 'nowhere' is no folder"),
    (["--only", "characters"], "the part characters needs --data"),
    (["--only", "kernels"], "has no CUDA"),
    (["--only", "kernels", "--small", "--out", "file"], "--out 'file'"),
])
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
    assert "other" in capsys.readouterr().err


def test_a_part_that_fails_is_named_and_the_next_one_runs(place, capsys, monkeypatch):
    parts = {name: Part(1, 0, ("size",), ("ms",)) for name in ("fails", "ends")}
    (place / "results").mkdir()
    monkeypatch.setattr("results.gpu.PARTS", parts)
    monkeypatch.setattr(command, "PARTS", parts)
    monkeypatch.setattr("results.gpu.frame.summary.PARTS", {})
    started = []

    def part(name, seconds, options, source):
        started.append(name)
        return "RuntimeError: an illegal memory access" if name == "fails" else ""

    monkeypatch.setattr(command, "_part", part)
    assert command.main(["--small", "--only", "fails,ends"]) == 1
    assert started == ["fails", "ends"]
    assert "fails failed: RuntimeError: an illegal memory access" in capsys.readouterr().out


def test_every_part_has_a_module_that_measures_and_says_lines(tmp_path):
    for name in PARTS:
        module = importlib.import_module(f"results.gpu.{name}")
        assert callable(module.measure) and module.lines([]) is not None
    said = summary(tmp_path, {"kernels": "x" * 200})
    assert all(len(line) <= 80 for line in said.splitlines())


def test_a_setting_comes_through_the_environment(monkeypatch, tmp_path):
    setting = Setting("cpu", True, 1.5, str(tmp_path), None, SOURCE)
    for name, value in setting.environment().items():
        monkeypatch.setenv(name, value)
    assert Setting.given() == setting
