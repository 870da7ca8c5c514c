"""`zoo check my_basis.MyBasis`: run the conformance suite on a parameterization."""

import importlib
import inspect
import textwrap
from contextlib import suppress
from typing import Annotated, Any

from zoo.cli.arguments import call
from zoo.errors import UserError

BUDGETS: tuple[dict[str, Any], ...] = ({}, {"ratio": 0.5}, {"rank": 1}, {"ratio": 1.0})
"""Arguments that are tried on a class, if none are given."""
LARGE = (96, 64)
"""A shape on which contracts are checked that need many weights."""


def main(argv: list[str]) -> int:
    """Print a table; the exit status is 1 if a contract does not hold."""
    return call(check, argv)


def check(parameterization: str, *, set_: Annotated[list[str] | None, "KEY=VALUE"] = None) -> int:
    """Build a parameterization, run the conformance suite on it, and print what holds.

    Args:
        parameterization: a class of the zoo (DCT) or the path of your own (my_basis.MyBasis).
        set_: an argument of the class, as in --set ratio=0.3; by default the first that suits:
            none, ratio=0.5, rank=1 or ratio=1.

    Returns:
        The exit status, 1 if a contract does not hold.
    """
    cls = find(parameterization)
    arguments = given(set_ or []) or budget(cls)
    instantiate(cls, arguments)
    return report(cls, arguments)


def report(cls: type, arguments: dict[str, Any]) -> int:
    """Run the suite and print a line for each contract."""
    from zoo.testing import case_for, conformance

    case = case_for(cls, arguments)
    shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
    title = f"{cls.__module__}.{cls.__qualname__}({shown}) on {len(case.shapes)} shapes"
    print(textwrap.fill(title, 80) + "\n")
    failures = 0
    for name, contract, failure in conformance(case):
        print(f"{'pass' if failure is None else 'FAIL'}  {name}")
        if failure is not None:
            failures += 1
            print(textwrap.indent(textwrap.fill(contract, 72), "      "))
            print(textwrap.indent(textwrap.fill(f"{failure}", 72), "      "))
    print(f"\n{failures} of the contracts do not hold" if failures else "\nall contracts hold")
    return 1 if failures else 0


def find(path: str) -> type:
    """Find a concrete parameterization, by name or path.

    Raises:
        UserError: if it does not import, is no parameterization or is abstract.
    """
    import zoo.parameterizations as zoo

    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module) if module else zoo, name)
    except Exception as error:  # importing a user's file can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = "give a class of the zoo, or one of yours as file.Class"
        raise UserError(f"cannot import {path!r} ({reason}); {hint}") from error
    if not isinstance(cls, type) or not issubclass(cls, zoo.WeightParameterization):
        raise UserError(
            f"{path!r} is no parameterization: subclass "
            "zoo.parameterizations.WeightParameterization"
        )
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{path!r} is abstract: it still has to define {missing}")
    return cls


def given(pairs: list[str]) -> dict[str, Any]:
    """Read arguments from KEY=VALUE, the value as yaml.

    Raises:
        UserError: without an equals sign.
    """
    import yaml

    if wrong := next((pair for pair in pairs if "=" not in pair), None):
        raise UserError(f"--set takes KEY=VALUE, as in ratio=0.3, got {wrong!r}")
    try:
        return {
            key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)
        }
    except yaml.YAMLError:
        raise UserError(
            f"--set takes KEY=VALUE with a yaml value, as in ratio=0.3, got {pairs}"
        ) from None


def budget(cls: type) -> dict[str, Any]:
    """Find the first of `BUDGETS` with which a class can have shapes of all kinds, or most shapes.

    All kinds are three or more, a wide and a tall one among them.
    """
    from zoo.testing.running import suited

    names = inspect.signature(cls).parameters
    found: dict[int, dict[str, Any]] = {}
    for arguments in BUDGETS:
        if set(arguments) <= set(names):
            with suppress(Exception):  # such as a TypeError, for an argument that has no default
                cls(*LARGE, **arguments)
                shapes = suited(cls, arguments)
                if len(shapes) > 2 and {m < n for m, n in shapes if m != n} == {True, False}:
                    return arguments
                found.setdefault(len(shapes), arguments)
    return found[max(found)] if found else {}


def instantiate(cls: type, arguments: dict[str, Any]) -> None:
    """Build one, so that a wrong argument is told apart from a broken contract.

    Raises:
        UserError: with what the constructor says.
    """
    from zoo.testing.running import suited

    try:
        cls(*LARGE, **arguments)
    except Exception as error:
        if isinstance(error, ValueError) and suited(cls, arguments):
            return
        hint = "give its arguments with --set KEY=VALUE"
        raise UserError(
            f"{cls.__name__} cannot be built: {str(error).splitlines()[0]}; {hint}"
        ) from error
