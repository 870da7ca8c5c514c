"""What methods and trials are called: what a user gave, in words that may stand in a file's name."""

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.pages.texts import printable

PARAMETERIZATION = "model.parameterization"
LONGEST = 120
LARGEST = 200
"""Bytes of a trial's name before its seed: with that, `.damaged-1` or `.log` it stays within a file system's 255."""
Point = Mapping[str, Any]


def word(value: Any) -> str:
    """A value as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def config_names(value: Any) -> list[str]:
    """One config or several."""
    return [
        str(name)
        for name in (value if isinstance(value, list) else [] if value is None else [value])
    ]


def label(point: Point, labels: Mapping[str, str]) -> list[str]:
    """A point in words that may stand in a file's name; what is cut or replaced is told apart by a digest."""
    found = []
    for key, value in point.items():
        if key in (PARAMETERIZATION, "config"):
            found += _named(key, value)
        else:
            found.append(f"{labels[key]}={word(value)}")
    safe = [re.sub(r"[^\w.+=-]+", "_", part) for part in found]
    if sum(map(len, safe)) > LONGEST or safe != found:
        mark = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:4]
        safe = ["-".join(safe)[:LONGEST], mark]
    return safe


def stem(method: str, point: Point, labels: Mapping[str, str]) -> str:
    """What the trials of a method at a point are called, before their seed: a file's name, hidden or an option never.

    Args:
        method: its name.
        point: its searched options.
        labels: how names call an option.
    """
    name = re.sub(r"^[.-]+", "_", "-".join([method, *label(point, labels)]))
    if len(name.encode()) > LARGEST:
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LARGEST - 9].decode(errors='ignore')}-{mark}"
    return name


def shown(value: Any) -> str:
    """A value in a message: its start, however large it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 60, 60
    try:
        return cut(short.repr(value))
    except ValueError:  # of a number of thousands of digits
        return f"a {type(value).__name__}"


def cut(text: str) -> str:
    """A text in a message: its start, on one line."""
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return printable(short)


def _named(key: str, value: Any) -> list[str]:
    if key == "config":
        return [Path(str(name)).stem for name in config_names(value)]
    if isinstance(value, dict):
        settings = value.get("init_args")
        settings = settings if isinstance(settings, dict) else {}
        return [
            str(value.get("class_path")).rpartition(".")[2],
            *(f"{k}={word(v)}" for k, v in settings.items()),
        ]
    return [str(value).rpartition(".")[2]]
