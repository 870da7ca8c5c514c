"""What a sweep runs: methods, the values that are searched for each, and trials.

A **point** is a mapping of the command line's options to values. A **method** is a point of the
grid without the searched options; its **trials** are `zoo fit` at each searched point on the
search's seed, and then at the best of them on the reported seeds.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from zoo.files.plain import parse_yaml
from zoo.files.trust import DOTTED, LIBRARIES, OPTION, OURS, PLACES
from zoo.sweep.names import Point, stem, word

Match = Literal["flops", "tokens"]
ENDS = ("trainer.callbacks", "trainer.max_epochs", "trainer.max_time")
"""Options besides `trainer.max_steps` that can end a run."""
SEED = "-seed="
"""What stands in a trial's name before the seed, with which it ends."""
OVERRIDES = "model.overrides"
"""The option whose value has classes by pattern."""


@dataclass(frozen=True)
class Trial:
    """Describe one `zoo fit`.

    Args:
        name: what its folder is called.
        method: the name of the method that it belongs to.
        searched: whether it belongs to the method's search.
        point: its searched options.
        config: the configs that it starts from, by path or shipped name.
        options: all else on its command line.
        seed: from which everything random is drawn.
        steps: how many it will take, if that is known beforehand.
        digest: a hash of what is in the configs.
        classes: the user's own classes that the options or configs name.
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
    classes: tuple[str, ...] = ()

    def words(self, out: str, trust: Iterable[str] = ()) -> list[str]:
        """Write its command line after `zoo`, in which a class stands before its settings.

        Args:
            out: folder of the sweep.
            trust: modules and classes that the sweep was given as trusted.
        """
        pairs = sorted(self.options.items(), key=lambda pair: pair[0].count("."))
        return [
            "fit",
            *(word for config in self.config for word in ("--config", config)),
            *(f"--{key}={word(value)}" for key, value in pairs),
            f"--name={self.name}",
            f"--trainer.default_root_dir={out}",
            f"--seed_everything={self.seed}",
            *(word for name in trust for word in (OPTION, name)),
        ]

    def record(self) -> dict[str, Any]:
        """Say which settings a run in a folder of this name must have."""
        settings = asdict(self)
        return {
            "config": list(self.config),
            **{key: settings[key] for key in ("options", "seed", "digest")},
        }


@dataclass(frozen=True)
class Method:
    """Describe a point of the grid.

    Args:
        name: made of the options that the grid gives.
        config: the configs that its trials start from, by path or shipped name.
        options: all options but the searched ones.
        points: the points that are searched; a single one, which may be empty, needs no search.
        files: what is in the configs, bases first.
    """

    name: str
    config: tuple[str, ...]
    options: Point
    points: tuple[Point, ...]
    files: tuple[Mapping[str, Any], ...]

    def trial(
        self, point: Point, seed: int, labels: Mapping[str, str], searched: bool = False
    ) -> Trial:
        """Make the trial at a searched point, on a seed."""
        options = {**self.options, **point}
        name = f"{stem(self.name, point, labels)}{SEED}{seed}"
        steps = planned_steps(self.files, options)
        named = tuple(dict.fromkeys([*self._classes, *own_classes(options)]))
        return Trial(
            name, self.name, searched, point, self.config, options, seed, steps, self._digest, named
        )

    @cached_property
    def _digest(self) -> str:
        return digest(self.files)

    @cached_property
    def _classes(self) -> list[str]:
        return [path for file in self.files for path in own_classes(file)]


@dataclass(frozen=True)
class Sweep:
    """Hold what a sweep file says.

    Args:
        methods: in the order of the file.
        seeds: the seeds that are reported.
        search_seed: the seed of the search; None without a search.
        labels: what trials' names call each option.
        match: what all methods have as much of (`zoo.sweep.match`), or None.
    """

    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    search_seed: int | None
    labels: Mapping[str, str]
    match: Match | None = None

    def searches(self, method: Method) -> bool:
        """Say whether a method has something to choose."""
        return self.search_seed is not None and len(method.points) > 1

    def search(self, method: Method) -> list[Trial]:
        """Make the trials of a method's search: none where there is nothing to choose."""
        if self.search_seed is None or not self.searches(method):
            return []
        return [
            method.trial(point, self.search_seed, self.labels, searched=True)
            for point in method.points
        ]

    def reported(self, method: Method, point: Point) -> list[Trial]:
        """Make the reported trials of a method at the best point of its search."""
        return [method.trial(point, seed, self.labels) for seed in self.seeds]

    def firsts(self) -> Iterator[Trial]:
        """Make one trial of each method at each point."""
        for method in self.methods:
            if searched := self.search(method):
                yield from searched
            else:
                yield from (
                    method.trial(point, self.seeds[0], self.labels) for point in method.points
                )

    def among(self, names: Iterable[str]) -> list[Trial]:
        """Find trials by their names, of all that may be at every searched point on every seed."""
        known = {
            stem(method.name, point, self.labels): (method, point)
            for method in self.methods
            for point in method.points
        }
        seeds, found = {str(seed): seed for seed in self.seeds}, []
        for name in names:
            first, _, end = name.rpartition(SEED)
            if first not in known:
                continue
            method, point = known[first]
            if end in seeds:
                found.append(method.trial(point, seeds[end], self.labels))
            elif (
                self.search_seed is not None
                and end == str(self.search_seed)
                and self.searches(method)
            ):
                found.append(method.trial(point, self.search_seed, self.labels, searched=True))
        return found

    def size(self) -> int:
        """Count the trials."""
        return sum(
            count(len(method.points), len(self.seeds), self.searches(method))
            for method in self.methods
        )


