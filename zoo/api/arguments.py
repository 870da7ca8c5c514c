"""What the functions are given, held against what they take, before anything else."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from zoo.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


def makes_tensors(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function make usual tensors where it is called within `torch.inference_mode`, too.

    What is made there can never be trained, nor tell that it was changed, as maps of a W0 ask.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return call


def check_network(model: Any) -> None:
    """Refuse what is no network.

    Raises:
        UserError: naming what it is.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{shown(model)} is no network: give a torch module")


def number(what: str, value: Any) -> float:
    """Return a number, whichever library it is of.

    Raises:
        UserError: if it is none.
    """
    try:
        if isinstance(value, str | bytes):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UserError(f"{what} must be a number, got {shown(value)}") from None


def finite(what: str, value: Any) -> float:
    """Return a number that is neither infinite nor NaN.

    Raises:
        UserError: if it is none.
    """
    if not math.isfinite(found := number(what, value)):
        raise UserError(f"{what} must be a finite number, got {shown(value)}")
    return found


def numbers_by_name(what: str, values: Any) -> dict[str, float]:
    """Return finite numbers by their names.

    Raises:
        UserError: for anything but a mapping to such.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{what} go by name, as in {{'fr': 0.5, 'law': 0.5}}, got {shown(values)}: give a "
            "mapping"
        )
    return {name: finite(f"{what}: {shown(name)}", value) for name, value in values.items()}


def path_of(what: str, value: Any) -> Path:
    """Return a path that a file could have.

    Raises:
        UserError: if there can be none.
    """
    try:
        path = Path(value)
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (TypeError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} must be a path, got {shown(value)} ({reason})") from None
    return path


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long; a network by its class."""
    try:
        text = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
    except ValueError:  # of a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
