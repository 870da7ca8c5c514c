"""Which trial is next: searches first, and a method's reported seeds once its search is done."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zoo.sweep.names import Point
from zoo.sweep.plan import Method, Sweep, Trial
from zoo.sweep.trials import Outcome


@dataclass
class Schedule:
    """Keep what is done, running and waiting.

    Args:
        sweep: the plan.
        known: outcomes of trials that were finished before, by their names.
        starting: is called with a trial before it starts.

    Attributes:
        done: outcomes by the trials' names.
        before: names of trials that were finished already.
        failed: why trials failed, by their names.
        running: the trials that run, by their names.
        waiting: the trials that can start, in their order.
        best: the point that a method's search has found, by the method's name.
        stuck: why a method has no best point though its search is done, by its name.
    """

    sweep: Sweep
    known: Mapping[str, Outcome]
    starting: Callable[[Trial], None] | None = None
    done: dict[str, Outcome] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[str, Trial] = field(default_factory=dict)
    waiting: deque[Trial] = field(default_factory=deque)
    best: dict[str, Point] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for method in self.sweep.methods:
            for trial in self.sweep.search(method):
                self._add(trial)
        for method in self.sweep.methods:
            self._decide(method)

    def _add(self, trial: Trial) -> None:
        if trial.name in self.known:
            self.done[trial.name] = self.known[trial.name]
            self.before.add(trial.name)
        else:
            self.waiting.append(trial)

    def next(self) -> Trial | None:
        """Take a trial, if one may start now."""
        if not self.waiting:
            return None
        trial = self.waiting.popleft()
        if self.starting is not None:
            self.starting(trial)
        self.running[trial.name] = trial
        return trial

    def over(self) -> bool:
        """Say whether no trial will come any more."""
        return not self.waiting and not self.running

    def blocked(self) -> int:
        """Count the trials that will not come, as their method's search has no result."""
        failed = {
            trial.method
            for method in self.sweep.methods
            for trial in self.sweep.search(method)
            if trial.name in self.failed
        }
        return len(failed | set(self.stuck)) * len(self.sweep.seeds)

    def finish(self, name: str, result: Outcome | str) -> None:
        """Put down a trial's outcome, or why it failed."""
        trial = self.running.pop(name)
        if isinstance(result, str):
            self.failed[name] = result
            return
        self.done[name] = result
        if trial.searched:
            self._decide(
                next(method for method in self.sweep.methods if method.name == trial.method)
            )

    def _decide(self, method: Method) -> None:
        """Queue a method's reported seeds, if its search is done and some value of it worked."""
        search = self.sweep.search(method)
        decided = method.name in self.best or method.name in self.stuck
        if decided or not all(trial.name in self.done for trial in search):
            return
        if len({self.done[trial.name].data for trial in search} - {""}) > 1:
            self.stuck[method.name] = (
                "its search has runs on different data, which changed meanwhile: give a new --out"
            )
            return
        ranked = [(self._rank(trial), i) for i, trial in enumerate(search)]
        if ranked and not math.isfinite(min(ranked)[0]):
            self.stuck[method.name] = "no value of its search gave a finite result: give it others"
            return
        self.best[method.name] = point = (
            search[min(ranked)[1]].point if search else method.points[0]
        )
        for trial in self.sweep.reported(method, point):
            self._add(trial)

    def at_edge(self, method: Method) -> bool:
        """Say whether the best of several values is the least or the largest that was searched."""
        point = self.best.get(method.name, {})
        for key, value in point.items():
            values = sorted(
                {other[key] for other in method.points if isinstance(other[key], int | float)}
            )
            if len(values) > 2 and value in (values[0], values[-1]):
                return True
        return False

    def _rank(self, trial: Trial) -> float:
        found = self.done[trial.name]
        value = found.value if found.lower else -found.value
        return value if math.isfinite(value) else math.inf
