"""Errors of jsonargparse and Lightning, said in one line with the remedy."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser

from zoo.errors import UserError
from zoo.module import ZooData, ZooModule
from zoo.parameterizations import WeightParameterization

Rule = Callable[[re.Match[str], ArgumentParser], str]
RULES: list[tuple[re.Pattern[str], Rule]] = []
"""(what jsonargparse says, what zoo says), tried in order. tests/test_mistakes.py has a case for each."""


def rule(pattern: str) -> Callable[[Rule], Rule]:
    """Add a rule for messages that match, across lines."""

    def add(function: Rule) -> Rule:
        RULES.append((re.compile(pattern, re.DOTALL), function))
        return function

    return add


def explain(message: str, parser: ArgumentParser) -> str:
    """One line for a message of jsonargparse; an unknown one is cut to its last line."""
    for pattern, function in RULES:
        if match := pattern.search(message):
            return function(match, parser)
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else message


def user_error(error: BaseException) -> str | None:
    """What the user did wrong, if that is the cause of an exception, however deeply it is wrapped."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        cause = cause.__cause__ or cause.__context__
    return None


def near(word: str, words: Iterable[str]) -> str:
    """A suggestion, if one is close."""
    close = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def subclasses(cls: type) -> Iterable[type]:
    """All concrete subclasses."""
    for sub in cls.__subclasses__():
        if not inspect.isabstract(sub):
            yield sub
        yield from subclasses(sub)


def settings(class_path: str) -> list[str]:
    """What a class can be given in a config."""
    module, _, name = class_path.rpartition(".")
    skip = {"self", "out_features", "in_features"}
    return [key for key in inspect.signature(getattr(import_module(module), name).__init__).parameters if key not in skip]


@rule(r"(no config '[^\n]+|config [^\n]+, line \d+[^\n]*|config \S+ (?:must hold|cannot be read|has itself)[^\n]*)")
def _config(match: re.Match[str], parser: ArgumentParser) -> str:
    return match[1]


@rule(r"Option '([^']+)' is not accepted.*?class_path='([^']+)'")
def _setting(match: re.Match[str], parser: ArgumentParser) -> str:
    return _no_setting(match[1], match[2])


@rule(r"Problem with given class_path '([^']+)':\s+(?:-\s*)?(?:Option '([^']+)' is not accepted|Key '([^']+)' is not expected)")
def _task_setting(match: re.Match[str], parser: ArgumentParser) -> str:
    return _no_setting(match[2] or match[3], match[1])


def _no_setting(key: str, class_path: str) -> str:
    have = settings(class_path)
    name = class_path.rpartition(".")[2]
    return f"{name} has no setting {key!r}{near(key, have)}; it has {', '.join(have) or 'none'}"


@rule(r"does not accept option '([^']+)'")
def _option(match: re.Match[str], parser: ArgumentParser) -> str:
    key = match[1]
    keys = [action.dest for action in parser._actions]
    head = key.split(".")[0]
    heads = {k.split(".")[0] for k in keys}
    return f"no option {key!r}" + (near(key, keys) if head in heads else near(head, heads))


@rule(r"Expected a dot import path string: ([\w.]+)")
def _class(match: re.Match[str], parser: ArgumentParser) -> str:
    names = sorted({c.__name__ for base in (WeightParameterization, ZooModule, ZooData) for c in subclasses(base)})
    return (
        f"no class is called {match[1]!r}{near(match[1], names)}; known are {', '.join(names)}, "
        "and one of your own goes by its path, as my_file.MyBasis"
    )


@rule(r"No module named '([^']+)'")
def _module(match: re.Match[str], parser: ArgumentParser) -> str:
    return f"cannot import a class from {match[1]!r}: no such module in {Path.cwd()} or installed"


@rule(r"following arguments are required: (\S+)")
def _missing(match: re.Match[str], parser: ArgumentParser) -> str:
    return "nothing says what to train: give a config, as in --config dct_half.yaml"
