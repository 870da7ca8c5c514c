"""The sweep file, read: what it says, in the words of `zoo.sweep.plan`, or what is wrong with it."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from zoo.config_files import find, load, shipped
from zoo.errors import UserError
from zoo.sweep.names import Point, config_names, label, short_names
from zoo.sweep.plan import Method, Sweep

KEYS = ("config", "options", "grid", "search", "seeds")
OURS = ("name", "seed_everything", "ckpt_path", "trainer.default_root_dir", "trainer.logger")
"""Options of `zoo fit` that a sweep sets itself."""


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
    search = dict(mapping(raw.get("search") or {}, "search"))
    seeds = _seeds(raw.get("seeds"), "seeds")
    search_seed = _seeds([search.pop("seed", 0)], "search.seed")[0] if "search" in raw else None
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
    seen: set[str] = set()
    for method in methods:
        same = {method.name, _same([method.config, method.options])}
        if seen & same:
            raise UserError(f"the grid gives {method.name} twice: take it out of one of its places")
        seen |= same
    first = methods[0]
    for method in methods:
        if len(method.points) != len(first.points):
            raise UserError(f"{first.name} is searched over {len(first.points)} values and {method.name} over "
                            f"{len(method.points)}: give all as many, or the comparison is not fair")


def mapping(value: Any, where: str, refused: Iterable[str] = ("config",)) -> Mapping[str, Any]:
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
        if _same(each) in map(_same, values[:i]):
            raise UserError(f"{where} has {each!r} twice: the same trials would run twice")
    return values


def _same(value: Any) -> str:
    """Equal for values that are, such as 1 and 1.0."""
    return json.dumps(float(value) if type(value) is int else value, sort_keys=True, default=str)


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


def chain(path: Path, seen: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """What is in a config and its bases, bases first."""
    raw = load(path)
    bases = [find(base, path.parent) for base in config_names(raw.get("base"))]
    return [*(part for base in bases if base not in seen for part in chain(base, (*seen, path))), raw]
