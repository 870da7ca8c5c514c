"""`zoo sweep`: a grid of fits, searched and reported, on all cores and GPUs.

Interrupted, the same command goes on.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.sweep.stop import Stop

if TYPE_CHECKING:
    from zoo.cli.fit.lightning_cli import ZooCLI
    from zoo.sweep.cluster import Share
    from zoo.sweep.plan import Method, Sweep, Trial
    from zoo.sweep.schedule import Schedule


def main(argv: list[str]) -> int:
    """Run the sweep; 1 if a trial failed, 130 and 143 if it was stopped by Ctrl-C and SIGTERM.

    Raises:
        UserError: as `sweep`, and for a file or folder that cannot be read or written.
    """
    stopped = Stop()
    try:
        with stopped.listening():
            return call(sweep, argv, joint="-", argv=argv, stopped=stopped)
    except KeyboardInterrupt:  # before a trial has started
        print("zoo: stopped", file=sys.stderr)
        return stopped.status
    except BrokenPipeError:  # `zoo sweep --dry-run | head`
        raise
    except OSError as error:
        raise UserError(f"{error.strerror or error}: {error.filename or 'no file'}") from error


def sweep(
    *,
    config: Annotated[str, "FILE"],
    out: Annotated[str | None, "DIR"] = None,
    trials_per_device: Annotated[int | None, "N"] = None,
    ray_address: Annotated[str | None, "ADDRESS"] = None,
    max_trials: Annotated[int | None, "N"] = None,
    trust: Trust = NOBODY,
    dry_run: bool = False,
    argv: Sequence[str],
    stopped: Stop,
) -> int:
    """Plan a sweep, check it, run what is not done, and print what has come of it.

    Args:
        config: the sweep: its path or the name of a shipped one.
        out: of the trials' folders; by default runs/<name of the sweep>.
        trials_per_device: trials that share a GPU, by default 1; without a GPU, that share the
            cores, by default as many as there are cores.
        ray_address: HOST:PORT of a Ray cluster that this machine is a node of, or auto; DIR then
            lies in a folder that all nodes share.
        max_trials: that a sweep may have, by default 10,000.
        trust: which classes besides zoo's own files may name.
        dry_run: print the trials' commands, and run none.
        argv: the words of the command line after `zoo`.
        stopped: where signals are heard.

    Returns:
        The exit status.

    Raises:
        UserError: for a sweep file that says nothing, two things or too much, a trial that cannot
            be built, or a folder that holds other runs; nothing has been written then.
    """
    from zoo.files.access import check_writable
    from zoo.sweep import stop
    from zoo.sweep.cluster import connected, prepare, share, silence
    from zoo.sweep.match import matched
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
    plan = matched(plan, lambda method: built(first_trial(plan, method), given))
    record = Record(folder)
    there = plan.among(sorted(os.listdir(folder)) if folder.is_dir() else ())
    record.check(there)
    if not dry_run:
        prepare(ray_address)
    build(plan, there, given)
    known = {trial.name: found for trial in there if (found := outcome(folder, trial))}
    schedule = Schedule(plan, known, starting=record.add)
    if dry_run:
        print("\n".join(commands(schedule, given, trust.names)))
        return 0
    if not schedule.over():
        with lock(folder), silence() as (stdout, stderr):
            stop.clear(folder)
            try:
                with connected(ray_address, folder, os.getcwd()) as cluster:
                    record.save(config, shlex.join(["zoo", *argv]))
                    parts = share(cluster.nodes, trials_per_device)
                    run(
                        schedule,
                        folder,
                        parts,
                        cluster.scratch,
                        trust.names,
                        stopped,
                        stdout,
                        stderr,
                    )
            except KeyboardInterrupt:
                print(
                    f"zoo: stopped; {len(schedule.done)} of {plan.size()} trials are done, and "
                    "the same command goes on",
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
    stopped: Stop,
    stdout: TextIO,
    stderr: TextIO,
) -> None:
    """Run what is waiting, and show how it goes."""
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
    """Print methods side by side, and what failed; returns the exit status."""
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
    """Build each method and each searched value that has no run yet.

    What is wrong with one is said before anything starts.

    Args:
        plan: of the sweep.
        there: the trials whose folders are there already.
        out: folder of the sweep.

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
    for trial in todo:
        logger = built(trial, out).config["trainer"].get("logger")
        if logger not in (None, True):
            raise UserError(
                f"{trial.method}: its config has {logger!r} as trainer.logger, and a run of a "
                "sweep needs zoo's own"
            )


def first_trial(plan: "Sweep", method: "Method") -> "Trial":
    """Return the trial of a method at its first point."""
    return method.trial(method.points[0], plan.seeds[0], plan.labels)


def built(trial: "Trial", out: str) -> "ZooCLI":
    """Build a trial's task, data and trainer.

    Raises:
        UserError: naming the method, and what is wrong with it.
    """
    from zoo.cli.console import quiet
    from zoo.cli.fit import messages
    from zoo.cli.fit.command import command_line

    quiet()
    with messages.as_user_errors(trial.method):
        return command_line([], trial.words(out)[1:])


def commands(schedule: "Schedule", out: str, trust: Sequence[str]) -> list[str]:
    """Write the commands of the trials that are waiting, and what comes after a search."""
    sweep = schedule.sweep
    lines = [shlex.join(["zoo", *trial.words(out, trust)]) for trial in schedule.waiting]
    seeds = ", ".join(map(str, sweep.seeds))
    lines += [
        f"# {method.name}: at the best of {len(method.points)}, then seeds {seeds}"
        for method in sweep.methods
        if method.name not in schedule.best
    ]
    return [*lines, f"# {sweep.size()} trials, {len(schedule.done)} done"]
