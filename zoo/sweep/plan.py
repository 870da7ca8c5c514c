"""What a sweep runs: methods, the values that are searched for each, and trials.

A **point** is a mapping of the command line's options to values. A **method** is a point of the grid without the
searched options; its **trials** are `zoo fit` at each searched point on the search's seed, and then at the best of
them on the reported seeds.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.sweep.names import Point, label, word

ENDS = ("trainer.callbacks", "trainer.max_epochs", "trainer.max_time")
"""What else than `trainer.max_steps` can end a run."""


@dataclass(frozen=True)
class Trial:
    """One `zoo fit`.

    Args:
        name: of its folder.
        method: whose it is.
        searched: whether it belongs to the search.
        point: its searched options.
        config: the configs that it starts from, by path or shipped name.
        options: all else on its command line.
        seed: of everything.
        steps: that it will take, if that is known beforehand.
        digest: of what is in the configs.
    """

    name: str
    method: str
    searched: bool
    point: Point
    config: tuple[str, ...]
    options: Point
    seed: int
    steps: int | None
    digest: str

    def words(self, out: str) -> list[str]:
        """Its command line after `zoo`; parents come before their children, as a class before its settings."""
        pairs = sorted(self.options.items(), key=lambda pair: pair[0].count("."))
        return [
            "fit", *(word for config in self.config for word in ("--config", config)),
            *(f"--{key}={word(value)}" for key, value in pairs),
            f"--name={self.name}", f"--trainer.default_root_dir={out}", f"--seed_everything={self.seed}",
        ]

    def record(self) -> dict[str, Any]:
        """What a folder of this name must hold a run of."""
        settings = asdict(self)
        return {"config": list(self.config), **{key: settings[key] for key in ("options", "seed", "digest")}}


@dataclass(frozen=True)
class Method:
    """A point of the grid.

    Args:
        name: of the options that the grid gives.
        config: as in a trial.
        options: all but the searched ones.
        points: that are searched; a single one, which may be empty, needs no search.
        files: what is in the configs, bases first.
    """

    name: str
    config: tuple[str, ...]
    options: Point
    points: tuple[Point, ...]
    files: tuple[Mapping[str, Any], ...]

    def trial(self, point: Point, seed: int, labels: Mapping[str, str], searched: bool = False) -> Trial:
        """The trial at a searched point, on a seed."""
        options = {**self.options, **point}
        name = "-".join([self.name, *label(point, labels), f"seed={seed}"])
        steps = planned_steps(self.files, options)
        return Trial(name, self.name, searched, point, self.config, options, seed, steps, digest(self.files))


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Args:
        methods: in its order.
        seeds: that are reported.
        search_seed: of the search; None without one.
        labels: how trials' names call an option.
    """

    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    search_seed: int | None
    labels: Mapping[str, str]

    def search(self, method: Method) -> list[Trial]:
        """The trials of a method's search: none where there is nothing to choose."""
        if self.search_seed is None or len(method.points) == 1:
            return []
        return [method.trial(point, self.search_seed, self.labels, searched=True) for point in method.points]

    def reported(self, method: Method, point: Point) -> list[Trial]:
        """The trials of a method at the best point of its search."""
        return [method.trial(point, seed, self.labels) for seed in self.seeds]

    def every(self) -> list[Trial]:
        """All trials that could be: at every searched point, on every seed."""
        return [trial for method in self.methods for trial in [
            *self.search(method), *(each for point in method.points for each in self.reported(method, point))
        ]]

    def size(self) -> int:
        """How many trials there are."""
        return sum(len(self.search(method)) + len(self.seeds) for method in self.methods)


def digest(files: Iterable[Mapping[str, Any]]) -> str:
    """Of what is in configs."""
    return hashlib.sha256(json.dumps(list(files), sort_keys=True, default=str).encode()).hexdigest()[:12]


def planned_steps(files: Iterable[Mapping[str, Any]], options: Point) -> int | None:
    """How many steps a run takes, if `trainer.max_steps` alone ends it."""
    known: dict[str, Any] = {}
    for file in files:
        trainer = file.get("trainer")
        known |= {f"trainer.{key}": value for key, value in trainer.items()} if isinstance(trainer, dict) else {}
    known |= options
    steps = known.get("trainer.max_steps")
    ends = any(known.get(key) is not None for key in ENDS)
    return steps if type(steps) is int and steps >= 0 and not ends else None
