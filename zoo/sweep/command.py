"""`zoo sweep`: a grid of fits, searched and reported, on all cores and GPUs; interrupted, the same command goes on."""

import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from zoo.cli.arguments import TRUST, parse
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.sweep.cluster import Share
    from zoo.sweep.plan import Sweep, Trial
    from zoo.sweep.schedule import Schedule
    from zoo.sweep.stop import Stop

OPTIONS: dict[str, dict[str, Any]] = {
    "--config": {
        "required": True,
        "metavar": "FILE",
        "help": "the sweep: its path or the name of a shipped one",
    },
    "--out": {
        "default": None,
        "metavar": "DIR",
        "help": "of the trials' folders; by default runs/<name of the sweep>",
    },
    "--trials-per-device": {
        "type": int,
        "default": None,
        "metavar": "N",
        "help": "trials that share a GPU, by default "
        "1; without a GPU, that share the cores, by default as many as there are cores",
    },
    "--ray-address": {
        "default": None,
        "metavar": "ADDRESS",
        "help": "HOST:PORT of a Ray cluster that this machine is "
        "a node of, or auto; DIR then lies in a folder that all nodes share",
    },
    "--max-trials": {
        "type": int,
        "default": None,
        "metavar": "N",
        "help": "that a sweep may have, by default 10,000",
    },
    **TRUST,
    "--dry-run": {"action": "store_true", "help": "print the trials' commands, and run none"},
}


def main(argv: list[str]) -> int:
    """Run it; 1 if a trial failed, 130 and 143 if it was stopped by Ctrl-C and SIGTERM.

    Raises:
        UserError: as `sweep`, and for a file or folder that cannot be read or written.
    """
    from zoo.sweep.stop import Stop

    options = vars(parse("sweep", __doc__ or "", argv, OPTIONS))
    stopped = Stop()
    try:
        with stopped.listening():
            return sweep(argv=argv, stopped=stopped, **options)
    except KeyboardInterrupt:  # before a trial has started
        print("zoo: stopped", file=sys.stderr)
        return stopped.status
    except BrokenPipeError:  # `zoo sweep --dry-run | head`
        raise
    except OSError as error:
        raise UserError(f"{error.strerror or error}: {error.filename or 'no file'}") from error


def sweep(
    config: str,
    out: str | None,
    trials_per_device: int | None,
    ray_address: str | None,
    max_trials: int | None,
    trust: Sequence[str],
    dry_run: bool,
    argv: list[str],
    stopped: "Stop",
) -> int:
    """Plan, check, run and print.

    Raises:
        UserError: for a sweep file that says nothing, two things or too much, a trial that cannot
            be built, or a folder that holds other runs; nothing has been written then.
    """
    from zoo.files.access import check_writable
    from zoo.sweep import stop
    from zoo.sweep.cluster import connected, prepare, share, silence
    from zoo.sweep.read import TRIALS, read
    from zoo.sweep.record import Record, lock
    from zoo.sweep.schedule import Schedule
    from zoo.sweep.trials import outcome

    for option, number in (
        ("--trials-per-device", trials_per_device),
        ("--max-trials", max_trials),
    ):
        if number is not None and number < 1:
            raise UserError(f"{option} must be at least 1, got {number}")
    plan = read(config, max_trials or TRIALS)
    given = out or f"runs/{Path(config).stem}"
    folder = Path(given).absolute()
    check_writable(folder, "--out")
    record = Record(folder)
    there = plan.among(sorted(os.listdir(folder)) if folder.is_dir() else ())
    record.check(there)
    if not dry_run:
        prepare(ray_address)
    build(plan, there, given)
    known = {trial.name: found for trial in there if (found := outcome(folder, trial))}
    schedule = Schedule(plan, known, starting=record.add)
    if dry_run:
        print("\n".join(commands(schedule, given, trust)))
        return 0
    if not schedule.over():
        with lock(folder), silence() as (stdout, stderr):
            stop.clear(folder)
            try:
                with connected(ray_address, folder, os.getcwd()) as cluster:
                    record.save(config, shlex.join(["zoo", *argv]))
                    parts = share(cluster.nodes, trials_per_device)
                    run(schedule, folder, parts, cluster.scratch, trust, stopped, stdout, stderr)
            except KeyboardInterrupt:
                print(
                    f"zoo: stopped; {len(schedule.done)} of {plan.size()} trials are done, and the same command goes "
                    "on",
                    file=stderr,
                )
                return stopped.status
            finally:
                stop.clear(folder)
    return conclude(schedule, given)


