"""Configs: found by path or as a shipped name, composed with `base:`."""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from zoo.errors import UserError, did_you_mean
from zoo.files.access import Unusable, read_text, read_typed
from zoo.files.plain import Damaged, parse_yaml
from zoo.provenance import PACKAGE

PACKAGED = PACKAGE / "_configs"
"""Where a wheel keeps the shipped configs; an editable install reads the repository's folder."""
WORDS = ("-c", "--config")
NOW_TWO = {"lora": "lora_8", "dct": "dct_8", "randlora": "randlora_8", "dense": "full"}
"""How names of shipped configs once ended, and the second of the two configs that replace each."""


BASES = ("ZooModule", "ZooData")
"""What the parser takes the model and the data for, as long as nothing says their class."""


class Layer(NamedTuple):
    """Hold what a config says, without its bases.

    Args:
        name: to call it by.
        text: as it is written.
        content: the same as plain data.
        folder: that it lies in, if it lies in one.
    """

    name: str
    text: str
    content: dict[str, Any]
    folder: Path | None


def shipped() -> dict[str, Path]:
    """Find every shipped config, by file name."""
    folder = PACKAGED if PACKAGED.is_dir() else PACKAGE.parent / "configs"
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, near: Path | None = None) -> Path:
    """Find a config by its path, beside another config, or by the name of a shipped one.

    The name may lack its `.yaml`.

    Raises:
        TypeError: if there is none, which jsonargparse turns into its own error.
    """
    here = [Path(name), *([near / name] if near else [])]
    for path in here:
        with suppress(OSError, ValueError):  # a name that no file can have
            if path.is_file():
                return path.resolve()
    known = shipped()
    for candidate in (name, f"{name}.yaml"):
        if candidate in known:
            return known[candidate]
    task, _, method = Path(name).stem.rpartition("_")
    if f"{task}.yaml" in known and task.startswith("glue_") and method in NOW_TWO:
        raise TypeError(
            f"config {Path(name).name!r} is two now: {task}.yaml, and after it "
            f"{NOW_TWO[method]}.yaml"
        )
    stems = [path.stem for path in known.values()]
    hint = did_you_mean(
        Path(name).stem, stems, "zoo list names the shipped ones", 3, "{}.yaml".format
    )
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    raise TypeError(f"no config {shown!r} here or among the shipped ones{hint}")


def load(path: Path) -> dict[str, Any]:
    """Read a config as a dict.

    Raises:
        TypeError: naming the line of a syntax error, or if it is no mapping, or nested or repeated
            without bounds.
    """
    return _read(path).content


def _read(path: Path) -> Layer:
    beside = os.path.relpath(path)
    name = path if beside.startswith("..") else beside
    name = f"'{path.name if path in shipped().values() else name}'"
    try:
        text = read_text(path)
    except Unusable as error:
        raise TypeError(
            f"config {name} cannot be read, it {error.reason}: give a text file"
        ) from error
    return Layer(name, text, _content(text, name), path.parent)


