"""One trial: a `zoo fit` in a process and a folder of its own, found finished, gone on with or started.

A trial's log is locked by whoever runs it, and the lock is inherited by the process that trains: as long as that lives,
no other can start in the same folder, whatever became of the sweep.
"""

import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.errors import UserError
from zoo.sweep.plan import Trial

LINES = 6
"""How many lines of a failed trial are shown."""
STEP = re.compile(r"step +(\d+)/(\d+)  (?:loss (\S+?))?(?:, )?(?:val (\S+))?  ([\d.]+) steps/s")
"""A line of `zoo.callbacks.Progress`."""


@dataclass(frozen=True)
class Outcome:
    """What a trial that is finished says.

    Args:
        value: of the task's metric, after the last step.
        lower: whether less of it is better.
        seconds: of training.
        metric: by which trials are compared, `loss` or `score` or what the run was told to monitor.
    """

    value: float
    lower: bool
    seconds: float
    metric: str


@dataclass(frozen=True)
class Progress:
    """What a running trial's log said last.

    Args:
        step: taken.
        steps: of all.
        loss: of training.
        best: least validation loss since it was last started.
        left: seconds to go.
    """

    step: int
    steps: int
    loss: float
    best: float
    left: float


def folder(out: Path, trial: Trial) -> Path:
    """Of its run."""
    return out / trial.name / "version_0"


def log(out: Path, trial: Trial) -> Path:
    """What it printed."""
    return out / f"{trial.name}.log"


def outcome(out: Path, trial: Trial) -> Outcome | None:
    """Of a trial that is finished: its summary is whole and of all its steps.

    Raises:
        UserError: if it is of another seed or of more steps: somebody went on with it.
    """
    try:
        summary = json.loads((folder(out, trial) / "summary.json").read_text(encoding="utf-8"))
        steps, seed, seconds = summary["steps"], summary["seed"], float(summary["seconds"])
        metric = str(summary["monitor"]).removeprefix("val/")
        value = summary["metrics"].get(f"val/{metric}", summary.get(metric))
        value = math.nan if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if seed != trial.seed or (trial.steps is not None and steps > trial.steps):
        raise UserError(f"'{folder(out, trial)}' is a run of {steps} steps and seed {seed}, where the sweep has "
                        f"{trial.steps} and {trial.seed}: move it away, or give another --out")
    if trial.steps is not None and steps < trial.steps:
        return None
    return Outcome(value, metric.endswith("loss"), seconds, metric)


def resumable(out: Path, trial: Trial) -> bool:
    """Whether it left a checkpoint to go on from."""
    run = folder(out, trial)
    return (run / "checkpoints" / "last.ckpt").is_file() and (run / "config.yaml").is_file()


def run(out: Path, trial: Trial, there: str, threads: int | None) -> str | None:
    """Train it, unless it is finished; returns None, or why it failed.

    Args:
        out: folder of the sweep, seen from here.
        trial: to run.
        there: current folder of the command, in which classes of the user's own are found.
        threads: of its process; None where an accelerator does the work.
    """
    with _locked(log(out, trial)) as file:
        if outcome(out, trial):
            return None
        if resumable(out, trial):
            words = ["fit", "--ckpt_path", str(folder(out, trial))]
            status, said = _fit(words, file, there, threads)
            if outcome(out, trial):
                return None
            if status not in (0, 2):  # else nothing is to be made of its checkpoint, or it has taken all steps
                return _why(status, said)
        shutil.rmtree(out / trial.name, ignore_errors=True)
        status, said = _fit(trial.words(str(out)), file, there, threads)
        return None if status == 0 and outcome(out, trial) else _why(status, said)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """A log, appended to, when no other process has it."""
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the sweep before this one has just been killed, and its trial not yet
                time.sleep(0.2)
        yield file


def _fit(words: list[str], file: IO[bytes], there: str, threads: int | None) -> tuple[int, str]:
    """Exit status, and what was printed."""
    file.write(f"$ zoo {' '.join(words)}\n".encode())
    file.flush()
    start = file.tell()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-P", "-m", "zoo.sweep.child", str(os.getpid()), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=there, env=environment,
        process_group=0,  # Ctrl-C is for the sweep
    )
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        raise
    with Path(file.name).open("rb") as back:
        back.seek(start)
        return status, back.read().decode(errors="replace")


def _why(status: int, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()][-LINES:]
    if status < 0:
        lines.append(f"killed by {signal.Signals(-status).name}")
    elif status == 0:
        lines.append("it ended without a whole summary.json")
    return "\n".join(lines)


def progress(out: Path, trial: Trial) -> Progress | None:
    """Of a running trial, if its log says something yet; steps and seconds are counted on from there."""
    try:
        path = log(out, trial)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8000))
            said = file.read().decode(errors="replace").rpartition("$ zoo ")[2]
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    found = [match.groups() for line in said.splitlines() if (match := STEP.match(line))]
    if not found:
        return None
    step, steps, loss, _, rate = found[-1]
    taken = min(float(steps), float(step) + age * float(rate))
    best = min((float(val) for _, _, _, val, _ in found if val), default=math.nan)
    left = (float(steps) - taken) / max(1e-9, float(rate))
    return Progress(int(taken), int(steps), float(loss or "nan"), best, left)