def count(points: int, seeds: int, searches: bool) -> int:
    """Count the trials of a method."""
    return seeds + (points if searches else 0)


def digest(files: Iterable[Mapping[str, Any]]) -> str:
    """Hash what is in configs."""
    return hashlib.sha256(
        json.dumps(list(files), sort_keys=True, default=str).encode()
    ).hexdigest()[:12]


def planned_steps(files: Iterable[Mapping[str, Any]], options: Point) -> int | None:
    """Count the steps that a run takes, if `trainer.max_steps` alone ends it."""
    known: dict[str, Any] = {}
    for file in files:
        trainer = file.get("trainer")
        known |= (
            {f"trainer.{key}": value for key, value in trainer.items()}
            if isinstance(trainer, dict)
            else {}
        )
    known |= options
    steps = known.get("trainer.max_steps")
    ends = any(known.get(key) is not None for key in ENDS)
    return steps if type(steps) is int and steps >= 0 and not ends else None


def own_classes(settings: Mapping[str, Any]) -> list[str]:
    """Find the paths of classes that are neither zoo's nor its libraries', each once.

    Args:
        settings: a config, or options with their values.
    """
    found = dict.fromkeys(_class_paths(settings, ""))
    return [path for path in found if path.partition(".")[0] not in (*OURS, *LIBRARIES)]


def _class_paths(value: Any, place: str) -> Iterator[str]:
    """Find every class path in a value.

    Args:
        value: as YAML has it.
        place: the option that it is of, without `init_args`: these stand in files, and may be left
            out on a command line.
    """
    if isinstance(value, Mapping):
        patterns = place == OVERRIDES and "class_path" not in value
        skipped = ("",) if place == OVERRIDES else ("", "init_args")
        for key, each in value.items():
            parts = [part for part in (place, *str(key).split(".")) if part not in skipped]
            yield from _class_paths(each, place if patterns else ".".join(parts))
    elif isinstance(value, list):
        for each in value:
            yield from _class_paths(each, place)
    elif isinstance(value, str) and (
        place.rpartition(".")[2] == "class_path" or PLACES.fullmatch(f"--{place}")
    ):
        if DOTTED.fullmatch(value):
            yield value
        elif value.lstrip().startswith(("{", "[")):  # as on a command line
            try:
                yield from _class_paths(parse_yaml(value), place)
            except ValueError:  # fit will say so
                return
