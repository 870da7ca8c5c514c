"""What a sweep shows: a live table in a terminal, else a line a trial; at the end, the methods."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TextIO

from zoo.pages.terminal import aligned
from zoo.sweep.schedule import Schedule
from zoo.sweep.trials import Outcome, folder
from zoo.training import progress_file
from zoo.training.progress_file import RunProgress

EVERY = 1.0
"""Seconds between two looks at what runs."""


def clock(seconds: float) -> str:
    """Write a duration as hours and minutes, or as minutes and seconds."""
    whole = max(0, round(seconds))
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02d} h"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d} min"
    )


class Table:
    """Show a schedule as it goes.

    Args:
        schedule: to show.
        folder: the sweep's.
        out: the stream of the table, and of lines for what is finished.
        err: the stream of failures.
    """

    def __init__(self, schedule: Schedule, folder: Path, out: TextIO, err: TextIO) -> None:
        self.schedule, self.folder, self.out, self.err = schedule, folder, out, err
        self.live = out.isatty() and os.environ.get("TERM") != "dumb"
        self.said = set(schedule.before)
        self.started = time.monotonic()
        self.looked = -math.inf
        self.drawn = 0
        self.seen: dict[str, RunProgress] = {}

    def tick(self, last: bool = False) -> None:
        """Say what has ended, and draw, unless this is the last time."""
        ended = [
            name for name in (*self.schedule.done, *self.schedule.failed) if name not in self.said
        ]
        if not ended and not (self.live and time.monotonic() - self.looked >= EVERY):
            return
        self.looked = time.monotonic()
        trials = dict(self.schedule.running)
        for name, trial in trials.items():
            if (seen := progress_file.read(folder(self.folder, trial))) is not None:
                self.seen[name] = seen  # and stays, while the trial that has trained ends
        running = {name: self.seen.get(name) for name in trials}
        left = time_left(self.schedule, running, time.monotonic() - self.started)
        for name in ended:
            self.said.add(name)
            self._say(name, left)
        if self.live and not last:
            self._draw(lines(self.schedule, running, left, *self._size()))

    def close(self) -> None:
        """Say what has ended since, and take the table away."""
        self.tick(last=True)
        self._draw([])

    def _say(self, name: str, left: float | None) -> None:
        schedule = self.schedule
        if name in schedule.failed:
            self._draw([])
            why = "\n".join(f"    {line}" for line in schedule.failed[name].splitlines())
            log = os.path.relpath(self.folder / f"{name}.log")
            print(f"{name} failed; {log} has more\n{why}", file=self.err, flush=True)
        elif not self.live:
            found = schedule.done[name]
            rest = f", {clock(left)} left" if left is not None and not schedule.over() else ""
            print(
                f"{name}  {found.metric} {found.value:.4f}  {clock(found.seconds)}  "
                f"({len(schedule.done)} of {schedule.sweep.size()}{rest})",
                file=self.out,
                flush=True,
            )

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self.out.fileno())
        except OSError:
            size = os.terminal_size((0, 0))
        return size.columns or 80, size.lines or 24

    def _draw(self, rows: list[str]) -> None:
        """Draw rows in place of what was drawn last."""
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        if up or rows:
            self.out.write(f"{up}\r\x1b[J" + "".join(f"{row}\n" for row in rows))
            self.out.flush()
        self.drawn = len(rows)


def time_left(
    schedule: Schedule, running: dict[str, RunProgress | None], seconds: float
) -> float | None:
    """Estimate the seconds until a sweep is over, if it goes on as it did.

    Args:
        schedule: what is done and what is not.
        running: how far each running trial is; it counts in part.
        seconds: how long the sweep has run.

    Returns:
        None as long as nothing has been done.
    """
    parts = sum(p.step / p.steps for p in running.values() if p is not None and p.steps)
    taken = len(schedule.done) - len(schedule.before) + parts
    rest = (
        schedule.sweep.size()
        - len(schedule.done)
        - len(schedule.failed)
        - schedule.blocked()
        - parts
    )
    return seconds / taken * rest if taken > 0 else None


def lines(
    schedule: Schedule,
    running: dict[str, RunProgress | None],
    left: float | None,
    width: int = 80,
    height: int = 24,
) -> list[str]:
    """Make the live table: what runs, and how many wait, are done and failed.

    Args:
        schedule: to show.
        running: how far each running trial is; None where it has not said so yet.
        left: seconds until the sweep is over, if that is known.
        width: columns of the terminal.
        height: lines of the terminal, of which one stays free for the cursor.
    """
    room = max(1, height - 5)
    rows = []
    for name, seen in list(running.items())[: room if len(running) <= room else room - 1]:
        if seen is None:
            rows.append((name, "starting", "", "", ""))
        else:
            rows.append(
                (
                    name,
                    f"{seen.step:,}" + ("" if seen.steps is None else f"/{seen.steps:,}"),
                    _value(seen.loss),
                    _value(seen.best_val_loss),
                    "-" if seen.seconds_left is None else clock(seen.seconds_left),
                )
            )
    head = ("running", "step", "loss", "best val", "left")
    numbers = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)][1:]
    names = width - 1 - sum(numbers) - 2 * len(numbers)
    short = shorten([row[0] for row in rows], names)
    cells = [(name, *row[1:]) for name, row in zip(short, rows, strict=True)]
    table = aligned([head, *cells], width=width)
    if len(running) > len(rows):
        table.append(f"and {len(running) - len(rows)} more")
    total, done = schedule.sweep.size(), len(schedule.done)
    rest = total - done - len(schedule.failed) - len(running)
    counts = (
        f"{done} of {total} done, {len(running)} running, {rest} waiting, {len(schedule.failed)} "
        "failed"
    )
    chosen = (
        f"{len(schedule.best)} of {len(schedule.sweep.methods)} methods have their searched value"
    )
    ends = f"  {clock(left)} left" if left is not None else ""
    searching = (
        [chosen] if any(schedule.sweep.search(method) for method in schedule.sweep.methods) else []
    )
    return [line[: width - 1] for line in ["", *table, *searching, counts + ends]]


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Cut long names in the middle: they begin with the method and end with the seed.

    Where that leaves some alike, their second part is what they differ in, from there on.
    """
    width = max(width, 8)
    first, rest = (width - 2) // 3, width - 2 - (width - 2) // 3
    cut = {n: n if len(n) <= width else f"{n[:first]}..{n[-rest:]}" for n in names}
    for same in ([n for n in cut if cut[n] == short] for short in {*cut.values()}):
        if len(same) > 1:
            start = len(os.path.commonprefix(same))
            cut |= {n: f"{n[:first]}..{n[start:][:rest]}" for n in same}
    return [cut[name] for name in names]


