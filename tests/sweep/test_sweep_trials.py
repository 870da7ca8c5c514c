"""Trials are finished, started, gone on with or left alone; two never run in one folder."""

import fcntl
import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from trials import TRIAL, finished

from zoo.errors import UserError
from zoo.sweep import trials
from zoo.sweep.trials import Outcome
from zoo.training import progress_file
from zoo.training.progress_file import RunProgress


def checkpointed(out, trial, name="last.ckpt"):
    folder = out / trial.name / "version_0"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / name).write_bytes(b"weights")
    (folder / "config.yaml").touch()


@pytest.fixture
def readable(monkeypatch):
    """Checkpoints that can be read, of step 50."""
    monkeypatch.setattr(trials, "_load", lambda path: {"global_step": 50, "optimizer_states": []})


WHOLE = '{"steps": 100, "seed": 1, "seconds": %s, "monitor": %s, "loss": %s, "metrics": {}}'


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        '{"steps": 100, "se',
        "[]",
        "{}",
        '{"steps": 50, "seed": 1}',
        "[" * 100_000,
        "\udcff",
        "{" * 9,
        WHOLE.replace("100", '"many"') % (1, '"val/loss"', 1),
        WHOLE.replace("1,", "[1],") % (1, '"val/loss"', 1),
        WHOLE % ("NaN", '"val/loss"', 1),
        WHOLE % ("Infinity", '"val/loss"', 1),
        WHOLE % (1, '"val/loss"', "1" + "0" * 400),
        WHOLE % (1, '"val/loss"', "[]"),
        WHOLE % (1, '"val/loss\\u001b[2J"', 1),
        (WHOLE % (1, '"val/loss"', 1)).replace("{}", "[]"),
    ],
)
def test_a_trial_without_a_whole_summary_is_not_finished(content, tmp_path):
    if content is not None:
        finished(tmp_path, TRIAL)
        path = tmp_path / TRIAL.name / "version_0" / "summary.json"
        path.write_text(content, errors="surrogateescape")
    assert trials.outcome(tmp_path, TRIAL) is None


def test_a_finished_trial_says_what_it_reached(tmp_path):
    finished(tmp_path, TRIAL, steps=60)
    assert trials.outcome(tmp_path, TRIAL) is None  # stopped early, by whatever
    finished(tmp_path, TRIAL)
    assert trials.outcome(tmp_path, TRIAL) == Outcome(1.5, True, 2.0, "loss")
    finished(
        tmp_path, TRIAL, monitor="val/score", score=0.7, metrics={"val/loss": 1.0, "val/score": 0.7}
    )
    assert trials.outcome(tmp_path, TRIAL) == Outcome(0.7, False, 2.0, "score")
    finished(tmp_path, TRIAL, value=math.nan)
    assert math.isnan(trials.outcome(tmp_path, TRIAL).value)
    for other in ({"steps": 200}, {"seed": 2}):
        finished(tmp_path, TRIAL, **other)
        with pytest.raises(UserError, match="move it away"):
            trials.outcome(tmp_path, TRIAL)


class Fits:
    """Takes the place of processes: each is (exit status, what it prints, what it leaves)."""

    def __init__(self, *results):
        self.results, self.words, self.there = list(results), [], []

    def __call__(self, words, file, there, threads):
        self.words.append(words)
        out = Path(file.name).parent
        self.there.append((out / TRIAL.name).exists())
        status, said, leave = self.results.pop(0)
        if leave:
            finished(out, TRIAL)
        return status, said


GOES_ON = ["fit", "--ckpt_path"]


