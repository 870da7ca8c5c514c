"""One trial: a `zoo fit` in a process of its own, found finished, gone on with or started.

A trial's log is locked by whoever runs it, and the lock is inherited by the process that trains: as
long as that lives, no other can start in the same folder, whatever became of the sweep.
"""

import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from zoo.errors import UserError
from zoo.files.access import opened, read_json
from zoo.files.trust import Trust
from zoo.sweep import stop
from zoo.sweep.plan import Trial
from zoo.training import progress_file
from zoo.training.metrics import MODES, less_is_better

LINES = 6
"""How many lines of a failed trial are shown."""
TAIL = 64_000
"""How many bytes at the end of a log are searched for these lines."""
PR_SET_PDEATHSIG = 1
"""Linux's number for the signal that a process gets when its parent dies."""
LOOK = 0.5
"""Seconds between two looks at whether the sweep is stopping."""


@dataclass(frozen=True)
class Outcome:
    """Hold what a trial that is finished says.

    Args:
        value: the task's metric after the last step.
        lower: whether less of it is better.
        seconds: how long it trained.
        metric: what trials are compared by: `loss`, `score` or what the run was told to monitor.
        data: what identifies the data that it was trained on, as JSON; empty if the run does not
            say.
    """

    value: float
    lower: bool
    seconds: float
    metric: str
    data: str = ""


def folder(out: Path, trial: Trial) -> Path:
    """Find the folder of a trial's run."""
    return out / trial.name / "version_0"


def log(out: Path, trial: Trial) -> Path:
    """Find the file that holds what a trial has printed."""
    return out / f"{trial.name}.log"


def outcome(out: Path, trial: Trial) -> Outcome | None:
    """Read the outcome of a trial that is finished: its summary is whole and of all its steps.

    Raises:
        UserError: if it is of another seed or of more steps: somebody went on with it.
    """
    try:
        summary = read_json(folder(out, trial) / "summary.json")
        steps, seed, seconds = summary["steps"], summary["seed"], float(summary["seconds"])
        metric = str(summary["monitor"]).removeprefix("val/")
        value = summary["metrics"].get(f"val/{metric}", summary.get(metric))
        value = math.nan if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if (
        type(steps) is not int
        or type(seed) is not int
        or not math.isfinite(seconds)
        or not metric.isprintable()
    ):
        return None
    if seed != trial.seed or (trial.steps is not None and steps > trial.steps):
        raise UserError(
            f"'{folder(out, trial)}' is a run of {steps} steps and seed {seed}, where the sweep "
            f"has {trial.steps} and {trial.seed}: move it away, or give another --out"
        )
    if trial.steps is not None and steps < trial.steps:
        return None
    identity = summary.get("identity")
    data = json.dumps(identity.get("data"), sort_keys=True) if isinstance(identity, dict) else ""
    mode = summary.get("mode")
    lower = less_is_better(metric, mode if mode in MODES else None)
    return Outcome(value, bool(lower), seconds, metric, data)


def run(
    out: Path, trial: Trial, there: str, threads: int | None, trust: Sequence[str] = ()
) -> str | None:
    """Train it, unless it is finished; returns None, or why it failed.

    What is interrupted goes on. A checkpoint is never deleted: one from which a trial can never go
    on, since it is damaged, is moved aside with the trial's whole folder, and the trial starts
    anew. If going on fails otherwise, as on a full disk, everything stays.

    Args:
        out: folder of the sweep, seen from here.
        trial: the trial to run.
        there: current folder of the command, in which classes of the user's own are found.
        threads: how many its process has; None where an accelerator does the work.
        trust: modules and classes that the sweep was given as trusted.

    Raises:
        UserError: if what is there is a run of other settings, or its log is no file.
        OSError: if its folder or log cannot be read or written.
    """
    with _locked(log(out, trial)) as file:
        if outcome(out, trial):
            return None
        if stop.asked(out):
            return "the sweep is stopping"
        why_not = _why_not_on(out, trial)
        if why_not is None:
            progress_file.remove(folder(out, trial))  # it says how far a fit was that was killed
            allowed = Trust(tuple(trust), trial.classes)
            status, said = _fit(
                ["fit", "--ckpt_path", str(folder(out, trial)), *allowed.words()],
                file,
                there,
                threads,
            )
            return None if outcome(out, trial) else _why(status, said)
        _make_room(out / trial.name, why_not, file)
        status, said = _fit(trial.words(str(out), trust), file, there, threads)
        return None if status == 0 and outcome(out, trial) else _why(status, said)


