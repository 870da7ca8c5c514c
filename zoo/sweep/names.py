"""What methods and trials are called: what a user gave, in words that may stand in a file's name."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PARAMETERIZATION = "model.parameterization"
LONGEST = 120
Point = Mapping[str, Any]


def word(value: Any) -> str:
    """A value as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def config_names(value: Any) -> list[str]:
    """One config or several."""
    return [str(name) for name in (value if isinstance(value, list) else [] if value is None else [value])]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each option by its last words, as few as tell it from the others."""
    parts = {key: key.split(".") for key in keys}
    ends = {key: [".".join(words[-n:]) for n in range(1, len(words) + 1)] for key, words in parts.items()}
    return {
        key: next((end for end in mine if not any(end in ends[other] for other in ends if other != key)), key)
        for key, mine in ends.items()
    }


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


def _named(key: str, value: Any) -> list[str]:
    if key == "config":
        return [Path(str(name)).stem for name in config_names(value)]
    if isinstance(value, dict):
        settings = value.get("init_args") or {}
        return [str(value.get("class_path")).rpartition(".")[2], *(f"{k}={word(v)}" for k, v in settings.items())]
    return [str(value).rpartition(".")[2]]
