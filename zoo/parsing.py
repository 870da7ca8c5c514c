"""The parser of the commands that train and test: its errors in one line, and what it built held against its types."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from jsonargparse import Path as ConfigPath
from lightning.pytorch.cli import LightningArgumentParser

from zoo import messages, trust
from zoo.errors import UserError
from zoo.files import read_text
from zoo.plain import Twice, parse_yaml
from zoo.trust import Trust

NEGATIVE = re.compile(r"-(\d[\d.:e+-]*|\.\d+|inf|nan)", re.IGNORECASE)
"""A number, or a duration, below zero."""


def _read(path: ConfigPath) -> str:
    """A config that another one names is read like any other: in UTF-8, not in the locale's encoding; each key once.

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
    """Says what is wrong in one line.

    Attributes:
        trust: which classes may be imported to find out; None where all that is parsed are the user's own words.
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
        if not self.exit_on_error:  # a parser inside a parser: the outer one reports
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        parser.trust = self.trust
        sys.stderr.write(f"zoo: {messages.explain(str(message), parser)}\n")
        self.exit(2)
        raise SystemExit(2)


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line, each with its value."""
    for word, after in zip(words, [*words[1:], ""], strict=False):
        key, equals, value = word.partition("=")
        if key.startswith("--"):
            yield key, value if equals else after


def _joined(words: Sequence[str]) -> list[str]:
    """A command line in which a value that begins with a minus is one word with its option: argparse knows -1 alone."""
    found: list[str] = []
    for word in words:
        if NEGATIVE.fullmatch(word) and found and found[-1].startswith("--") and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def options_of(words: Iterable[str]) -> frozenset[str]:
    """The options that a command line gives, without their `--`; `model` for its `model.class_path` as well."""
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
            raise UserError(f"{where} is given {path!r}, which is no class: give a class, as my_file.MyBasis")
        for key, each in pairs.items():
            check_classes(each, key if key in ("class_path", "init_args") else f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for each in value:
            check_classes(each, where)
    elif callable(value) and not isinstance(value, type):
        raise UserError(f"{where} is given the function {getattr(value, '__name__', value)!r}: give a class, as "
                        "my_file.MyBasis")
