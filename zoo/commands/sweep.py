"""`zoo sweep`: a grid of fits, searched and reported, on all cores and GPUs; interrupted, the same command goes on."""

import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from zoo.commands.arguments import parse
from zoo.errors import UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "--config": {"required": True, "metavar": "FILE", "help": "the sweep: its path or the name of a shipped one"},
    "--out": {"default": None, "metavar": "DIR", "help": "of the trials' folders; by default runs/<name of the sweep>"},
    "--trials-per-device": {"type": int, "default": None, "metavar": "N", "help": "that share a GPU, by default 1; or, "
                            "without one, all cores: by default as many as there are cores"},
    "--ray-address": {"default": None, "metavar": "ADDRESS", "help": "of a Ray cluster that this machine is a node of, "
                      "as HOST:PORT or auto; DIR must then lie in a folder that all nodes share"},
    "--dry-run": {"action": "store_true", "help": "print the trials and their commands, and run none"},
}


def main(argv: list[str]) -> int:
    """Run it; 1 if a trial failed."""
    return sweep(argv=argv, **vars(parse("sweep", __doc__ or "", argv, OPTIONS)))


def sweep(
    config: str, out: str | None, trials_per_device: int | None, ray_address: str | None, dry_run: bool,
    argv: list[str],
) -> int:
    """Plan, check, run and print.

    Raises:
        UserError: for a sweep file that says nothing or two things, a trial that cannot be built, or a folder that
            holds another sweep's; nothing has been written then.
    """
    from zoo.sweep.plan import read
    from zoo.sweep.record import Record, every, lock
    from zoo.sweep.schedule import Schedule
    from zoo.sweep.table import Report, methods_table
    from zoo.sweep.trials import outcome

    if trials_per_device is not None and trials_per_device < 1:
        raise UserError(f"--trials-per-device must be at least 1, got {trials_per_device}")
    plan = read(config)
    given = out or f"runs/{Path(config).stem}"
    folder = Path(given).absolute()
    check_folder(folder)
    record = Record(folder)
    trials = every(plan)
    record.check(trials)
    known = {trial.name: found for trial in trials if (found := outcome(folder, trial))}
    schedule = Schedule(plan, known)
    build([trial for trial in trials if not (folder / trial.name).exists()], given)
    if dry_run:
        print_plan(schedule, given)
        return 0
    from zoo.sweep import cluster

    cluster.need_ray()
    there = os.getcwd()
    if schedule.over():
        print(f"all {plan.size()} trials are done")
    else:
        with cluster.silence() as (stdout, stderr):
            print(f"{plan.size()} trials, {len(schedule.done)} done; starting Ray", file=stdout, flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder):
                record.save(config, shlex.join(["zoo", *argv]))
                schedule.starting = record.add
                try:
                    with cluster.connected(ray_address, folder, there) as nodes:
                        from zoo.sweep import tune

                        parts = cluster.share(nodes, trials_per_device)
                        report = Report(schedule, parts.limit, stdout, stderr)
                        tune.run(schedule, folder, there, parts, report.tick)
                        report.tick()
                except KeyboardInterrupt:
                    print(f"zoo: stopped, {len(schedule.done)} of {plan.size()} trials are done; the same command goes "
                          f"on: {shlex.join(['zoo', *argv])}", file=stderr)
                    return 130
    print("\n".join(["", *methods_table(schedule), ""]))
    if schedule.failed:
        print(f"zoo: {len(schedule.failed)} of {plan.size()} trials failed, {', '.join(schedule.failed)}; the same "
              "command tries them again", file=sys.stderr)
    print(f"report  zoo report {shlex.quote(given)}")
    return 1 if schedule.failed else 0


def check_folder(folder: Path) -> None:
    """Raises UserError if it cannot be written, without making it."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is no folder"
        raise UserError(f"cannot write '{folder}': '{there}' {why}; give another --out")


def build(trials: Sequence[Any], out: str) -> None:
    """Build each method, and each searched value, once; what is wrong is said before anything starts.

    Raises:
        UserError: naming the method.
    """
    if not trials:
        return
    from zoo import messages
    from zoo.cli import command_line, quiet

    quiet()
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    seen: set[str] = set()
    for trial in trials:
        news = {trial.method, *(f"{key}={value}" for key, value in trial.point.items())} - seen
        if not news:
            continue
        seen |= news
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                command_line([], trial.words(out)[1:])
        except SystemExit:
            raise UserError(f"{trial.method}: {said.getvalue().strip().removeprefix('zoo: ')}") from None
        except Exception as error:
            if mistake := messages.user_error(error):
                raise UserError(f"{trial.method}: {mistake}") from error
            raise


def print_plan(schedule: Any, out: str) -> None:
    """The trials that are waiting, and those that a search decides on, with their commands."""
    sweep = schedule.sweep
    for trial in schedule.waiting:
        print(shlex.join(["zoo", *trial.words(out)]))
    for method in sweep.methods:
        if method.name not in schedule.best:
            seeds = ", ".join(map(str, sweep.seeds))
            print(f"# {method.name}: then seeds {seeds} at the best of {len(method.points)}")
    print(f"# {sweep.size()} trials, {len(schedule.done)} done")
