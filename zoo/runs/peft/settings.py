"""The numbers of an adapter's config, each checked as it is asked for."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from zoo.errors import UserError
from zoo.runs.peft.adapter import CONFIG

REPEATS = re.compile(r"\)[*+?{]|[*+}][*+{]|\\\d")
"""What lets whoever wrote a pattern choose how long a search for it takes: groups that repeat, and
references."""


class Settings:
    """What a config says of one layer, whose name patterns may single out.

    Args:
        config: as it was read, of whatever types.
        layer: the layer's name.
    """

    def __init__(self, config: Mapping[str, Any], layer: str = "") -> None:
        self.config = config
        self.layer = layer

    def whole(self, key: str, default: int | None = None, pattern: str | None = None) -> int:
        """Return a whole number of at least 1.

        Args:
            key: its name.
            default: what peft takes if it is not there.
            pattern: the key of what patterns of names say in its place.

        Raises:
            UserError: if it is something else.
        """
        value = self._value(key, default, pattern)
        if type(value) is not int or not 1 <= value < 2**31:
            raise damaged(key, value)
        return value

    def number(self, key: str, default: float | None = None, pattern: str | None = None) -> float:
        """Return a finite number other than 0; arguments and errors are those of `whole`."""
        value = self._value(key, default, pattern)
        if type(value) not in (int, float) or value == 0 or not abs(value) < 1e30:
            raise damaged(key, value)
        return float(value)

    def seed(self, key: str, default: int) -> int:
        """Return a whole number that torch takes for a seed; errors are those of `whole`."""
        value = self._value(key, default, None)
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise damaged(key, value)
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Return whether a setting is on.

        Raises:
            UserError: if it is neither on nor off.
        """
        value = self._value(key, default, None)
        if value is not None and type(value) is not bool:
            raise damaged(key, value)
        return bool(value)

    def scale(self, rank: int) -> float:
        """Return lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`."""
        alpha = self.number("lora_alpha", 8, "alpha_pattern")
        return alpha / (math.sqrt(rank) if self.flag("use_rslora") else rank)

    def _value(self, key: str, default: Any, pattern: str | None) -> Any:
        patterns = self.config.get(pattern) or {} if pattern else {}
        if not isinstance(patterns, Mapping):
            raise damaged(str(pattern), patterns)
        for each, value in patterns.items():
            if ends_as(self.layer, each, str(pattern)):
                return value
        return self.config.get(key, default)


def ends_as(layer: str, pattern: str, key: str) -> bool:
    """Return whether the end of a layer's name matches a pattern, as peft decides it.

    Raises:
        UserError: for what is no pattern, or one that may take long.
    """
    try:
        quantifiers = len(re.findall(r"[*+{]", pattern))
        if len(pattern) > 200 or REPEATS.search(pattern) or quantifiers > 4:
            raise ValueError(pattern)
        return re.match(rf"(.*\.)?({pattern})$", layer) is not None
    except (re.error, TypeError, ValueError, RecursionError):
        raise damaged(key, pattern) from None


def damaged(key: str, value: object) -> UserError:
    """Return the error of a setting that is not what it should be."""
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:40] + "..."
    return UserError(f"{CONFIG}: {key} is damaged, {shown}: use another adapter")


def alone(name: str, names: Mapping[str, object]) -> str:
    """Return a pattern that no other of these layers matches."""
    # peft takes a key for a pattern of the end of a name.
    matched = [other for other in names if re.match(rf"(.*\.)?({name})$", other)]
    return name if len(matched) == 1 else f"^{re.escape(name)}"


def usual(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the most frequent value of layers, and by pattern those of the other layers."""
    most = Counter(values.values()).most_common(1)[0][0]
    return most, {alone(name, values): value for name, value in values.items() if value != most}


def ranks_without_scale(ranks: Mapping[str, int], alpha: str = "alpha") -> dict[str, Any]:
    """Return the settings of layers of these ranks r whose alpha / r is 1, by peft's names."""
    rank, others = usual(ranks)
    return {"r": rank, alpha: rank, "rank_pattern": others, "alpha_pattern": others}


def whole_if_it_is(value: float) -> float:
    """Return a whole number as an integer: peft's own files have integers there."""
    return round(value) if value == round(value) else value
