"""Read the values of options that several studies have, and ask for what they need installed."""

import importlib.util
import inspect
from collections.abc import Iterable, Sequence

from zoo.errors import UserError, did_you_mean

LAB = ("scipy", "matplotlib", "pandas", "jinja2")
"""Packages of the extra `lab`."""


def need_extra(*more: str) -> None:
    """Make sure that the packages of `lab`, and `more`, are installed.

    Raises:
        UserError: naming the extra.
    """
    for name in (*LAB, *more):
        if importlib.util.find_spec(name) is None:
            raise UserError(f'this needs {name}, which is not installed: pip install -e ".[lab]"')


def split(argv: Sequence[str], prefixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Set options with a prefix apart, as `--data.key=value`: they are those of `zoo fit`."""
    ours, passed = [], []
    arguments = iter(argv)
    for word in arguments:
        if not word.startswith(prefixes):
            ours.append(word)
        else:
            passed.append(word if "=" in word else f"{word}={next(arguments, '')}")
    return ours, passed


def listed(given: object) -> list[str]:
    """Return the words of a text with commas between, or of a list, without blanks around them."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = str(given).split(",")
    return [str(word).strip() for word in given]


def words(option: str, given: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Return words, all of them known, each once.

    Args:
        option: that takes them.
        given: a list, or a text with commas between.
        known: what they may be.

    Raises:
        UserError: naming one that is not, or if there is none.
    """
    chosen = list(dict.fromkeys(word for word in listed(given) if word))
    if wrong := [word for word in chosen if word not in known] or ([] if chosen else [str(given)]):
        raise UserError(f"{option} takes some of {','.join(known)}, got {wrong[0]!r}")
    return chosen


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """Return whole numbers, ascending, each once.

    Raises:
        UserError: naming one that is none or too small.
    """
    values = set()
    for word in text.split(","):
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise UserError(
                f"{option} takes whole numbers from {least} on, as in 64,128, got {word.strip()!r}"
            )
        values.add(value)
    return sorted(values)


def parameterizations(text: str) -> dict[str, type]:
    """Return classes by the names that are given, shipped ones or paths.

    Raises:
        UserError: naming one that is none, and the nearest.
    """
    import zoo.parameterizations as zoo
    from zoo.cli.check import find

    known = [name for name in zoo.__all__ if not inspect.isabstract(getattr(zoo, name))]
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    if unknown := [name for name in names if "." not in name and name not in known]:
        hint = did_you_mean(unknown[0], known, f"there are {', '.join(known)}")
        raise UserError(f"--parameterization: {unknown[0]!r} is none{hint}")
    return {name: find(name) for name in names}
