"""Configs: found by path or as a shipped name, composed with `base:`."""

import difflib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from zoo.errors import UserError
from zoo.files import parse_yaml, read_text

PACKAGED = Path(__file__).parent / "_configs"
"""Where a wheel keeps the shipped configs; an editable install reads the repository's own folder."""


def shipped() -> dict[str, Path]:
    """Every shipped config, by file name."""
    folder = PACKAGED if PACKAGED.is_dir() else Path(__file__).parent.parent / "configs"
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, near: Path | None = None) -> Path:
    """A config by its path, beside another config, or by the name of a shipped one, with or without `.yaml`.

    Raises:
        TypeError: if there is none, which jsonargparse turns into its own error.
    """
    here = [Path(name), *([near / name] if near else [])]
    for path in here:
        with suppress(OSError, ValueError):  # a name that no file can have
            if path.is_file():
                return path.resolve()
    known = shipped()
    for candidate in (name, f"{name}.yaml"):
        if candidate in known:
            return known[candidate]
    close = difflib.get_close_matches(Path(name).stem, [Path(k).stem for k in known], 3, 0.5)
    hint = f"did you mean {' or '.join(c + '.yaml' for c in close)}?" if close else "zoo list names the shipped ones"
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    raise TypeError(f"no config {shown!r} here or among the shipped ones; {hint}")


def load(path: Path) -> dict[str, Any]:
    """A config as a dict.

    Raises:
        TypeError: naming the line of a syntax error, or if it is no mapping, or nested or repeated without bounds.
    """
    try:
        raw = parse_yaml(read_text(path))
    except UserError as error:
        reason = str(error).partition("' ")[2].removesuffix(": use another one")
        raise TypeError(f"config '{os.path.relpath(path)}' cannot be read, it {reason}: give a text file") from error
    except ValueError as error:
        line, colon, problem = str(error).partition(": ")
        where, why = (f", {line}", problem) if line.startswith("line ") and colon else ("", str(error))
        raise TypeError(f"config '{os.path.relpath(path)}'{where}: {why}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise TypeError(f"config '{os.path.relpath(path)}' must hold `key: value` lines, not a {type(raw).__name__}")
    return raw


class ConfigFile(ActionConfigFile):
    """`--config` by path or shipped name; a file may start from others, named in its `base:`."""

    @staticmethod
    def apply_config(
        parser: ArgumentParser, cfg: Namespace, dest: str, value: Any, seen: tuple[Path, ...] = ()
    ) -> None:
        """Merge a config, its bases first, into what is there already."""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            ActionConfigFile.apply_config(parser, cfg, dest, value)
            return
        path = find(str(value), seen[-1].parent if seen else None)
        if path in seen:
            raise TypeError(f"config '{os.path.relpath(path)}' has itself as base: name another one, or none")
        raw = load(path)
        if "grid" in raw:
            raise TypeError(f"config '{os.path.relpath(path)}' is a sweep: zoo sweep --config {value}")
        base = raw.get("base") or []
        names = [base] if isinstance(base, str) else base
        if not isinstance(names, list):
            raise TypeError(f"config '{os.path.relpath(path)}' has {base!r} as base: give a config's name, or a list")
        for name in names:
            ConfigFile.apply_config(parser, cfg, dest, name, (*seen, path))
        if raw:
            ActionConfigFile.apply_config(parser, cfg, dest, str(path))
