"""Which classes a file may name: zoo's own, and those that the user has named on this command line.

A checkpoint, an adapter, a run's config.yaml or a sweep's folder may come from anyone. What it
names is compared with this list before anything is imported, let alone called; afterwards the class
itself is: it must be a class, defined in a file of the package that it was looked up in, and a
subclass of what its place takes. Strings prove nothing: `zoo.x.os.system` begins with `zoo`, and a
folder called `tasks` may be anybody's.
"""

import importlib
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from zoo import path_today
from zoo.errors import UserError, option
from zoo.files.argument_types import ArgumentType, argument_types
from zoo.files.paths import path_outside
from zoo.files.plain import parse_yaml, strings_in
from zoo.provenance import PACKAGE

OPTION = "--trust"
HELP = "a module or class of your own that files which were handed over may name; repeatable"
OURS = ("zoo", "tasks")
ARGUMENTS = ("init_args", "dict_kwargs")
"""Where a config has the arguments of a class."""
LIBRARIES = ("lightning", "torch")
"""The packages whose classes a run's trainer may have when training goes on."""
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
PLACES = re.compile(
    r"--(model|data|model\.(parameterization|overrides)(\.(init_args\.)?(parts|left|right))*|"
    r"trainer\.(callbacks|logger|strategy|plugins|profiler))(\.class_path|\+)?"
)
"""Options that take a class."""
WORD = re.compile(r"[\w-]+(:\d+)?")
"""How a strategy, an accelerator or a profiler is named that needs no class."""
NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\.?(inf|nan)", re.IGNORECASE)


class Untrusted(UserError):
    """A file names a class that is not on the list."""


