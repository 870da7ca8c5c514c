"""The parser of the commands that train and test, whose errors are one line."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, Optional, get_args, get_origin, get_type_hints

from jsonargparse import Namespace, _util
from jsonargparse import Path as ConfigPath
from lightning.pytorch.cli import LightningArgumentParser

from zoo import parameterizations
from zoo.cli.fit import messages
from zoo.errors import UserError
from zoo.files import trust
from zoo.files.access import read_text
from zoo.files.argument_types import alternatives
from zoo.files.plain import Twice, parse_yaml
from zoo.files.trust import Trust

NEGATIVE = re.compile(r"-(\d[\d.:e+-]*|\.\d+|inf|nan)", re.IGNORECASE)
"""A number, or a duration, below zero."""


# jsonargparse writes the shortest path by which a class is found, which of what `import zoo` offers
# is `zoo.DCT`. Configs keep the one that they had: runs are compared by it, and older zoos read it.
if (written_as := getattr(_util, "resolved_import_paths", None)) is not None:
    for _name in parameterizations.__all__:
        written_as.add(getattr(parameterizations, _name), f"{parameterizations.__name__}.{_name}")


def _read(path: ConfigPath) -> str:
    """Read a config that another one names like any other: in UTF-8, and each key once.

    Raises:
        TypeError: if it is none.
    """
    try:
        text = read_text(Path(path.absolute))
        parse_yaml(text)
    except ValueError as error:
        raise TypeError(f"config '{path.relative}', {error}") from error
    return text


ConfigPath.read_text = _read  # type: ignore[method-assign, assignment]


class Parser(LightningArgumentParser):
    """Parse a command line, and say what is wrong with it in one line.

    Attributes:
        trust: which classes may be imported to find out; None where all that is parsed are the
            user's own words.
        settled: options that the command line gives behind its configs, without their `--`.
    """

    trust: Trust | None = None
    settled: frozenset[str] = frozenset()

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse, with null for nested settings: jsonargparse hands them down as the word None."""
        if isinstance(args, list):
            args = [re.sub(r"^(--[\w.]+=)None$", r"\1null", word) for word in args]
            args = _joined(args)
            for option, value in _values(args):
                if ":" in value:
                    try:
                        parse_yaml(value)
                    except Twice as error:
                        self.error(f"config of {option}, {error}")
                    except ValueError:  # no YAML, and so a text
                        pass
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in one line what is wrong.

        Raises:
            UserError: whatever it is.
        """
        if not self.exit_on_error:  # a parser inside a parser: the outer one reports
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        parser.trust = self.trust
        raise UserError(messages.explain(str(message), parser)) from ex


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Go through the options of a command line, each with its value."""
    for word, after in zip(words, [*words[1:], ""], strict=False):
        key, equals, value = word.partition("=")
        if key.startswith("--"):
            yield key, value if equals else after


def _joined(words: Sequence[str]) -> list[str]:
    """Join a value that begins with a minus with its option: argparse knows -1 alone."""
    found: list[str] = []
    for word in words:
        if (
            NEGATIVE.fullmatch(word)
            and found
            and found[-1].startswith("--")
            and "=" not in found[-1]
        ):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def options_of(words: Iterable[str]) -> frozenset[str]:
    """List the options of a command line without their `--`, and `model` for `model.class_path`."""
    keys = (word.partition("=")[0] for word in words if word.startswith("--"))
    return frozenset(key.removeprefix("--").removesuffix(".class_path") for key in keys)


def check_classes(value: Any, where: str) -> None:
    """Refuse functions where classes belong: they would be called with the arguments beside them.

    Raises:
        UserError: naming the first.
    """
    if isinstance(value, Namespace | Mapping):
        pairs = vars(value) if isinstance(value, Namespace) else value
        path = pairs.get("class_path")
        if isinstance(path, str) and not isinstance(trust.imported(path), type):
            raise UserError(
                f"{where} is given {path!r}, which is no class: give a class, as my_file.MyBasis"
            )
        for key, each in pairs.items():
            check_classes(each, key if key in ("class_path", "init_args") else f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for each in value:
            check_classes(each, where)
    elif callable(value) and not isinstance(value, type):
        raise UserError(
            f"{where} is given the function {getattr(value, '__name__', value)!r}: give a class, "
            "as my_file.MyBasis"
        )


def check_nulls(
    value: Any, where: str, cls: type | None = None, linked: Iterable[str] = ()
) -> None:
    """Refuse null where a class takes none: the class would fail with something else.

    Args:
        value: a group of settings, with classes in it by their paths.
        where: the option that holds it.
        cls: the class whose settings it holds; None where `value` names the class.
        linked: options that are null until they are taken from others.

    Raises:
        UserError: naming the first, and what it must be.
    """
    if isinstance(value, list | tuple):
        for each in value:
            check_nulls(each, where, None, linked)
    if not isinstance(value, Namespace | Mapping):
        return
    pairs = vars(value) if isinstance(value, Namespace) else value
    if isinstance(path := pairs.get("class_path"), str):
        found = trust.imported(path)
        check_nulls(
            pairs.get("init_args"), where, found if isinstance(found, type) else None, linked
        )
        return
    known = {} if cls is None else _settings(cls)
    for key, each in pairs.items():
        kinds = list(alternatives(known.get(key, Any)))
        if (
            each is None
            and f"{where}.{key}" not in linked
            and not any(kind in (Any, None, NoneType) for kind in kinds)
        ):
            legal = " or ".join(map(_in_words, kinds))
            raise UserError(f"{where}.{key} must be {legal}, got null")
        plain = next((kind for kind in kinds if is_dataclass(kind)), None)
        check_nulls(each, f"{where}.{key}", plain, linked)  # type: ignore[arg-type]


def _in_words(kind: Any) -> str:
    """Write a type as a message has it: of a Literal, its values."""
    if get_origin(kind) is Literal:
        return str(list(get_args(kind)))
    return str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))


def _settings(cls: type) -> dict[str, Any]:
    """Find the types of a constructor's arguments, of classes above too; null if it is default."""
    found: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        if (function := vars(each).get("__init__")) is None or each is object:
            continue
        try:
            hints, parameters = get_type_hints(function), inspect.signature(function).parameters
        except Exception:  # names of the user's own that are not there when it runs
            continue
        for key, one in parameters.items():
            found[key] = (
                Optional[hints.get(key, Any)]  # noqa: UP045
                if one.default is None
                else hints.get(key, Any)
            )
    return found