def run(
    schedule: "Schedule",
    folder: Path,
    parts: "Share",
    scratch: Path,
    trust: Sequence[str],
    stopped: "Stop",
    stdout: TextIO,
    stderr: TextIO,
) -> None:
    """Run what is waiting, and show it."""
    from zoo.sweep import stop, tune
    from zoo.sweep.table import Table
    from zoo.sweep.trials import log

    done, size = len(schedule.done), schedule.sweep.size()
    print(f"{size} trials, {done} done already, {parts.limit} at a time", file=stdout, flush=True)
    table = Table(schedule, folder, stdout, stderr)

    def tick() -> None:
        stopped.check()
        table.tick()

    try:
        tune.run(schedule, folder, os.getcwd(), parts, scratch, tick, trust)
    except KeyboardInterrupt:
        stop.tell(folder, [log(folder, trial) for trial in schedule.running.values()])
        raise
    finally:
        table.close()


def conclude(schedule: "Schedule", out: str) -> int:
    """Print methods side by side, and what failed; the exit status."""
    from zoo.sweep.table import methods_table

    print("\n".join(["", *methods_table(schedule), ""]), flush=True)
    for method, why in schedule.stuck.items():
        print(f"zoo: {method}: {why}", file=sys.stderr)
    if failed := len(schedule.failed):
        rest = schedule.blocked() - len(schedule.stuck) * len(schedule.sweep.seeds)
        wait = f", and {rest} wait for them" if rest else ""
        print(
            f"zoo: {failed} trial{'s' * (failed > 1)} failed{wait}; the same command tries again",
            file=sys.stderr,
        )
    print(f"report  zoo report {shlex.quote(out)}")
    return 1 if schedule.failed or schedule.stuck else 0


def build(plan: "Sweep", there: Sequence["Trial"], out: str) -> None:
    """Build each method, and each searched value, that has no run yet: what is wrong is said before anything starts.

    Args:
        plan: the sweep.
        there: trials whose folders are there.
        out: the sweep's folder.

    Raises:
        UserError: naming the method.
    """

    def words(trial: "Trial") -> set[str]:
        return {trial.method, *(f"{key}={value}" for key, value in trial.point.items())}

    seen = {word for trial in there for word in words(trial)}
    todo = []
    for trial in plan.firsts():
        if words(trial) - seen:
            todo.append(trial)
        seen |= words(trial)
    if not todo:
        return
    from zoo.cli.console import quiet
    from zoo.cli.fit import messages
    from zoo.cli.fit.command import command_line

    quiet()
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    for trial in todo:
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                logger = command_line([], trial.words(out)[1:]).config["trainer"].get("logger")
            if logger not in (None, True):
                raise UserError(
                    f"its config has {logger!r} as trainer.logger, and a run of a sweep needs zoo's own"
                )
        except SystemExit:
            line = said.getvalue().strip().splitlines()[-1]
            raise UserError(f"{trial.method}: {line.removeprefix('zoo: ')}") from None
        except Exception as error:
            if mistake := messages.user_error(error):
                raise UserError(f"{trial.method}: {mistake}") from error
            raise


def commands(schedule: "Schedule", out: str, trust: Sequence[str]) -> list[str]:
    """Of the trials that are waiting, and what comes after a search."""
    sweep = schedule.sweep
    lines = [shlex.join(["zoo", *trial.words(out, trust)]) for trial in schedule.waiting]
    seeds = ", ".join(map(str, sweep.seeds))
    lines += [
        f"# {method.name}: at the best of {len(method.points)}, then seeds {seeds}"
        for method in sweep.methods
        if method.name not in schedule.best
    ]
    return [*lines, f"# {sweep.size()} trials, {len(schedule.done)} done"]
