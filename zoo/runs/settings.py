"""Settings of runs, flat and comparable: what an older run does not mention is at its default."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.training.identity import Flat, flatten

__all__ = ["Flat", "defaults", "filled", "flatten", "frozen", "is_set"]


def filled(settings: Sequence[Flat], trust: Trust = NOBODY) -> list[Flat]:
    """The same settings, each with the defaults of what it lacks and another has; then without what is not set.

    Settings of a class are looked for in others that have the same class there. Only what is
    missing is looked up, since that imports its class. One that is not trusted or cannot be
    imported stays as it is.
    """
    known: dict[
        tuple[str, Any], bool
    ] = {}  # by name and the class that has it: whether any sets it
    for flat in settings:
        for key, value in flat.items():
            place = key, frozen(flat.get(key.rpartition(".")[0]))
            known[place] = known.get(place, False) or is_set(value)
    complete = []
    for flat in settings:
        whole = dict(flat)
        for (key, kind), somewhere in known.items():
            same = kind == frozen(flat.get(key.rpartition(".")[0]))
            if (
                key not in flat and same and somewhere
            ):  # what all others leave empty is empty by default
                default = _default_of(flat, key, trust)
                if default is not inspect.Parameter.empty:
                    whole[key] = default
        complete.append({key: value for key, value in whole.items() if is_set(value)})
    return complete


def is_set(value: Any) -> bool:
    """Whether a setting says anything."""
    return value is not None and value != [] and value != {}


def frozen(value: Any) -> Any:
    """A setting that can be hashed, in which 1 and 1.0 are one."""
    if isinstance(value, Mapping):
        return frozenset((key, frozen(item)) for key, item in value.items())
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _default_of(flat: Flat, key: str, trust: Trust) -> Any:
    """The default of a setting that is missing, by the class that would have it; `empty` if it is not known."""
    node, _, name = key.rpartition(".")
    owner, _, parameter = node.rpartition(".")
    cls, above = flat.get(node), flat.get(owner)
    found: dict[str, Any] = {}
    if isinstance(cls, str) and "." in cls:
        found = defaults(cls, trust)
    elif isinstance(above, str):  # of a dataclass, which is an argument of the class above
        found = _fields(above, parameter, trust)
    return found.get(name, inspect.Parameter.empty)


@functools.cache
def defaults(path: str, trust: Trust = NOBODY) -> dict[str, Any]:
    """The defaults of a class' arguments, by its path; empty if it is not trusted or cannot be imported."""
    cls = _class(path, trust)
    try:
        parameters = inspect.signature(cls).parameters.values() if cls is not None else ()
    except (TypeError, ValueError):  # a class that says nothing of its arguments
        return {}
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@functools.cache
def _fields(path: str, parameter: str, trust: Trust) -> dict[str, Any]:
    """The defaults of the dataclass that an argument of a class takes."""
    cls = _class(path, trust)
    try:
        hint = typing.get_type_hints(cls.__init__).get(parameter) if cls is not None else None  # type: ignore[misc]
    except Exception:  # names that are imported for type checkers only
        return {}
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kinds[0]) if kinds else ():
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found


def _class(path: str, trust: Trust) -> type | None:
    try:
        return trust.find(path, object, "a config.yaml")
    except UserError:
        return None
