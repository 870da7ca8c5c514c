"""Reads a sweep file: what it says, in the words of `zoo.sweep.plan`, or what is wrong with it."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

from zoo.cli.fit.config_files import find, is_pipe, load, shipped
from zoo.errors import UserError, did_you_mean
from zoo.files.plain import DEEPEST
from zoo.runs.names import short_names
from zoo.sweep.names import Point, config_names, label, shown, stem
from zoo.sweep.plan import Match, Method, Sweep, count, digest

KEYS = ("config", "options", "grid", "search", "seeds", "match")
OURS = (
    "name",
    "seed_everything",
    "ckpt_path",
    "trainer.default_root_dir",
    "trainer.logger",
    "trust",
)
"""The options of `zoo fit` that a sweep sets itself."""
TRIALS, BASES = 10_000, 1_000
"""How many trials a sweep has without a further word, and how many configs one may start from, of
which each counts as often as it is named."""
LAST_SEED = 2**32 - 1


def read(name: str, most: int = TRIALS) -> Sweep:
    """Read a sweep file, by path or shipped name.

    Args:
        name: of the file.
        most: how many trials it may have.

    Raises:
        UserError: if there is none, or it says nothing, something unknown, two things at once or
            too much.
    """
    if name == "-" or is_pipe(name):
        raise UserError(
            f"--config {name} can be read once only, and a sweep reads it again when it goes on: "
            "give a file"
        )
    try:
        path = find(name)
        return parse(load(path), path.parent, most)
    except (TypeError, OSError) as error:
        raise UserError(str(error)) from None


def parse(raw: Mapping[str, Any], folder: Path, most: int = TRIALS) -> Sweep:
    """Say what a sweep file says, whose configs may lie beside it.

    Its trials are counted before anything is made of them: a few lines can stand for billions.

    Raises:
        UserError: as `read`.
        TypeError: for a config that is not found or cannot be read.
    """
    for key in raw:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS, f"it has {', '.join(KEYS)}")
            if "model" in raw or "base" in raw:
                hint = "; is this a config of zoo fit?"
            raise UserError(f"a sweep file has no {shown(key)}{hint}")
    options = mapping(raw.get("options") or {}, "options")
    search = dict(mapping(raw.get("search") or {}, "search"))
    seeds = _seeds(raw.get("seeds"), "seeds")
    search_seed = _seeds([search.pop("seed", 0)], "search.seed")[0] if "search" in raw else None
    if "search" in raw and not search:
        raise UserError(
            "search tunes no option: name one with its values, as in model.optimizer.lr: [0.005, "
            "0.01]"
        )
    if search_seed in seeds:
        raise UserError(
            f"seed {search_seed} is the search's and reported too: take it out of seeds, or give "
            "search another seed"
        )
    searched = {key: axis(value, f"search.{key}", must=True) for key, value in search.items()}
    blocks = raw.get("grid")
    blocks = blocks if isinstance(blocks, list) else [blocks or {}]
    grid = [mapping(block or {}, "grid", ()) for block in blocks]
    if not grid or not all(grid):
        raise UserError(
            "the grid is empty: name an option with its values, as in model.parameterization: "
            "[DCT, Dense]"
        )
    for key in options:
        if (
            where := "grid"
            if any(key in block for block in grid)
            else "search"
            if key in searched
            else None
        ):
            raise UserError(f"{key} stands in options and in {where}: take it out of one of them")
    labels = short_names({key for block in grid for key in block} | set(searched))
    base = config_names(raw.get("config"))
    parts = []
    for block in grid:
        tuned = {
            key: axis(block[key], f"grid's {key}", must=True) if key in block else values
            for key, values in searched.items()
        }
        axes = {
            key: axis(value, f"grid's {key}") for key, value in block.items() if key not in searched
        }
        parts.append((axes, tuned))
    _check_count(parts, len(seeds), search_seed is not None, most)
    files = cache(_files)
    methods = []
    for axes, tuned in parts:
        points = [dict(zip(tuned, values, strict=True)) for values in product(*tuned.values())]
        for values in product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            methods.append(_method(point, base, options, points, labels, folder, files))
    _check(methods, labels)
    return Sweep(tuple(methods), seeds, search_seed, labels, _match(raw.get("match")))


def _match(value: Any) -> Match | None:
    if value is not None and value not in get_args(Match):
        raise UserError(
            f"match takes {' or '.join(get_args(Match))}, of which all methods then have as much, "
            f"got {shown(value)}"
        )
    found: Match | None = value
    return found


def _check_count(
    parts: Iterable[tuple[Mapping[str, list[Any]], Mapping[str, list[Any]]]],
    seeds: int,
    searches: bool,
    most: int,
) -> None:
    """Refuse a grid that has too many trials.

    Args:
        parts: of each part of the grid what is set and what is searched, by option.
        seeds: how many are reported.
        searches: whether there is a search.
        most: how many trials there may be.

    Raises:
        UserError: saying how many there would be.
    """
    total = 0
    for axes, tuned in parts:
        points = math.prod(map(len, tuned.values()))
        total += math.prod(map(len, axes.values())) * count(points, seeds, searches and points > 1)
    if total > most:
        many = f"{total:,}" if total < 1e15 else f"about 10^{math.log10(total):.0f}"
        remedy = f", or allow them with --max-trials {total}" if total < 1e15 else ""
        raise UserError(
            f"the sweep has {many} trials, more than {most:,}: take values out of its grid, search "
            f"or seeds{remedy}"
        )


def _method(
    point: dict[str, Any],
    base: Sequence[str],
    options: Point,
    points: Sequence[Point],
    labels: Mapping[str, str],
    folder: Path,
    read_files: Callable[[Path], tuple[dict[str, Any], ...]],
) -> Method:
    name = "-".join(label(point, labels)) or "all"
    names: list[str] = []
    files: list[dict[str, Any]] = []
    for config in [*base, *config_names(point.pop("config", None))]:
        path = find(config, folder)
        here = Path(config).is_file() or path in shipped().values()
        names.append(config if here else str(path))
        files += read_files(path)
    return Method(name, tuple(names), {**options, **point}, tuple(points), tuple(files))


def _check(methods: Sequence[Method], labels: Mapping[str, str]) -> None:
    """Refuse methods that cannot be told apart or compared.

    Raises:
        UserError: if two methods or trials are one, or some are searched over more values than
            others.
    """
    seen: set[str] = set()
    for method in methods:
        same = {method.name, _same([method.config, method.options])}
        if seen & same:
            raise UserError(f"the grid gives {method.name} twice: take it out of one of its places")
        seen |= same
    first = methods[0]
    for method in methods:
        if len(method.points) != len(first.points):
            raise UserError(
                f"{first.name} is searched over {len(first.points)} values and {method.name} over "
                f"{len(method.points)}: give all as many, or the comparison is not fair"
            )
    stems: set[str] = set()
    for method in methods:
        for point in method.points:
            name = stem(method.name, point, labels)
            if name in stems:
                raise UserError(
                    f"two trials would both be called {name}, and share a folder: write their "
                    "values shorter, or leave one out"
                )
            stems.add(name)


def mapping(value: Any, where: str, refused: Iterable[str] = ("config",)) -> Mapping[str, Any]:
    """Take a mapping of options to their values.

    Raises:
        UserError: if it is none, or names an option that is the sweep's own.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where} must hold `option: value` lines, got {shown(value)}")
    for key, each in value.items():
        if key in OURS or key in refused:
            hint = {"seed_everything": "; seeds has them", "trust": ", from zoo sweep --trust"}.get(
                key, ""
            )
            raise UserError(f"{where} cannot set {key}: the sweep sets it{hint}")
        if key.startswith("-"):
            raise UserError(
                f"{where} has {shown(key)}: write options without dashes, as {key.lstrip('-')}"
            )
        _check_plain([key, each], f"{where}'s {key}")
    return {key: number(each) for key, each in value.items()}


