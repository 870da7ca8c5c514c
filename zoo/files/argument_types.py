"""What an argument takes by its type: text, words, classes, lists or mappings of something."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PLAIN = (str, bytes, int, float, bool, types.NoneType, dict, list, tuple, set, Path, complex)
"""Types of which a value is data, and no object of a class."""


class ArgumentType:
    """Say what an argument takes.

    Args:
        hint: its type; a union takes what any of its members does.

    Attributes:
        kinds: the members of the union.
        classes: what a class must inherit from where one belongs; empty where none does.
        words: the values of a `Literal`, as texts.
    """

    def __init__(self, hint: Any) -> None:
        self.kinds = list(alternatives(hint))
        self.classes = tuple(cls for cls in map(_class_of, self.kinds) if cls is not None)
        literals = [kind for kind in self.kinds if typing.get_origin(kind) is typing.Literal]
        self.words = [str(word) for kind in literals for word in typing.get_args(kind)]

    @property
    def takes_anything(self) -> bool:
        """Say whether there is no type to hold a value against."""
        return any(kind in (Any, object) for kind in self.kinds)

    @property
    def takes_text(self) -> bool:
        """Say whether a text may be just that: a string, a word of a `Literal` or a path."""
        return bool(self.words) or any(
            kind in (str, bytes) or isinstance(kind, type) and issubclass(kind, Path)
            for kind in self.kinds
        )

    @property
    def takes_words_alone(self) -> bool:
        """Say whether a text must be one of `words`."""
        return bool(self.words) and not self.classes and str not in self.kinds

    @property
    def takes_mapping(self) -> bool:
        """Say whether a mapping may be just that, and need not stand for a class."""
        return self.takes_anything or any(
            kind is dict or typing.get_origin(kind) is dict for kind in self.kinds
        )

    @property
    def dataclass(self) -> type | None:
        """The dataclass that a mapping has the fields of; None if there is none."""
        found = (k for k in self.kinds if dataclasses.is_dataclass(k) and isinstance(k, type))
        return next(found, None)

    @property
    def items(self) -> Any:
        """The type of what is in a list."""
        literal = typing.Literal
        found = (typing.get_args(k) for k in self.kinds if typing.get_origin(k) is not literal)
        return next((arguments[0] for arguments in found if arguments), Any)

    @property
    def values(self) -> Any:
        """The type of what is in a mapping."""
        found = map(typing.get_args, self.kinds)
        return next((arguments[1] for arguments in found if len(arguments) == 2), Any)


def argument_types(cls: type) -> dict[str, Any]:
    """Find the types of a class' arguments, of those that it hands on to its parents too."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base is not object:
            try:
                hints = typing.get_type_hints(base.__init__)  # type: ignore[misc]
            except Exception:  # names that are imported for type checkers only
                hints = {}
            names = inspect.signature(base.__init__).parameters  # type: ignore[misc]
            found |= {name: hints.get(name, Any) for name in names}
    return found


def alternatives(hint: Any) -> Iterator[Any]:
    """List the members of a union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for each in typing.get_args(hint):
            yield from alternatives(each)
    else:
        yield hint


def _class_of(kind: Any) -> type | None:
    """Say what a class must inherit from to stand in a place of a type; None where no class can."""
    origin = typing.get_origin(kind)
    if origin is Callable or kind is Callable:
        returned = typing.get_args(kind)[-1:]
        return returned[0] if returned and isinstance(returned[0], type) else object
    if origin is type or kind is type:
        return object
    if not isinstance(kind, type) or dataclasses.is_dataclass(kind) or origin is not None:
        return None
    if kind in (object, Any):  # the latter is a class, too
        return None
    return None if issubclass(kind, PLAIN) else kind
