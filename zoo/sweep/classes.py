"""Which classes of their own users name in a sweep file and in the configs that it starts from."""

from collections.abc import Iterator, Mapping
from typing import Any

from zoo.files.plain import parse_yaml
from zoo.files.trust import DOTTED, LIBRARIES, OURS, PLACES

OVERRIDES = "model.overrides"
"""An option whose value has classes by pattern."""


def classes(settings: Mapping[str, Any]) -> list[str]:
    """Paths of classes that are neither zoo's nor its libraries', each once.

    Args:
        settings: a config, or options with their values.
    """
    found = dict.fromkeys(_named(settings, ""))
    return [path for path in found if path.partition(".")[0] not in (*OURS, *LIBRARIES)]


def _named(value: Any, place: str) -> Iterator[str]:
    """Every class path in a value.

    Args:
        value: as YAML has it.
        place: the option that it is of, without `init_args`: these stand in files, and may be left
            out on a command line.
    """
    if isinstance(value, Mapping):
        patterns = place == OVERRIDES and "class_path" not in value
        skipped = ("",) if place == OVERRIDES else ("", "init_args")
        for key, each in value.items():
            parts = [part for part in (place, *str(key).split(".")) if part not in skipped]
            yield from _named(each, place if patterns else ".".join(parts))
    elif isinstance(value, list):
        for each in value:
            yield from _named(each, place)
    elif isinstance(value, str) and (
        place.rpartition(".")[2] == "class_path" or PLACES.fullmatch(f"--{place}")
    ):
        if DOTTED.fullmatch(value):
            yield value
        elif value.lstrip().startswith(("{", "[")):  # as on a command line
            try:
                yield from _named(parse_yaml(value), place)
            except ValueError:  # fit will say so
                return
