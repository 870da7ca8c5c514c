"""Entries of a mapping out of a file, which may be anyone's, asked for by type."""

import sys
from typing import Any

from zoo.errors import UserError

LARGEST = 2**24
"""The most rows or columns that a matrix may have."""


class Entries:
    """A mapping out of a file.

    Args:
        where: what a message calls the place of the file.
        file: its name.
        values: what should be a mapping.

    Raises:
        UserError: if it is none.
    """

    def __init__(self, where: str, file: str, values: Any) -> None:
        self.where, self.file = where, file
        if not isinstance(values, dict):
            raise self.damaged("the form of an entry")
        self.values = values

    def get(self, key: str, wanted: type, default: Any = None) -> Any:
        """Return the value of a key, which is of this very type.

        Raises:
            UserError: if it is not.
        """
        value = self.values.get(key, default)
        if type(value) is not wanted:
            raise self.damaged(key)
        return value

    def number(self, key: str) -> float:
        """Return a number that is finite and not 0.

        Raises:
            UserError: if it is none.
        """
        value: Any = self.values.get(key)
        if type(value) not in (int, float) or not 0 < abs(value) <= sys.float_info.max:
            raise self.damaged(key)
        return float(value)

    def shape(self, name: str, value: Any) -> tuple[int, int]:
        """Return a matrix' rows and columns out of a list of both.

        Raises:
            UserError: if it is none.
        """
        sizes = value if isinstance(value, list) else []
        if len(sizes) != 2 or not all(type(n) is int and 0 < n <= LARGEST for n in sizes):
            raise self.damaged(f"the shape of {name:.200}")
        return sizes[0], sizes[1]

    def damaged(self, what: str) -> UserError:
        """Return the error that names what is wrong."""
        return UserError(f"{self.where} is damaged: {what} in {self.file}; use another copy")
