"""The updates that a study looks at, each of its own name."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from zoo.runs.source import Source

Subject = Union[str, "os.PathLike[str]", "nn.Module"]
"""A path, as commands take it, or a network in memory."""
Subjects = Subject | Sequence[Subject] | Mapping[str, Subject | Sequence[Subject]]
"""One or several; or what each is called, where several of one name are one group."""
SMALL = 8
"""Rows or columns below which a matrix says little."""


class Entry(NamedTuple):
    """A path or a network, and what it and its group are called, if anybody said so."""

    what: "str | nn.Module"
    name: str | None = None
    group: str | None = None


def entries(given: Subjects) -> list[Entry]:
    """Return what is to be looked at: paths once, and networks of one class numbered.

    Raises:
        UserError: if there is nothing, or something that is neither a path nor a network.
    """
    from zoo.runs.names import numbered

    if isinstance(given, Mapping):
        found = []
        for group, items in given.items():
            same = [_subject(each) for each in _several(items)]
            names = (
                [str(group)] if len(same) == 1 else [f"{group} {i + 1}" for i in range(len(same))]
            )
            found += [Entry(what, name, str(group)) for what, name in zip(same, names, strict=True)]
    else:
        every = [_subject(each) for each in _several(given)]
        found = [Entry(each) for each in dict.fromkeys(every)]
        networks = [each for each in found if not isinstance(each.what, str)]
        numbers = iter(numbered([type(each.what).__name__ for each in networks]))
        found = [
            each if isinstance(each.what, str) else each._replace(name=next(numbers))
            for each in found
        ]
    if not found:
        raise UserError("there is nothing to look at: give a path or a network")
    return found


def _several(given: Any) -> Iterable[Any]:
    return given if isinstance(given, list | tuple) else [given]


def _subject(given: Any) -> "str | nn.Module":
    from torch import nn

    if isinstance(given, nn.Module):
        return given
    if isinstance(given, str | os.PathLike):
        return os.path.normpath(os.fspath(given))
    raise UserError(
        f"neither a path nor a network: a {type(given).__name__}; give a run's folder, an "
        "adapter's, or a torch module with layers that zoo parameterized"
    )


def read_all(given: Sequence[Entry], **options: Any) -> "list[Source]":
    """Read the updates of what is given, with names, groups and notes.

    Args:
        given: as `entries` has it.
        options: of `zoo.runs.updates.read`.
    """
    from zoo.runs.names import label
    from zoo.runs.run import repeated
    from zoo.runs.updates import read

    sources = label([read(each.what, name=each.name, **options) for each in given])
    sources = [
        dataclasses.replace(
            source, name=entry.name or source.name, group=entry.group or source.group
        )
        for source, entry in zip(sources, given, strict=True)
    ]
    for source in sources:
        source.notes.extend(note for name, note in repeated(sources).items() if name == source.name)
        if any(min(update.shape) < SMALL for update in source.updates.values()):
            source.notes.append(
                f"has matrices with fewer than {SMALL} rows or columns, too small to say much"
            )
    return sources


# ---- How it was asked for ------------------------------------------------------------------------


def call_in_words(function: Callable[..., Any], first: Any, given: Mapping[str, Any]) -> str:
    """Return a call as it stands on top of a report: `zoo.analyze(BertModel, null=5)`.

    Args:
        function: one of `zoo`'s.
        first: its first argument.
        given: the others by name; those that are as by default are left out.
    """
    usual = inspect.signature(function).parameters
    told = [
        f"{name}={_in_words(value)}"
        for name, value in given.items()
        if value is not usual[name].default
    ]
    return f"zoo.{function.__name__}({', '.join([_in_words(first), *told])})"


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_in_words(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_words, value))}]"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, str | int | float | None):
        return repr(value)
    return getattr(value, "__name__", None) or type(value).__name__