def axis(value: Any, where: str, must: bool = False) -> list[Any]:
    """Take the values of an option, each once; one value is a list of one, if it may be.

    Raises:
        UserError: if it is empty, holds a value twice, or is no list where it must be.
    """
    if must and not isinstance(value, list):
        raise UserError(f"{where} must be a list of the values to search, got {shown(value)}")
    values = [number(each) for each in value] if isinstance(value, list) else [number(value)]
    if not values:
        raise UserError(f"{where} is an empty list: give it a value")
    seen: set[str] = set()
    for each in values:
        if (same := _same(each)) in seen:
            raise UserError(f"{where} has {shown(each)} twice: the same trials would run twice")
        seen.add(same)
    return values


def _check_plain(value: Any, where: str) -> None:
    """Raise UserError for what cannot stand on a command line."""
    if isinstance(value, dict):
        _check_plain([*value, *value.values()], where)
        value = next((key for key in value if not isinstance(key, str)), None)
        if value is not None:
            raise UserError(
                f"{where} has the key {shown(value)}, which is no text: write it in quotes"
            )
    elif isinstance(value, list):
        for each in value:
            _check_plain(each, where)
    elif isinstance(value, str):
        if re.search("[\0\ud800-\udfff]", value):
            raise UserError(
                f"{where} has {shown(value)}, which cannot stand on a command line: take it out"
            )
    elif type(value) is int and value.bit_length() > 1024:
        raise UserError(f"{where} has a number of more than 300 digits: give another one")
    elif value is not None and type(value) not in (bool, int, float):
        raise UserError(f"{where} has {shown(value)}, a {type(value).__name__}: write it in quotes")


def _same(value: Any) -> str:
    """Write a value so that equal ones, such as 1 and 1.0, are written alike."""
    exact = type(value) is int and abs(value) <= 2**53
    return json.dumps(float(value) if exact else value, sort_keys=True, default=str)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int and 0 <= seed <= LAST_SEED for seed in seeds):
        raise UserError(
            f"{where} must be whole numbers from 0 to {LAST_SEED}, as in [1, 2, 3], got "
            f"{shown(value)}"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(
            f"{where} has a number twice, got {shown(value)}: the same trials would run twice"
        )
    return tuple(seeds)


def number(value: Any) -> Any:
    """Take 1e-3 for a number, which YAML reads as a word."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _files(path: Path) -> tuple[dict[str, Any], ...]:
    found = tuple(chain(path))
    try:
        digest(found)
    except TypeError:
        raise UserError(
            f"config '{path}', or a base of it, has a key that is no text: write it in quotes"
        ) from None
    return found


def chain(path: Path, seen: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Read a config and its bases, bases first.

    Raises:
        UserError: if it has too many, or itself, as bases.
        TypeError: for a config that is not found or cannot be read.
    """
    raw = load(path)
    parts: list[dict[str, Any]] = []
    for base in (find(name, path.parent) for name in config_names(raw.get("base"))):
        if base in (*seen, path):
            raise UserError(f"config '{path}' has itself as base: name another one, or none")
        parts += chain(base, (*seen, path))
        if len(parts) > BASES or len(seen) > DEEPEST:
            raise UserError(f"config '{path}' starts from too many others: name fewer as base")
    return [*parts, raw]