@dataclass(frozen=True)
class Trust:
    """Say what a command may import for a file.

    Args:
        names: modules and classes that the user has named with `--trust`.
        typed: classes that the user has given as an option.
        argv: the command after `zoo`, to be repeated with more of them.
    """

    names: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Trust":
        """Read what a command line opts into: by `--trust`, or as a value where a class belongs."""
        rest, names = split(argv)
        typed = []
        for word, after in zip(rest, [*rest[1:], ""], strict=True):
            key, equals, value = word.partition("=")
            if PLACES.fullmatch(key):
                typed += [
                    text
                    for text in strings_in(_parsed(value if equals else after))
                    if DOTTED.fullmatch(text)
                ]
        return cls(tuple(names), tuple(typed), tuple(argv))

    def words(self) -> list[str]:
        """Write the same as options, for a command that is started by this one."""
        return [
            word for name in dict.fromkeys([*self.names, *self.typed]) for word in (OPTION, name)
        ]

    def find(
        self, path: str, wanted: type | tuple[type, ...], where: str, libraries: bool = False
    ) -> type:
        """Import the class that a file names.

        Args:
            path: the class, as the file has it.
            wanted: what it must inherit from.
            where: what to call the file.
            libraries: whether it may be one of `LIBRARIES`.

        Raises:
            Untrusted: if it is not on the list; nothing was imported then.
            UserError: if it is not there, no class, or none that is wanted.
        """
        if isinstance(path, str) and path.isidentifier():
            path = _full(path, wanted)
        if not (isinstance(path, str) and DOTTED.fullmatch(path)):
            raise UserError(
                f"{where} names {_shown(path)}, which is no path of a class: use another one"
            )
        path = path_today(path)
        top, (module, _, name) = path.partition(".")[0], path.rpartition(".")
        known = (*OURS, *LIBRARIES) if libraries else OURS
        opted = self._opted(path)
        if opted is None and not (top in known and _is_genuine(top)):
            raise self.refusal(path, where)
        try:
            found = getattr(importlib.import_module(module), name)
        except UserError:
            raise
        except Exception as error:  # a module of the user's own can raise anything
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{where} names the class {path}, which cannot be imported here ({why[0][:100]}): "
                "run it where it is found"
            ) from error
        if not isinstance(found, type):
            raise UserError(f"{where} names {path}, which is no class: use another one")
        home = found.__module__
        within = opted is not None and (
            path == opted or home == opted or home.startswith(f"{opted}.")
        )
        if not within and not (
            home.partition(".")[0] in known and _is_genuine(home.partition(".")[0], home)
        ):
            raise UserError(
                f"{where} names {path}, which is not defined there, but in {home}: use another one"
            )
        if not issubclass(found, wanted):
            kinds = wanted if isinstance(wanted, tuple) else (wanted,)
            raise UserError(
                f"{where} names {path}, which is no "
                f"{' or '.join(kind.__name__ for kind in kinds)}: use another one"
            )
        return found

    def _opted(self, path: str) -> str | None:
        """Find the name by which the user has let a class in; None if that was not done."""
        known = (given for given in self.names if path == given or path.startswith(f"{given}."))
        return next(known, path if path in self.typed else None)

    def refusal(self, path: str, where: str) -> Untrusted:
        """Make the error for a class that is not on the list."""
        top = path.partition(".")[0]
        if top in OURS:  # by its name alone
            return Untrusted(
                f"{where} names {path}, and the package {top!r} that Python finds here is another "
                "one than zoo's: nothing of it was imported; start where it is not found"
            )
        said = f"{where} names {path}, which is not zoo's own: nothing of it was imported"
        return Untrusted(f"{said}; {self._remedy(path)}")

    def _remedy(self, path: str) -> str:
        """Say how to let a class in: by the whole command, where that is known."""
        if not self.argv:
            return f"if you trust it, add {option('trust', path)}"
        return f"if you trust it: {shlex.join(['zoo', *self.argv, OPTION, path])}"

    def check(
        self, spec: Any, wanted: type | tuple[type, ...], where: str, inside: Path | None = None
    ) -> type:
        """Check a class with its arguments and all in them.

        Args:
            spec: what a file has: `path`, or `{class_path: path, init_args: {...}}`.
            wanted: what the class must inherit from.
            where: what to call the file.
            inside: the folder in which paths must lie; with it, classes of `LIBRARIES` are taken
                too.

        Returns:
            The class.

        Raises:
            UserError: if it is none of these, or names anything that is not on the list.
        """
        path, arguments = (spec, {}) if isinstance(spec, str) else _parts(spec, where)
        cls = self.find(path, wanted, where, inside is not None)
        loose = cls.__module__.partition(".")[0] not in LIBRARIES or self._opted(path) is not None
        for key, value in () if loose else arguments.items():
            if outside := path_outside(str(key), value, inside):
                said = (
                    f"{where} gives {path} the {key} {_shown(outside)}, which leads out of the run"
                )
                raise Untrusted(f"{said}; {self._remedy(path)}")
        self.check_arguments(cls, arguments, where, inside)
        return cls

    def check_arguments(
        self, cls: type, arguments: Mapping[str, Any], where: str, inside: Path | None = None
    ) -> None:
        """Check the arguments of a class, by name; otherwise as `check`."""
        types = argument_types(cls)
        for key, value in arguments.items():
            if not (isinstance(key, str) and key.isidentifier()):
                raise UserError(
                    f"{where} gives {cls.__name__} an argument {_shown(key)}: use another one"
                )
            self._check_value(value, types.get(key, Any), f"{where}: {key}", inside)

    def _check_value(self, value: Any, hint: Any, where: str, inside: Path | None) -> None:
        """Check a value for a type: wherever that takes a class, a string is the name of one."""
        wanted = ArgumentType(hint)
        if isinstance(value, str):
            self._check_text(value, wanted, where, inside)
        elif isinstance(value, Mapping):
            self._check_mapping(value, wanted, where, inside)
        elif isinstance(value, list | tuple):
            for each in value:
                self._check_value(each, wanted.items, where, inside)
        elif not isinstance(value, bool | int | float | NoneType):
            raise UserError(f"{where} is {_shown(value)}: use another one")

    def _check_text(self, text: str, wanted: ArgumentType, where: str, inside: Path | None) -> None:
        is_number = NUMBER.fullmatch(text) is not None
        if wanted.takes_words_alone and text not in wanted.words and not is_number:
            legal = " or ".join(wanted.words)
            raise UserError(f"{where} is {_shown(text)}, and must be {legal}: use another one")
        if wanted.classes and os.path.lexists(text):  # jsonargparse would read it as a config
            raise UserError(
                f"{where} is {_shown(text)}, and a file here is called so, too: go to another "
                "folder"
            )
        if wanted.classes and not (wanted.takes_text and WORD.fullmatch(text)):
            self.check(text, wanted.classes, where, inside)
        elif wanted.takes_anything:  # jsonargparse reads it as YAML
            value = _parsed(text)
            if isinstance(value, Mapping | list):
                self._check_value(value, Any, where, inside)
        elif not (wanted.classes or wanted.takes_text or is_number):
            raise UserError(f"{where} is the text {_shown(text)}: use another one")

    def _check_mapping(
        self, value: Mapping[Any, Any], wanted: ArgumentType, where: str, inside: Path | None
    ) -> None:
        if "class_path" in value:
            self.check(value, wanted.classes or (object,), where, inside)
        elif wanted.dataclass is not None:
            self.check_arguments(wanted.dataclass, value, where, inside)
        elif wanted.classes and not wanted.takes_mapping:
            raise UserError(f"{where} is {_shown(value)}, which names no class: use another one")
        else:
            for key, each in value.items():
                if not isinstance(key, str):
                    raise UserError(f"{where} has the key {_shown(key)}: use another one")
                self._check_value(each, wanted.values, f"{where}.{key}", inside)


