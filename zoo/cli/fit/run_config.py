"""What a command takes of the config.yaml that a run, or an adapter in its metadata, brings along.

A run may come from anyone, and a trainer's callbacks, loggers, profilers, plugins and strategies
are classes that are made as a command starts and may write anywhere. So commands that look take of
it what the network and its data are, the seed and the precision. `fit` goes on with the run's
trainer too: with classes of Lightning's and torch's, plain arguments and no path outside the run.
Anything else needs `--trust` (`zoo.files.trust`).
"""

import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lightning.fabric.connector import (
    _PRECISION_INPUT_INT,
    _PRECISION_INPUT_STR,
    _PRECISION_INPUT_STR_ALIAS,
)
from lightning.pytorch import Trainer

from zoo.cli.fit.config_files import configs_of, given_settings
from zoo.errors import UserError
from zoo.files.access import read_yaml
from zoo.files.paths import PATHLIKE, anchored
from zoo.files.plain import parse_yaml
from zoo.files.trust import OURS, Trust, imported
from zoo.runs import checkpoints
from zoo.training.callbacks import Checkpoint, SpectralEnergy, StableRank
from zoo.training.module import ZooData, ZooModule

GROUPS = {"stable_rank": StableRank, "spectral_energy": SpectralEnergy, "checkpoint": Checkpoint}
PRECISIONS = {
    str(name)
    for kind in (_PRECISION_INPUT_INT, _PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS)
    for name in get_args(kind)
}
MANY = 64
"""How many processes of one machine a run's config may ask for; more are asked for by option."""


class Given(NamedTuple):
    """Hold a checkpoint that a command line names.

    Args:
        path: the file.
        folder: the run that it is in, if it is in one.
        config: what the command takes of its config; None if there is none.
        imports: the classes in that which are not zoo's own.
        rest: the command line's other words.
    """

    path: Path
    folder: Path | None
    config: dict[str, Any] | None
    imports: list[str]
    rest: list[str]

    def words(self) -> list[str]:
        """Write the words after the command; the config stands before all that was typed."""
        config = ["--config", json.dumps(self.config)] if self.config else []
        return [*config, *self.rest, "--ckpt_path", str(self.path)]

    def names(self, data: ZooData) -> bool:
        """Say whether the other words give the data, by an option or in a config."""
        words = [word.partition("=")[0] for word in self.rest]
        settings = {
            word.removeprefix("--data.").removeprefix("init_args.").partition(".")[0]
            for word in words
            if word.startswith("--data.")
        }
        for config in configs_of(self.rest):
            settings |= given_settings(config, "data")
        places = data.places()
        named = [
            name for name in settings if name in places or not places and name not in data.neutral
        ]
        return bool(named) or "--data" in words


def anchor(spec: Any) -> None:
    """Let paths in the settings of a task or its data begin at the root.

    Those are the settings that its class calls `sources`, and what looks like a path by its name;
    of them those that are there. A corpus that is known by its name stays that.

    Args:
        spec: `class_path` and `init_args`, which are changed.
    """
    cls, settings = imported(str(spec.get("class_path"))), spec.get("init_args")
    for key, value in list(vars(settings).items()) if settings is not None else ():
        if key in getattr(cls, "sources", ()) or PATHLIKE.search(key):
            settings[key] = value if value in getattr(cls, "no_paths", ()) else anchored(value)


def given(argv: Sequence[str], trust: Trust) -> Given | None:
    """Read what `--ckpt_path` brings along; a run's folder stands for its last checkpoint.

    Raises:
        UserError: if there is no such checkpoint, or its config is damaged or names what is not
            trusted.
    """
    for i, word in enumerate(argv):
        key, equals, value = word.partition("=")
        if key == "--ckpt_path" and (equals or i + 1 < len(argv)):
            path = checkpoints.resolve(value if equals else argv[i + 1])
            rest = [*argv[1:i], *argv[i + (1 if equals else 2) :]]
            folder = checkpoints.run_folder(path)
            content, where = _content(path, folder)
            config = _taken(argv[0], content, where, folder, trust, _set(rest)) if content else None
            return Given(path, folder, config, [*dict.fromkeys(_foreign(config))], rest)
    return None


def _content(path: Path, folder: Path | None) -> tuple[dict[str, Any] | None, str]:
    """Read the whole config; gives it and what to call it."""
    if folder is not None:
        file = folder / "config.yaml"
        return read_yaml(file), f"'{os.path.relpath(file)}'"
    if path.suffix != ".safetensors":
        return None, ""
    where = f"adapter '{path}'"
    try:
        content = parse_yaml(checkpoints.load(path)["config"]) or {}
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except UserError:
        raise
    except (ValueError, TypeError):
        raise UserError(f"{where} has a damaged config: use another one") from None
    return content, where


def _set(words: Sequence[str]) -> set[str]:
    """List the settings of the trainer that the command line replaces."""
    keys = (word.partition("=")[0] for word in words if word.startswith("--trainer."))
    return {key.removeprefix("--trainer.") for key in keys}


def _taken(
    command: str,
    content: Mapping[str, Any],
    where: str,
    folder: Path | None,
    trust: Trust,
    typed: set[str],
) -> dict[str, Any]:
    """Take what a command needs of a config, checked before any parser sees it."""
    taken: dict[str, Any] = {}
    for key, wanted in (("model", ZooModule), ("data", ZooData)):
        if content.get(key) is not None:
            trust.check(content[key], wanted, where)
            taken[key] = content[key]
    trainer = content.get("trainer") or {}
    if not isinstance(trainer, Mapping):
        raise UserError(f"{where} is damaged: its trainer is no mapping; use another one")
    if isinstance(content.get("seed_everything"), int):
        taken["seed_everything"] = content["seed_everything"]
    if str(trainer.get("precision")) in PRECISIONS:
        taken["trainer"] = {"precision": trainer["precision"]}
    if command != "fit" or folder is None:
        return taken
    usual = {name: p.default for name, p in inspect.signature(Trainer.__init__).parameters.items()}
    # What is as usual need not be parsed.
    trainer = {
        key: value
        for key, value in trainer.items()
        if key not in {"default_root_dir", *typed}
        and value != usual.get(str(key), inspect.Parameter.empty)
    }
    trust.check_arguments(Trainer, trainer, where, Path(os.path.abspath(folder)))
    for key in ("devices", "num_nodes"):
        value = trainer.get(key)
        number = int(str(value)) if re.fullmatch(r"\d{1,9}", str(value)) else 0
        asked = len(value) if isinstance(value, list) else number
        if asked > MANY or not re.fullmatch(r"auto|None|-?\d{1,9}|[\[\], 0-9'\"]+", str(value)):
            raise UserError(f"{where} asks for {str(value)[:40]!r} as {key}: give --trainer.{key}")
    taken["trainer"] = trainer
    for key, cls in GROUPS.items():
        if isinstance(content.get(key), Mapping):
            trust.check_arguments(cls, content[key], where)
            taken[key] = content[key]
    if isinstance(content.get("name"), str):
        taken["name"] = content["name"]
    return taken


def _foreign(value: Any) -> Iterator[str]:
    """Find the classes of a config that are not zoo's own."""
    if isinstance(value, Mapping):
        path = value.get("class_path")
        if isinstance(path, str) and "." in path and path.partition(".")[0] not in OURS:
            yield path
        for each in value.values():
            yield from _foreign(each)
    elif isinstance(value, list):
        for each in value:
            yield from _foreign(each)
