"""Trials are finished, started, gone on with or left alone; two never run in one folder."""

import fcntl
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.sweep import trials
from zoo.sweep.plan import Trial
from zoo.sweep.trials import Outcome

TRIAL = Trial("DCT-seed=1", "DCT", False, {}, ("dct_half.yaml",), {"model.width": 8}, 1, 100, "0")


def finished(out, trial, value=1.5, **other):
    """What a run leaves."""
    folder = out / trial.name / "version_0"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"steps": trial.steps, "seed": trial.seed, "seconds": 2.0, "monitor": "val/loss", "loss": value,
             "metrics": {"val/loss": value}, **other}
    (folder / "summary.json").write_text(json.dumps(facts))


def checkpointed(out, trial):
    folder = out / trial.name / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").touch()


@pytest.mark.parametrize("content", [None, "", '{"steps": 100, "se', "[]", "{}", '{"steps": 50, "seed": 1}'])
def test_a_trial_without_a_whole_summary_is_not_finished(content, tmp_path):
    if content is not None:
        finished(tmp_path, TRIAL)
        (tmp_path / TRIAL.name / "version_0" / "summary.json").write_text(content)
    assert trials.outcome(tmp_path, TRIAL) is None


def test_a_finished_trial_says_what_it_reached(tmp_path):
    finished(tmp_path, TRIAL, steps=60)
    assert trials.outcome(tmp_path, TRIAL) is None  # stopped early, by whatever
    finished(tmp_path, TRIAL)
    assert trials.outcome(tmp_path, TRIAL) == Outcome(1.5, True, 2.0, "loss")
    finished(tmp_path, TRIAL, monitor="val/score", score=0.7, metrics={"val/loss": 1.0, "val/score": 0.7})
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


@pytest.mark.parametrize(("left", "results", "kinds", "why"), [
    ("nothing", [(0, "", True)], ["new"], None),
    ("finished", [], [], None),
    ("checkpoint", [(0, "", True)], ["on"], None),
    ("checkpoint", [(2, "zoo: truncated", False), (0, "", True)], ["on", "new"], None),
    ("checkpoint", [(0, "took all steps", False), (0, "", True)], ["on", "new"], None),
    ("checkpoint", [(1, "Error: memory", False)], ["on"], "Error: memory"),
    ("leftovers", [(0, "", True)], ["new"], None),
    ("nothing", [(2, "a\nzoo: no option\n\n", False)], ["new"], "a\nzoo: no option"),
    ("nothing", [(-9, "a\n", False)], ["new"], "a\nkilled by SIGKILL"),
    ("nothing", [(0, "", False)], ["new"], "it ended without a whole summary.json"),
    ("nothing", [(1, "".join(f"{i}\n" for i in range(9)), False)], ["new"], "3\n4\n5\n6\n7\n8"),
])
def test_a_trial_is_started_gone_on_with_or_left_alone(left, results, kinds, why, tmp_path, monkeypatch):
    fits = Fits(*results)
    monkeypatch.setattr(trials, "_fit", fits)
    if left == "finished":
        finished(tmp_path, TRIAL)
    if left == "checkpoint":
        checkpointed(tmp_path, TRIAL)
    if left == "leftovers":
        (tmp_path / TRIAL.name / "version_0").mkdir(parents=True)
    assert trials.run(tmp_path, TRIAL, ".", 1) == why
    expected = {"on": ["fit", "--ckpt_path", str(tmp_path / TRIAL.name / "version_0")],
                "new": TRIAL.words(str(tmp_path))}
    assert fits.words == [expected[kind] for kind in kinds]
    assert fits.there == [kind == "on" for kind in kinds]  # a new one starts in no folder, so there is no version_1


def test_two_never_run_in_one_folder(tmp_path, monkeypatch):
    """Whoever holds the log has the folder; the next one looks at what is there when it is let go."""
    monkeypatch.setattr(trials, "_fit", Fits())
    with trials.log(tmp_path, TRIAL).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = []
        waiting = threading.Thread(target=lambda: found.append(trials.run(tmp_path, TRIAL, ".", 1)))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        finished(tmp_path, TRIAL)
    waiting.join(5)
    assert found == [None]  # and nothing was started


def test_a_process_has_its_folder_threads_and_log(tmp_path, monkeypatch):
    """The real process: its words, threads and current folder, a lock that it holds, and no signal but its own."""
    code = tmp_path / "fake.py"
    code.write_text(
        "import os, sys, fcntl\nprint(sys.argv[5:], os.environ['OMP_NUM_THREADS'], os.getcwd(), os.getpgid(0))\n"
        "f = open(sys.argv[-1], 'ab')\n"
        "try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: print('held')\nsys.exit(3)\n"
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {os.path.realpath("/proc/self/exe")} {code} "$@"\n')
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

    wait = tmp_path / "zoo.py"  # what `python -m zoo` is in this folder
    wait.write_text("import time\nprint('there', flush=True)\ntime.sleep(60)\n")
    child = Path(trials.__file__).with_name("child.py")
    code = (
        "import subprocess, sys, os, time\n"
        f"p = subprocess.Popen([sys.executable, {str(child)!r}, str(os.getpid()), 'x'])\n"
        "print(p.pid, flush=True)\np.wait()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "there\n"
        parent.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "it lives"
        time.sleep(0.05)
    orphan = subprocess.run([sys.executable, str(child), "1234567", "x"], env=env, capture_output=True, check=False)
    assert orphan.returncode == 1 and orphan.stdout == b""


def test_progress_is_read_from_the_log(tmp_path):
    log = trials.log(tmp_path, TRIAL)
    assert trials.progress(tmp_path, TRIAL) is None
    log.write_text("$ zoo fit x\nstep 10/100  loss 9.0, val 8.0  5.0 steps/s\n$ zoo fit --ckpt_path x\n")
    assert trials.progress(tmp_path, TRIAL) is None  # that was before it went on
    with log.open("a") as file:
        file.write("DCT in 8 layers\nstep  20/100  loss 2.500  5.0 steps/s  0:16 left\n"
                   "step  40/100  loss 2.000, val 1.900  5.0 steps/s  0:12 left\n"
                   "step  50/100  loss 1.900, val 2.100  5.0 steps/s  0:10 left\n")
    os.utime(log, (time.time() - 4, time.time() - 4))
    seen = trials.progress(tmp_path, TRIAL)
    assert seen.step in (69, 70, 71) and abs(seen.left - 6) < 0.5  # 4 seconds of 5 steps on
    assert (seen.steps, seen.loss, seen.best) == (100, 1.9, 1.9)


def test_signals_are_named():
    assert trials._why(-signal.SIGTERM, "") == "killed by SIGTERM"