def methods_table(schedule: Schedule) -> list[str]:
    """Make a table of each method's best point, and its mean and standard deviation over seeds."""
    sweep = schedule.sweep
    keys = list(sweep.methods[0].points[0])
    found: list[Outcome] = []
    rows = []
    names = shorten([method.name for method in sweep.methods], 38)
    for name, method in zip(names, sweep.methods, strict=True):
        point = schedule.best.get(method.name)
        trials = sweep.reported(method, point) if point is not None else []
        outcomes = [schedule.done[trial.name] for trial in trials if trial.name in schedule.done]
        found += outcomes
        values = [outcome.value for outcome in outcomes]
        spread = f"{mean(values):.4f}" if values else "-"
        spread += f" +- {stdev(values):.4f}" if len(values) > 1 else ""
        edge = "*" if schedule.at_edge(method) else " "
        chosen = [f"{point[key]}{edge}" if point else "- " for key in keys]
        rows.append((name, *chosen, str(len(values)), spread))
    head = (
        "method",
        *(f"{sweep.labels[key]} " for key in keys),
        "seeds",
        found[0].metric if found else "",
    )
    table = aligned([head, *rows])
    if any(map(schedule.at_edge, sweep.methods)):
        table += [
            "",
            "*  the least or the largest value that was searched: a wider search may do better",
        ]
    return table
