"""What methods and trials are called: what a user gave, in words that a file's name may have."""

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
"""How many bytes a trial's name may have before its seed: file systems take 255, and the seed and
`.damaged-1` or `.log` come after it."""
Point = Mapping[str, Any]


def word(value: Any) -> str:
    """Write a value as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def config_names(value: Any) -> list[str]:
    """Take one config or several."""
    return [
        str(name)
        for name in (value if isinstance(value, list) else [] if value is None else [value])
    ]


def label(point: Point, labels: Mapping[str, str]) -> list[str]:
    """Write a point in words for a file's name; a digest tells apart what is cut or replaced."""
    found = []
    for key, value in point.items():
        if key in (PARAMETERIZATION, "config"):
            found += _named(key, value)
        else:
            found.append(f"{labels[key]}={_classes(value) or word(value)}")
    safe = [re.sub(r"[^\w.+=-]+", "_", part) for part in found]
    if sum(map(len, safe)) > LONGEST or safe != found:
        mark = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:4]
        safe = ["-".join(safe)[:LONGEST], mark]
    return safe


def stem(method: str, point: Point, labels: Mapping[str, str]) -> str:
    """Name the trials of a method at a point, before their seed: a file's name, never hidden.

    Args:
        method: the method's name.
        point: the searched options with their values.
        labels: what names call each option.
    """
    name = re.sub(r"^[.-]+", "_", "-".join([method, *label(point, labels)]))
    if len(name.encode()) > LARGEST:
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LARGEST - 9].decode(errors='ignore')}-{mark}"
    return name


def shown(value: Any) -> str:
    """Write the start of a value for a message, however large it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 60, 60
    try:
        return cut(short.repr(value))
    except ValueError:  # of a number of thousands of digits
        return f"a {type(value).__name__}"


def cut(text: str) -> str:
    """Write the start of a text for a message, on one line."""
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return printable(short)


def _classes(value: Any) -> str | None:
    """Write a list of classes with their settings, such as callbacks, with `+` between; or None."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(each, dict) and "class_path" in each for each in value):
        return None
    return "+".join(word for each in value for word in _named("", each))


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
