"""What a sweep shows: a line for each trial that ends, and methods side by side at the end."""

import time
from collections.abc import Sequence
from statistics import mean, stdev
from typing import TextIO

from zoo.sweep.plan import Trial
from zoo.sweep.schedule import Schedule
from zoo.sweep.trials import Outcome


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d} min"


class Report:
    """Says what has ended since it was last asked.

    Args:
        schedule: to look at.
        limit: of trials at a time.
        out: where lines go.
        err: where failures go.
    """

    def __init__(self, schedule: Schedule, limit: int, out: TextIO, err: TextIO) -> None:
        self.schedule, self.limit, self.out, self.err = schedule, limit, out, err
        self.said: set[str] = set(schedule.before) | set(schedule.failed)
        self.started = time.monotonic()

    def tick(self) -> None:
        """Print."""
        for name, found in list(self.schedule.done.items()):
            if name not in self.said:
                self.said.add(name)
                print(self.line(name, found), file=self.out, flush=True)
        for name, why in list(self.schedule.failed.items()):
            if name not in self.said:
                self.said.add(name)
                print(f"{name}  failed\n" + "\n".join(f"    {line}" for line in why.splitlines()), file=self.err,
                      flush=True)

    def line(self, name: str, found: Outcome) -> str:
        """Of a trial that is finished."""
        schedule = self.schedule
        counted = f"{len(schedule.done)} of {schedule.sweep.size()}"
        left = self.left()
        rest = f", {clock(left)} left" if left is not None else ""
        return f"{name}  {found.metric} {found.value:.4f}  {clock(found.seconds)}  ({counted}{rest})"

    def left(self) -> float | None:
        """Seconds until the sweep is over, by the trials that it has finished."""
        fresh = len(self.schedule.done) - len(self.schedule.before)
        rest = self.schedule.sweep.size() - len(self.schedule.done) - len(self.schedule.failed)
        return (time.monotonic() - self.started) / fresh * rest if fresh else None


def methods_table(schedule: Schedule) -> list[str]:
    """Each method's best point, and mean and standard deviation over its seeds."""
    rows: list[tuple[str, ...]] = []
    found: list[Outcome] = []
    for method in schedule.sweep.methods:
        point = schedule.best.get(method.name)
        trials: Sequence[Trial] = schedule.sweep.reported(method, point) if point is not None else []
        outcomes = [schedule.done[trial.name] for trial in trials if trial.name in schedule.done]
        found += outcomes
        values = [each.value for each in outcomes]
        spread = f"{mean(values):.4f}" if values else "-"
        spread += f" +- {stdev(values):.4f}" if len(values) > 1 else ""
        chosen = [str(value) for value in (point or {}).values()] or ["-"] * max(1, len(method.points[0]))
        rows.append((method.name, *chosen, str(len(values)), spread))
    searched = list(dict.fromkeys(schedule.sweep.labels[key] for m in schedule.sweep.methods for key in m.points[0]))
    head = ("method", *(f"best {key}" for key in searched or ["-"]), "seeds", found[0].metric if found else "")
    from zoo.commands.laboratory import columns

    return columns([head, *rows], 1)