def _why_not_on(out: Path, trial: Trial) -> str | None:
    """Say why a trial cannot go on from what it left; None if it can.

    Raises:
        OSError: if there is a checkpoint that cannot be read now; that says nothing of what is in
            it.
    """
    last = folder(out, trial) / "checkpoints" / "last.ckpt"
    if not last.is_file() or not (folder(out, trial) / "config.yaml").is_file():
        return f"'{folder(out, trial)}' has no checkpoint to go on from"
    with last.open("rb") as file:
        file.read(1)
    try:
        return (
            None
            if "optimizer_states" in _load(last)
            else f"'{last}' has no optimizer's state beside it"
        )
    except UserError as error:
        return str(error)


def _load(path: Path) -> dict[str, Any]:
    from zoo.runs import checkpoints

    return checkpoints.load(path)


def _make_room(home: Path, why: str, file: IO[bytes]) -> None:
    """Free a trial's name: remove its folder, or rename it if a checkpoint or summary is in it.

    Args:
        home: the folder, which need not be there.
        why: why the trial does not go on from it.
        file: the trial's log, which says what became of the folder.
    """
    if not os.path.lexists(home):
        return
    if home.is_dir() and not home.is_symlink() and not any(map(_is_of_worth, home.rglob("*"))):
        shutil.rmtree(home)
        return
    names = (home.with_name(f"{home.name}.damaged-{number}") for number in count(1))
    aside = next(path for path in names if not os.path.lexists(path))
    home.rename(aside)
    file.write(f"zoo: {why}: the trial starts anew, and its folder is now '{aside}'\n".encode())


def _is_of_worth(path: Path) -> bool:
    return path.suffix in (".ckpt", ".safetensors") or path.name == "summary.json"


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a log to append to it, as soon as no other process has it.

    Raises:
        UserError: if it is no regular file.
        OSError: if it cannot be opened.
    """
    with open(path, "ab", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"'{path}' is no regular file: move it away, or give another --out")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # The sweep before this one has just been killed, and its trial not yet.
                time.sleep(0.2)
        yield file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _fit(words: list[str], file: IO[bytes], there: str, threads: int | None) -> tuple[int, str]:
    """Run `zoo` in a process; returns its exit status, and the end of what it printed."""
    file.write(f"$ zoo {' '.join(words)}\n".encode())
    file.flush()
    start = file.tell()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-P", "-m", "zoo.sweep.trials", str(os.getpid()), *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        cwd=there,
        env=environment,
        process_group=0,  # Ctrl-C is for the sweep
    )
    try:
        status = _wait(process, Path(file.name).parent)
    except BaseException:
        process.kill()
        raise
    with opened(Path(file.name)) as back:
        back.seek(max(start, back.seek(0, os.SEEK_END) - TAIL))
        return status, back.read().decode(errors="replace")


def _wait(process: "subprocess.Popen[bytes]", out: Path) -> int:
    """Wait for a trial, which is told to stop when its sweep is; returns its exit status."""
    told = False
    while True:
        try:
            return process.wait(LOOK)
        except subprocess.TimeoutExpired:
            if not told and stop.asked(out):
                process.terminate()
                told = True


def _why(status: int, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()][-LINES:]
    if status < 0:
        lines.append(f"killed by {signal.Signals(-status).name}")
    elif status == 0:
        lines.append("it ended without a summary.json of all its steps")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Become `zoo`, and die with the parent: `python -m zoo.sweep.trials PARENT fit ...`.

    Linux keeps its promise to kill this process when its parent dies across `exec`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(argv[0]):  # it died before the promise
        raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "zoo", *argv[1:]])


if __name__ == "__main__":
    main(sys.argv[1:])
