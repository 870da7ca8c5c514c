"""The processes of a census: one an adapter, several at once, within bounds of memory and time.

What is done is in a journal, so that a census that was killed goes on where it was.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zoo
from zoo.api.hub import is_id
from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.pages.texts import printable
from zoo.studies.census.entries import Entry, is_adapter
from zoo.studies.census.precheck import Left, left_out
from zoo.studies.journal import Journal

Result = dict[str, Any]
BOUNDED = ("too slow", "out of memory")
"""What is tried again where the bounds are wider than they were."""
LOOK = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Bounds:
    """What an adapter's process may take.

    Args:
        memory: GiB beyond what the program itself takes.
        minutes: of time.
    """

    memory: float
    minutes: float


@dataclass
class _Running:
    job: Mapping[str, Any]
    process: "subprocess.Popen[str]"
    errors: IO[str]
    start: float


def before_reading(entry: Entry) -> Left | None:
    """Return why an entry is left out, if its path or its first bytes say so."""
    if entry.status:
        return Left(entry.status, "as the list says")
    path = Path(entry.what)
    if not os.path.exists(path):
        if is_id(entry.what):
            return None
        return Left("not found", f"no file or folder '{entry.what}'")
    if entry.before is None and path.is_dir() and not is_adapter(path):
        return Left("no adapter", f"'{entry.what}' holds no adapter")
    return left_out(entry.what)


def job_of(entry: Entry, transforms: Sequence[str], draws: int, seed: int) -> dict[str, Any]:
    """Return an adapter's job for `zoo.studies.census.worker`."""
    return {"entry": entry.as_json(), "transforms": list(transforms), "draws": draws, "seed": seed}


def key_of(job: Mapping[str, Any]) -> str:
    """Hash what a result depends on: what is asked for, and the size and time of its files."""
    entry = job["entry"]
    states = _states(entry["what"]) + (_states(entry["before"]) if entry["before"] else [])
    asked = {k: v for k, v in entry.items() if k not in ("about", "cluster", "name")}
    if not states and entry["about"].get("commit"):  # of a hub's name
        asked["commit"] = entry["about"]["commit"]
    text = json.dumps([{**job, "entry": asked}, states, zoo.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _states(what: str) -> list[tuple[str, int, int]]:
    """Return name, size and time of the files at a path."""
    path = Path(what)
    files = sorted(path.glob("*")) if os.path.isdir(path) else [path]
    # A link may lead nowhere, and a name be longer than any file's.
    there = [(file.name, file.stat()) for file in files if os.path.exists(file)]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in there]


def run(
    jobs: Sequence[Mapping[str, Any]],
    bounds: Bounds,
    at_once: int,
    journal: "Journal[Result]",
    done: Callable[[int, Result], object],
) -> list[Result]:
    """Do all jobs, each in a process of its own; what the journal knows is not done again.

    Args:
        jobs: for the worker.
        bounds: of each.
        at_once: how many processes.
        journal: of results, by `key_of` a job.
        done: called with the place of a job and its result, as each comes.

    Returns:
        A result for each job: `status`, `why` where it is not analysed, `seconds`, and what was
            measured.
    """
    results: dict[int, Result] = {}
    waiting: deque[tuple[int, str]] = deque()
    for place, job in enumerate(jobs):
        key = key_of(job)
        known = journal.done.get(key)
        if known is not None and not _worth_again(known, bounds):
            results[place] = known
            done(place, known)
        else:
            waiting.append((place, key))
    running: dict[tuple[int, str], _Running] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    place, key = waiting.popleft()
                    running[place, key] = _start(jobs[place], bounds, Path(folder) / key)
                time.sleep(LOOK)
                for (place, key), each in [*running.items()]:
                    result = _end(each, bounds)
                    if result is not None:
                        del running[place, key]
                        journal.write(key, result)
                        results[place] = result
                        done(place, result)
        finally:
            for each in running.values():
                each.process.kill()
                each.process.wait()
    return [results[place] for place in range(len(jobs))]


def _worth_again(result: Result, bounds: Bounds) -> bool:
    return result["status"] in BOUNDED and (
        result["memory"] < bounds.memory or result["minutes"] < bounds.minutes
    )


def _start(job: Mapping[str, Any], bounds: Bounds, file: Path) -> _Running:
    errors = file.with_suffix(".errors").open("w+", encoding="utf-8", errors="replace")
    home = str(Path(zoo.__file__).parents[1])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "zoo.studies.census.worker"],
        stdin=subprocess.PIPE,
        stdout=errors,
        stderr=errors,
        text=True,
        env={**os.environ, **threads, "PYTHONPATH": path},
    )
    job = {**job, "memory": bounds.memory, "result": str(file)}
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, as is found later
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()  # and stays open: its end is that of the census
    return _Running(job, process, errors, time.monotonic())


def _end(each: _Running, bounds: Bounds) -> Result | None:
    """Return what a process has come to, if it has ended or its time has."""
    seconds = round(time.monotonic() - each.start, 1)
    late = seconds > 60 * bounds.minutes
    if each.process.poll() is None and not late:
        return None
    each.process.kill()
    each.process.wait()
    assert each.process.stdin is not None
    with suppress(BrokenPipeError):  # it never read its job
        each.process.stdin.close()
    with each.errors:
        result = _read(Path(each.job["result"]))
        if result is None and late:
            result = {"status": "too slow", "why": f"it takes more than {bounds.minutes:g} minutes"}
        elif result is None:
            result = {"status": "crashed", "why": _last_words(each)}
    if result["status"] in BOUNDED:
        result |= {"memory": bounds.memory, "minutes": bounds.minutes}
    return {**result, "seconds": seconds}


def _read(file: Path) -> Result | None:
    try:
        result = read_json(file)
    except UserError:
        return None
    return result if isinstance(result.get("status"), str) else None


def _last_words(each: _Running) -> str:
    """Say how a process ended, by what it printed last."""
    each.errors.seek(0)
    lines = [line.strip() for line in each.errors.read()[-4000:].splitlines() if line.strip()]
    code = each.process.returncode
    how = f"its process was ended by signal {-code}" if code < 0 else f"exit status {code}"
    return printable(f"{how}: {lines[-1][:200]}" if lines and code >= 0 else how)