@pytest.mark.parametrize(
    ("left", "results", "kinds", "why"),
    [
        ("nothing", [(0, "", True)], ["new"], None),
        ("finished", [], [], None),
        ("checkpoint", [(0, "", True)], ["on"], None),
        ("leftovers", [(0, "", True)], ["new"], None),
        ("nothing", [(2, "a\nzoo: no option\n\n", False)], ["new"], "a\nzoo: no option"),
        ("nothing", [(-9, "a\n", False)], ["new"], "a\nkilled by SIGKILL"),
        ("nothing", [(0, "", False)], ["new"], "it ended without a summary.json of all its steps"),
        ("nothing", [(1, "".join(f"{i}\n" for i in range(9)), False)], ["new"], "3\n4\n5\n6\n7\n8"),
    ],
)
def test_a_trial_is_started_gone_on_with_or_left_alone(
    left, results, kinds, why, tmp_path, monkeypatch, readable
):
    fits = Fits(*results)
    monkeypatch.setattr(trials, "_fit", fits)
    if left == "finished":
        finished(tmp_path, TRIAL)
    if left == "checkpoint":
        checkpointed(tmp_path, TRIAL)
    if left == "leftovers":
        (tmp_path / TRIAL.name / "version_0").mkdir(parents=True)
    assert trials.run(tmp_path, TRIAL, ".", 1) == why
    expected = {
        "on": ["fit", "--ckpt_path", str(tmp_path / TRIAL.name / "version_0")],
        "new": TRIAL.words(str(tmp_path)),
    }
    assert fits.words == [expected[kind] for kind in kinds]
    # a new one starts in no folder, so there is no version_1.
    assert fits.there == [kind == "on" for kind in kinds]
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (2, "zoo: no file 'corpus.txt'", "zoo: no file 'corpus.txt'"),
        (2, "zoo: No space left on device", "zoo: No space left on device"),
        (1, "Error: memory", "Error: memory"),
        (0, "", "it ended without a summary.json of all its steps"),
        (143, "zoo: stopped", "zoo: stopped"),
        (130, "zoo: stopped", "zoo: stopped"),
        (-15, "", "killed by SIGTERM"),
    ],
)
def test_an_interrupted_trial_that_cannot_go_on_now_keeps_its_checkpoint(
    status, said, why, tmp_path, monkeypatch, readable
):
    """Whatever the reason was: the same command tries again, from the same checkpoint."""
    checkpointed(tmp_path, TRIAL)
    checkpointed(tmp_path, TRIAL, "best.ckpt")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        fits = Fits((status, said, False))
        monkeypatch.setattr(trials, "_fit", fits)
        assert trials.run(tmp_path, TRIAL, ".", 1) == why
        assert [words[:2] for words in fits.words] == [GOES_ON]
        assert [
            path for path in sorted(tmp_path.rglob("*")) if path != trials.log(tmp_path, TRIAL)
        ] == before
    monkeypatch.setattr(trials, "_fit", Fits((0, "", True)))
    assert trials.run(tmp_path, TRIAL, ".", 1) is None


@pytest.mark.parametrize(
    ("names", "config", "words"),
    [
        (["last.ckpt"], True, "last.ckpt"),
        (["last.ckpt", "best.ckpt"], True, "last.ckpt"),
        (["best.ckpt"], True, "no checkpoint to go on from"),
        (["mine.safetensors"], True, "no checkpoint to go on from"),
        (["last.ckpt"], False, "no checkpoint to go on from"),
    ],
)
def test_a_checkpoint_from_which_a_trial_cannot_go_on_is_moved_aside(
    names, config, words, tmp_path, monkeypatch
):
    """With the whole folder, to a free name, and the log says so; then the trial starts anew."""
    (tmp_path / f"{TRIAL.name}.damaged-1").mkdir()
    for name in names:
        checkpointed(tmp_path, TRIAL, name)
    if not config:
        (tmp_path / TRIAL.name / "version_0" / "config.yaml").unlink()
    fits = Fits((0, "", True))
    monkeypatch.setattr(trials, "_fit", fits)
    assert trials.run(tmp_path, TRIAL, ".", 1) is None
    assert fits.words == [TRIAL.words(str(tmp_path))] and fits.there == [False]
    aside = tmp_path / f"{TRIAL.name}.damaged-2"
    for name in names:
        assert (aside / "version_0" / "checkpoints" / name).read_bytes() == b"weights"
    (line,) = trials.log(tmp_path, TRIAL).read_text().splitlines()
    assert line.startswith("zoo: ") and words in line and f"its folder is now '{aside}'" in line