def _content(text: str, name: str) -> dict[str, Any]:
    try:
        raw = parse_yaml(text)
    except Damaged as error:
        where = f", line {error.line}" if error.line else ""
        raise TypeError(f"config {name}{where}: {error.problem}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise TypeError(f"config {name} must hold `key: value` lines, not a {type(raw).__name__}")
    return raw


def after_configs(words: Sequence[str]) -> Sequence[str]:
    """Give the words of a command line that stand behind its last config."""
    last = max((place for place, _, _ in _typed(words)), default=-1)
    return words[last + 1 :]


def configs_of(words: Sequence[str]) -> list[str]:
    """List the configs that a command line names."""
    return [config for _, _, config in _typed(words)]


def _typed(words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Find configs on a command line: the word's place, what precedes the config in it, and it."""
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if i > 0 and words[i - 1] in WORDS:
            yield i, "", word
        elif key in WORDS and equals:
            yield i, f"{key}=", value
        elif word.startswith("-c") and word != "-c":
            yield i, "-c", word.removeprefix("-c")


def given_settings(config: str, group: str) -> set[str]:
    """Find the settings of the model or the data that a config gives, or one of its bases.

    Args:
        config: as it is typed; its settings are of no interest if it is none, which the parser
            says.
        group: `model` or `data`.
    """
    found: set[str] = set()
    with suppress(TypeError):
        for layer in _layers(config):
            part = layer.content.get(group)
            if isinstance(part, str) and part.endswith((".yaml", ".yml")):
                part = load(find(part, layer.folder))
            settings = part.get("init_args", part) if isinstance(part, Mapping) else None
            found |= {str(key) for key in settings} if isinstance(settings, Mapping) else set()
    return found


def written_out(words: Sequence[str]) -> list[str]:
    """Put what configs from pipes and from standard input, `-`, hold in their place.

    They can be read once only, and a process that is started for another rank reads the command
    line again.

    Raises:
        UserError: if one is no config.
    """
    found = list(words)
    for i, before, name in _typed(words):
        if name == "-" or is_pipe(name):
            try:
                raw = _content(
                    read_typed(name), "from standard input" if name == "-" else f"'{name}'"
                )
                text = json.dumps(raw)
            except (TypeError, OSError) as error:
                raise UserError(str(error)) from None
            found[i] = before + text
    return found


def is_pipe(name: str) -> bool:
    """Say whether a name is that of a pipe, which can be read once only."""
    try:
        return bool(name) and stat.S_ISFIFO(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


class ConfigFile(ActionConfigFile):
    """`--config` by path or shipped name; a file may start from others, named in its `base:`."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: Any) -> None:
        """Merge a config, its bases first, into what is there already.

        Raises:
            TypeError: if it is none, or makes the model or the data another class than what stands
                before it.
        """
        layers = list(_layers(str(value)))
        settled: set[str] = getattr(parser, "settled", set())
        for group in sorted({"model", "data"} - settled, reverse=True):
            given, after = cfg.get(group), _last_class(layers, group)
            before = given.get("class_path") if isinstance(given, Namespace) else None
            open_before = before is not None and before.rpartition(".")[2] in BASES
            _check_order(layers, group, before is not None, open_before)
            _check_same(layers[-1].name, group, None if open_before else before, after)
        for layer in layers:
            if layer.content:
                # Configs that it names as parts of itself are looked for in its own folder.
                with chdir(layer.folder or Path()):
                    ActionConfigFile.apply_config(parser, cfg, dest, _as_value(layer))


def _check_order(layers: Sequence[Layer], group: str, settled: bool, loose: bool) -> None:
    """Refuse a class that comes after settings without one, as all of them would be lost.

    Args:
        layers: of configs, in the order in which they are merged.
        group: `model` or `data`.
        settled: whether something before the layers says the class, or that there are settings,
        loose: whether these are settings without a class.
    """
    before = "what stands before it"
    for layer in layers:
        part = layer.content.get(group)
        if _last_class([layer], group) is not None:
            if loose:
                raise TypeError(
                    f"config {layers[-1].name} says which {group} it is, and {before} sets "
                    "something of it: give the one that says which first"
                )
            settled = True
        elif isinstance(part, Mapping) and part and not settled:
            loose, before = True, layer.name


def _as_value(layer: Layer) -> str:
    """Write a config as a value that is no name of a file, which jsonargparse takes it for first.

    Where names of files are no UTF-8 and it has other letters, it is written anew: looking for the
    file would fail.
    """
    try:
        os.fsencode(layer.text)
    except UnicodeEncodeError:
        return json.dumps(layer.content, default=str) + "\n"
    return f"{layer.text}\n"


def _layers(value: str, seen: tuple[Path, ...] = ()) -> Iterator[Layer]:
    """Read a config's bases and the config, in the order in which they are merged."""
    if value.lstrip().startswith("{"):
        layer = Layer("of the command line", value, _content(value, "of the command line"), None)
    else:
        path = find(value, seen[-1].parent if seen else None)
        layer = _read(path)
        if path in seen:
            raise TypeError(f"config {layer.name} has itself as base: name another one, or none")
        seen = (*seen, path)
    if "grid" in layer.content:
        raise TypeError(f"config {layer.name} is a sweep: zoo sweep --config {value}")
    base = layer.content.get("base") or []
    names = [base] if isinstance(base, str) else base
    if not isinstance(names, list):
        raise TypeError(
            f"config {layer.name} has {base!r} as base: give a config's name, or a list"
        )
    below: list[Layer] = []
    for name in names:
        more = list(_layers(str(name), seen))
        for group in ("model", "data"):
            _check_same(more[-1].name, group, _last_class(below, group), _last_class(more, group))
        below += more
    yield from below
    yield layer


def _last_class(layers: Sequence[Layer], group: str) -> str | None:
    """Find the class that configs make of the model or the data, if they say."""
    for layer in reversed(layers):
        part = layer.content.get(group)
        path = part.get("class_path") if isinstance(part, Mapping) else part
        # What is a file is a config of its own.
        if isinstance(path, str) and not ((layer.folder or Path()) / path).is_file():
            return path
    return None


def _check_same(name: str, group: str, before: str | None, after: str | None) -> None:
    """Raise TypeError if a config swaps the class of what stands before it, which is lost."""
    if before is None or after is None or before == after:
        return
    one, other = (path.rpartition(".")[2] for path in (before, after))
    if one == other and (
        "." not in before or "." not in after or _imported(before) is _imported(after)
    ):
        return
    raise TypeError(
        f"config {name} makes the {group} a {other}, and what stands before it a {one}: give one "
        f"of the two, or say which with --{group} {other}"
    )


def _imported(path: str) -> Any:
    """Import a class by its path; gives the path, where that cannot be done."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception:  # a module of the user's own can raise anything, and says so when it is used
        return path
