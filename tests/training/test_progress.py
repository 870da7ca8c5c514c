"""`progress.json`: written while a fit trains, read with care, and in nobody's way."""

import json
import os
import time
from pathlib import Path

import pytest

from zoo.__main__ import main
from zoo.training import progress_file
from zoo.training.callbacks import progress
from zoo.training.progress_file import NAME, RunProgress

SEEN = RunProgress(50, 100, 1.9, 2.1, 1.9, 5.0, 10.0)


def test_what_was_written_is_counted_on(tmp_path):
    assert progress_file.read(tmp_path) is None
    progress_file.write(tmp_path, SEEN)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    past = time.time() - 4
    os.utime(tmp_path / NAME, (past, past))
    seen = progress_file.read(tmp_path)
    assert seen.step in (70, 71) and abs(seen.seconds_left - 6) < 0.5  # 4 seconds of 5 steps on
    assert (seen.steps, seen.loss, seen.best_val_loss) == (100, 1.9, 1.9)
    os.utime(tmp_path / NAME, (0, 0))
    seen = progress_file.read(tmp_path)
    assert (seen.step, seen.seconds_left) == (100, 0)
    progress_file.remove(tmp_path)
    progress_file.remove(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_not_known(tmp_path):
    """So that whatever reads JSON reads it."""
    values = RunProgress(0, None, float("nan"), None, float("inf"), 0.0, None)
    progress_file.write(tmp_path, values)
    assert "NaN" not in (tmp_path / NAME).read_text()
    assert progress_file.read(tmp_path) == RunProgress(0, None, None, None, None, 0.0, None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "\udcff",
        "[" * 100_000,
        {"step": "50"},
        {"step": True},
        {"step": -1},
        {"step": 1.5},
        {"step": None},
        {"steps": 1e9},
        {"loss": "x"},
        {"loss": [1]},
        {"loss": float("nan")},
        {"seconds_left": float("inf")},
        {"steps_per_second": 10**400},
        {"other": 1},
    ],
)
def test_a_file_of_somebody_elses_says_nothing(content, tmp_path):
    if isinstance(content, dict):
        content = json.dumps(vars(SEEN) | content)
    (tmp_path / NAME).write_text(content, errors="surrogateescape")
    assert progress_file.read(tmp_path) is None


def test_neither_a_pipe_nor_a_folder_is_waited_for_or_stumbled_over(tmp_path):
    os.mkfifo(tmp_path / NAME)
    assert progress_file.read(tmp_path) is None
    progress_file.write(tmp_path, SEEN)
    assert progress_file.read(tmp_path).steps == 100
    (tmp_path / NAME).unlink()
    (tmp_path / NAME / "kept").mkdir(parents=True)
    progress_file.write(tmp_path, SEEN)
    progress_file.remove(tmp_path)
    assert progress_file.read(tmp_path) is None and (tmp_path / NAME / "kept").is_dir()
    progress_file.write(tmp_path / "nowhere", SEEN)
    progress_file.remove(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_fit_says_how_far_it_is_while_it_trains(place, small, monkeypatch, capsys):
    """At every step here; once it has ended, its folder is as it was without the file."""
    monkeypatch.setattr(progress, "WRITTEN_EVERY", 0.0)
    seen, write = [], progress_file.write

    def record(folder, values):
        write(folder, values)
        seen.append((folder, progress_file.read(folder)))

    monkeypatch.setattr(progress_file, "write", record)
    words = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--name", "run"]
    assert main(["fit", "--config", "dct_half.yaml", *small, *words]) == 0
    folder = Path("runs/run/version_0")
    assert {path for path, _ in seen} == {folder} or {path for path, _ in seen} == {
        folder.resolve()
    }
    values = [each for _, each in seen]
    assert [each.steps for each in values] == [4] * 4
    assert all(each.step >= n for n, each in enumerate(values, 1)) and values[-1].step == 4
    assert all(each.loss > 0 and each.steps_per_second > 0 for each in values)
    assert values[0].best_val_loss is None
    assert values[-1].best_val_loss == values[-1].val_loss > 0
    assert not (folder / NAME).exists() and (folder / "summary.json").is_file()


def test_a_fit_goes_on_where_the_file_cannot_be_written(place, small, monkeypatch, capsys):
    """On a full disk, say, on which other files are whole already."""
    tried = []

    def full(path, on_disk=True):
        tried.append(path.name)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(progress_file, "replacing", full)
    words = ["--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", "dct_half.yaml", *small, *words]) == 0
    assert tried == [NAME] * 2  # the first and the last step, although nothing is shown