NOBODY = Trust()
"""No classes but zoo's own."""


def imported(path: str) -> Any:
    """Find what a path stands for that was imported already; None if it was not."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def split(argv: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the words without `--trust`, and what that names.

    Raises:
        UserError: if a name is missing.
    """
    rest, names, words = [], [], iter(argv)
    for word in words:
        key, equals, value = word.partition("=")
        if key != OPTION:
            rest.append(word)
            continue
        name = value if equals else next(words, "")
        if not name or name.startswith("-"):
            raise UserError(
                f"{OPTION} takes the name of a module or class, as in {OPTION} my_basis"
            )
        names.append(name)
    return rest, names


def _is_genuine(top: str, module: str | None = None) -> bool:
    """Say whether a package is the one that zoo came with, and a module of it lies in its folder.

    `tasks` is the one beside `zoo`, wherever a folder of that name lies that would be found first.
    """
    if top in OURS:
        home = PACKAGE.parent / top
    else:
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.origin:
            return False
        home = Path(spec.origin).parent
    package = sys.modules.get(top)
    origin = (
        getattr(package, "__file__", None)
        if package
        else getattr(importlib.util.find_spec(top), "origin", None)
    )
    if origin is None or Path(origin).resolve().parent != home.resolve():
        return False
    if module is None:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(home.resolve())


def _full(name: str, wanted: type | tuple[type, ...]) -> str:
    """Find the path of a class of zoo's by its name; gives the name if there is none."""
    todo = list(wanted if isinstance(wanted, tuple) else (wanted,))
    while todo:
        cls = todo.pop()
        if cls.__name__ == name and cls.__module__.partition(".")[0] in OURS:
            return f"{cls.__module__}.{name}"
        todo += cls.__subclasses__() if cls is not object else []
    return name


def _parts(spec: Any, where: str) -> tuple[Any, Mapping[str, Any]]:
    if (
        not isinstance(spec, Mapping)
        or "class_path" not in spec
        or set(spec) - {"class_path", *ARGUMENTS}
    ):
        raise UserError(
            f"{where} holds {_shown(spec)} where a class with its arguments belongs: use another "
            "one"
        )
    arguments: dict[str, Any] = {}
    for key in ARGUMENTS:
        part = spec.get(key) or {}
        if not isinstance(part, Mapping):
            raise UserError(
                f"{where} has the {key} {_shown(part)}, which are no mapping: use another one"
            )
        if twice := next((name for name in part if name in arguments), None):
            raise UserError(
                f"{where} gives {_shown(twice)} twice, in {' and in '.join(ARGUMENTS)}: use "
                "another one"
            )
        arguments |= part
    return spec["class_path"], arguments


def _parsed(text: str) -> Any:
    """Read a text as YAML; gives the text if it is none."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
