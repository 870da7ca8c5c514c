"""Defaults of settings by the classes that have them: what no run mentions has its default."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Sequence
from typing import Any

from zoo.errors import UserError
from zoo.files.flat import Flat, frozen, is_set
from zoo.files.trust import NOBODY, Trust


def filled(settings: Sequence[Flat], trust: Trust = NOBODY) -> list[Flat]:
    """Return the same settings, with the defaults of what one lacks and another has.

    Runs that an older zoo wrote lack what it did not know. Settings of a class are looked for in
    others that have the same class there. Only what is missing is looked up, since that imports its
    class; one that is not trusted or cannot be imported stays as it is. What is not set, is left
    out.
    """
    known: dict[tuple[str, Any], bool] = {}  # by name and its class: whether any sets it
    for flat in settings:
        for key, value in flat.items():
            place = key, frozen(flat.get(key.rpartition(".")[0]))
            known[place] = known.get(place, False) or is_set(value)
    complete = []
    for flat in settings:
        whole = dict(flat)
        for (key, kind), somewhere in known.items():
            same = kind == frozen(flat.get(key.rpartition(".")[0]))
            if key not in flat and same and somewhere:  # what none sets is empty by default
                default = _default_of(flat, key, trust)
                if default is not inspect.Parameter.empty:
                    whole[key] = default
        complete.append({key: value for key, value in whole.items() if is_set(value)})
    return complete


def _default_of(flat: Flat, key: str, trust: Trust) -> Any:
    """Return the default of a setting by the class that would have it; `empty` if not known."""
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
    """Return the defaults of a class' arguments, if it is trusted and can be imported."""
    cls = _class(path, trust)
    try:
        parameters = inspect.signature(cls).parameters.values() if cls is not None else ()
    except (TypeError, ValueError):  # a class that says nothing of its arguments
        return {}
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@functools.cache
def _fields(path: str, parameter: str, trust: Trust) -> dict[str, Any]:
    """Return the defaults of the dataclass that an argument of a class takes."""
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