def test_a_checkpoint_without_the_optimizers_state_is_moved_aside(tmp_path, monkeypatch):
    """Fit refuses to go on from it, however often it is tried."""
    checkpointed(tmp_path, TRIAL)
    monkeypatch.setattr(trials, "_load", lambda path: {"global_step": 50})
    monkeypatch.setattr(trials, "_fit", Fits((0, "", True)))
    assert trials.run(tmp_path, TRIAL, ".", 1) is None
    assert (
        tmp_path / f"{TRIAL.name}.damaged-1" / "version_0" / "checkpoints" / "last.ckpt"
    ).is_file()


def test_a_damaged_summary_is_moved_aside_too(tmp_path, monkeypatch):
    finished(tmp_path, TRIAL)
    (tmp_path / TRIAL.name / "version_0" / "summary.json").write_text("{")
    monkeypatch.setattr(trials, "_fit", Fits((0, "", True)))
    assert trials.run(tmp_path, TRIAL, ".", 1) is None
    assert (tmp_path / f"{TRIAL.name}.damaged-1" / "version_0" / "summary.json").read_text() == "{"


def test_a_checkpoint_that_cannot_be_opened_is_not_damaged(tmp_path, monkeypatch):
    """A disk that answers with an error says nothing of what is on it."""
    checkpointed(tmp_path, TRIAL)
    monkeypatch.setattr(trials, "_fit", Fits())
    last = tmp_path / TRIAL.name / "version_0" / "checkpoints" / "last.ckpt"
    real = Path.open

    def fails(path, *args, **options):
        if path == last:
            raise OSError(5, "Input/output error", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        trials.run(tmp_path, TRIAL, ".", 1)
    assert last.stat().st_size == len(b"weights") and not list(tmp_path.glob("*.damaged*"))


def test_how_far_a_killed_trial_was_is_forgotten_before_it_goes_on(tmp_path, monkeypatch, readable):
    """Else it would seem to have gone on since."""
    checkpointed(tmp_path, TRIAL)
    run, seen = trials.folder(tmp_path, TRIAL), []
    progress_file.write(run, RunProgress(50, 100, 1.0, None, None, 5.0, 10.0))

    def fit(words, *rest):
        seen.append(progress_file.read(run))
        finished(tmp_path, TRIAL)
        return 0, ""

    monkeypatch.setattr(trials, "_fit", fit)
    assert trials.run(tmp_path, TRIAL, ".", 1) is None and seen == [None]


def test_going_on_says_whom_the_user_trusts(tmp_path, monkeypatch, readable):
    """Classes that the sweep's own file names, and --trust; a new trial has the first on its
    command line already.
    """
    trial = replace(TRIAL, classes=("my_basis.MyBasis",))
    for trust, on in (
        ((), ["--trust", "my_basis.MyBasis"]),
        (("mine",), ["--trust", "mine", "--trust", "my_basis.MyBasis"]),
    ):
        checkpointed(tmp_path, trial)
        fits = Fits((0, "", True))
        monkeypatch.setattr(trials, "_fit", fits)
        assert trials.run(tmp_path, trial, ".", 1, trust) is None
        assert fits.words == [[*GOES_ON, str(trials.folder(tmp_path, trial)), *on]]
        (trials.folder(tmp_path, trial) / "summary.json").unlink()
    assert trial.words("o", ["mine"]) == [*TRIAL.words("o"), "--trust", "mine"]
    assert trial.words("o") == TRIAL.words("o") and trial.record() == TRIAL.record()


def test_two_never_run_in_one_folder(tmp_path, monkeypatch):
    """Whoever holds the log has the folder; the next one looks at what is there afterwards."""
    monkeypatch.setattr(trials, "_fit", Fits())
    with trials.log(tmp_path, TRIAL).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = []
        waiting = threading.Thread(target=lambda: found.append(trials.run(tmp_path, TRIAL, ".", 1)))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        finished(tmp_path, TRIAL)
    waiting.join(60)
    assert found == [None]  # and nothing was started


def test_a_process_has_its_folder_threads_and_log(tmp_path, monkeypatch):
    """The real process: its words, threads and current folder, a lock that it holds, and no signal
    but its own.
    """
    code = tmp_path / "fake.py"
    code.write_text(
        "import os, sys, fcntl\n"
        "print(sys.argv[5:], os.environ['OMP_NUM_THREADS'], os.getcwd(), os.getpgid(0))\n"
        "f = open(sys.argv[-1], 'ab')\n"
        "try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('held')\nsys.exit(3)\n"
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(
        f'#!/bin/sh\nexec {os.path.realpath("/proc/self/exe")} {code} "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    path = tmp_path / "a.log"
    with trials._locked(path) as file:
        status, said = trials._fit(["fit", str(path)], file, str(tmp_path), 3)
    words, held = said.splitlines()
    assert status == 3 and held == "held" and f"'fit', '{path}'] 3 {tmp_path} " in words
    assert int(words.split()[-1]) != os.getpgid(0)
    assert path.read_text().startswith(f"$ zoo fit {path}\n")


def test_a_child_dies_with_its_parent(tmp_path):
    """Even if that is killed; and one whose parent is dead already does not start."""
    pytest.importorskip("ctypes")
    if sys.platform != "linux":
        pytest.skip("a promise of Linux")
    import subprocess

    fake = tmp_path / "python"  # that a trial becomes
    fake.write_text("#!/bin/sh\necho there\nexec sleep 60\n")
    fake.chmod(0o755)
    child = (
        "import sys\nfrom zoo.sweep import trials\n"
        f"sys.executable = {str(fake)!r}\ntrials.main(sys.argv[1:])\n"
    )
    code = (
        "import subprocess, sys, os\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid()), 'x'])\n"
        "print(p.pid, flush=True)\np.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "there\n"
        parent.kill()
    end = time.monotonic() + 60
    while (
        Path(f"/proc/{pid}/stat").exists()
        and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    ):
        assert time.monotonic() < end, "it lives"
        time.sleep(0.05)
    orphan = subprocess.run(
        [sys.executable, "-c", child, "1234567", "x"], capture_output=True, check=False
    )
    assert orphan.returncode == 1 and orphan.stdout == b""


@pytest.mark.parametrize("reader", [True, False])
def test_a_pipe_is_not_waited_for(reader, tmp_path, monkeypatch):
    """In place of a log or summary."""
    log = trials.log(tmp_path, TRIAL)
    os.mkfifo(log)
    end = os.open(log, os.O_RDONLY | os.O_NONBLOCK) if reader else None
    with pytest.raises(UserError if reader else OSError):
        trials.run(tmp_path, TRIAL, ".", 1)
    if end is not None:
        os.close(end)
    summary = trials.folder(tmp_path, TRIAL) / "summary.json"
    summary.parent.mkdir(parents=True)
    os.mkfifo(summary)
    assert trials.outcome(tmp_path, TRIAL) is None
    summary.unlink()
    summary.mkdir()
    assert trials.outcome(tmp_path, TRIAL) is None


def test_of_a_long_log_the_end_is_shown(tmp_path, monkeypatch):
    code = "import sys; sys.stdout.write('x' * 300_000); print(); print('the end'); sys.exit(1)"
    real = trials.subprocess.Popen
    monkeypatch.setattr(
        trials.subprocess,
        "Popen",
        lambda command, **rest: real([sys.executable, "-c", code], **rest),
    )
    with trials._locked(tmp_path / "a.log") as file:
        status, said = trials._fit(["fit"], file, str(tmp_path), 1)
    assert status == 1 and said.endswith("\nthe end\n") and len(said) <= trials.TAIL


def test_signals_are_named():
    assert trials._why(-signal.SIGTERM, "") == "killed by SIGTERM"
