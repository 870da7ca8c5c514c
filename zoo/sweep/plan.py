"""The sweep file: methods, the values that are searched for each, and trials.

A **point** is a mapping of the command line's options to values. A **method** is a point of the grid without the
searched options; its **trials** are `zoo fit` at each searched point on the search's seed, and then at the best of
them on the reported seeds.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from zoo.config_files import find, load, shipped
from zoo.errors import UserError
from zoo.sweep.names import Point, config_names, label, short_names, word

KEYS = ("config", "options", "grid", "search", "seeds")
OURS = ("name", "seed_everything", "ckpt_path", "trainer.default_root_dir", "trainer.logger")
"""Options of `zoo fit` that a sweep sets itself."""
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

    def size(self) -> int:
        """How many trials there are."""
        return sum(len(self.search(method)) + len(self.seeds) for method in self.methods)


def read(name: str) -> Sweep:
    """A sweep file, by path or shipped name.

    Raises:
        UserError: if there is none, or it says nothing, something unknown or two things at once.
    """
    try:
        path = find(name)
        return parse(load(path), path.parent)
    except TypeError as error:
        raise UserError(str(error)) from None


def parse(raw: Mapping[str, Any], folder: Path) -> Sweep:
    """What a sweep file says, whose configs may lie beside it.

    Raises:
        UserError: as `read`.
        TypeError: for a config that is not found or cannot be read.
    """
    for key in raw:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(KEYS)}"
            wrong = "; is this a config of zoo fit?" if "model" in raw or "base" in raw else f"; {hint}"
            raise UserError(f"a sweep file has no {key!r}{wrong}")
    options = mapping(raw.get("options") or {}, "options")
    search = dict(mapping(raw.get("search") or {}, "search", (*OURS, "config")))
    seeds = _seeds(raw.get("seeds"), "seeds")
    search_seed = _seeds(search.pop("seed", 0), "search.seed")[0] if "search" in raw else None
    if "search" in raw and not search:
        raise UserError("search tunes no option: name one with its values, as in model.optimizer.lr: [0.005, 0.01]")
    if search_seed in seeds:
        raise UserError(f"seed {search_seed} is the search's and reported too: take it out of seeds, or give search "
                        "another seed")
    searched = {key: axis(value, f"search.{key}", must=True) for key, value in search.items()}
    blocks = raw.get("grid")
    blocks = blocks if isinstance(blocks, list) else [blocks or {}]
    grid = [mapping(block or {}, "grid", ()) for block in blocks]
    if not grid or not all(grid):
        raise UserError("the grid is empty: name an option with its values, as in model.parameterization: [DCT, Dense]")
    for key in options:
        if where := "grid" if any(key in block for block in grid) else "search" if key in searched else None:
            raise UserError(f"{key} stands in options and in {where}: take it out of one of them")
    labels = short_names({key for block in grid for key in block} | set(searched))
    base = config_names(raw.get("config"))
    methods = []
    for block in grid:
        points = [dict(zip(searched, values, strict=True)) for values in product(
            *(axis(block[key], f"grid's {key}", must=True) if key in block else searched[key] for key in searched)
        )]
        axes = {key: axis(value, f"grid's {key}") for key, value in block.items() if key not in searched}
        for values in product(*axes.values()):
            methods.append(_method(dict(zip(axes, values, strict=True)), base, options, points, labels, folder))
    _check(methods)
    return Sweep(tuple(methods), seeds, search_seed, labels)


def _method(
    point: dict[str, Any], base: Sequence[str], options: Point, points: Sequence[Point], labels: Mapping[str, str],
    folder: Path,
) -> Method:
    name = "-".join(label(point, labels)) or "all"
    names, files = [], []
    for config in [*base, *config_names(point.pop("config", None))]:
        path = find(config, folder)
        here = Path(config).is_file() or path in shipped().values()
        names.append(config if here else str(path))
        files += chain(path)
    return Method(name, tuple(names), {**options, **point}, tuple(points), tuple(files))


def _check(methods: Sequence[Method]) -> None:
    """Raises UserError if two methods are one, or some are searched over more values than others."""
    seen: dict[str, Method] = {}
    for method in methods:
        if method.name in seen:
            raise UserError(f"the grid gives {method.name} twice: take it out of one of its places")
        seen[method.name] = method
    first = methods[0]
    for method in methods:
        if len(method.points) != len(first.points):
            raise UserError(f"{first.name} is searched over {len(first.points)} values and {method.name} over "
                            f"{len(method.points)}: give all as many, or the comparison is not fair")


def mapping(value: Any, where: str, refused: Iterable[str] = (*OURS, "config")) -> Mapping[str, Any]:
    """Options with their values.

    Raises:
        UserError: if it is none, or names an option that is the sweep's own.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where} must hold `option: value` lines, got {value!r}")
    for key in value:
        if key in OURS or key in refused:
            hint = "; seeds has them" if key == "seed_everything" else ""
            raise UserError(f"{where} cannot set {key}: the sweep sets it{hint}")
        if key.startswith("-"):
            raise UserError(f"{where} has {key!r}: write options without dashes, as {key.lstrip('-')}")
    return {key: number(each) for key, each in value.items()}


def axis(value: Any, where: str, must: bool = False) -> list[Any]:
    """The values of an option, each once; one value is a list of one, unless it must be a list.

    Raises:
        UserError: if it is empty, holds a value twice, or is no list where it must be.
    """
    if must and not isinstance(value, list):
        raise UserError(f"{where} must be a list of the values to search, got {value!r}")
    values = [number(each) for each in value] if isinstance(value, list) else [number(value)]
    if not values:
        raise UserError(f"{where} is an empty list: give it a value")
    for i, each in enumerate(values):
        if json.dumps(each, default=str) in [json.dumps(other, default=str) for other in values[:i]]:
            raise UserError(f"{where} has {each!r} twice: the same trials would run twice")
    return values


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{where} must be whole numbers from 0 on, as in [1, 2, 3], got {value!r}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where} has a number twice, got {value!r}: the same trials would run twice")
    return tuple(seeds)


def number(value: Any) -> Any:
    """YAML reads 1e-3 as a word; here it is a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def chain(path: Path) -> list[dict[str, Any]]:
    """What is in a config and its bases, bases first."""
    raw = load(path)
    return [*(part for base in config_names(raw.get("base")) for part in chain(find(base, path.parent))), raw]


def digest(files: Iterable[Mapping[str, Any]]) -> str:
    """Of what is in configs."""
    return hashlib.sha256(json.dumps(list(files), sort_keys=True, default=str).encode()).hexdigest()[:12]


def planned_steps(files: Iterable[Mapping[str, Any]], options: Point) -> int | None:
    """How many steps a run takes, if `trainer.max_steps` alone ends it."""
    known: dict[str, Any] = {}
    for file in files:
        known |= {f"trainer.{key}": value for key, value in (file.get("trainer") or {}).items()}
    known |= options
    steps = known.get("trainer.max_steps")
    ends = any(known.get(key) is not None for key in ENDS)
    return steps if type(steps) is int and steps >= 0 and not ends else None
