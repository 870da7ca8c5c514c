"""What the trainer's options may be, where Lightning takes a value and does something else."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment

from zoo.errors import UserError

MOST = 1024
"""How many processes there may be on the CPU of one machine."""
LAST_SEED = 2**32 - 1
"""The largest seed that numpy takes."""
TIME = re.compile(r"\d+:\d\d?:\d\d?:\d\d?")
ZERO = re.compile(r"0*(:0*)+")
"""A duration of nothing, as DD:HH:MM:SS."""


def _is_interval(value: Any) -> bool:
    if isinstance(value, str):
        return not ZERO.fullmatch(value)
    if isinstance(value, float) and not value.is_integer():
        return 0 < value < 1
    return not isinstance(value, int | float) or 1 <= value < math.inf


LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_epochs": (lambda n: n == -1 or n >= 1, "at least 1, or -1 for no end"),
    "max_steps": (lambda n: n == -1 or n >= 1, "at least 1, or -1 for no end"),
    "min_epochs": (lambda n: n >= 0, "at least 0"),
    "min_steps": (lambda n: n >= 0, "at least 0"),
    "max_time": (
        lambda time: (
            not isinstance(time, str) or bool(TIME.fullmatch(time) and not ZERO.fullmatch(time))
        ),
        "a duration above 0, as DD:HH:MM:SS",
    ),
    "gradient_clip_val": (lambda norm: 0 < norm < math.inf, "above 0 and finite, or null"),
    "gradient_clip_algorithm": (lambda name: name == "norm", "norm: zoo clips the global norm"),
    "val_check_interval": (
        _is_interval,
        "a number of batches of at least 1, a share of an epoch or a duration",
    ),
    "check_val_every_n_epoch": (lambda n: n >= 1, "at least 1, or null"),
    "accumulate_grad_batches": (lambda n: n >= 1, "at least 1"),
    "log_every_n_steps": (lambda n: n >= 0, "at least 0, which logs none"),
    "num_sanity_val_steps": (lambda n: n >= -1, "at least -1, which takes all"),
    "num_nodes": (lambda n: n >= 1, "at least 1"),
    "default_root_dir": (lambda folder: bool(str(folder).strip()), "a folder"),
    "model_registry": (
        lambda name: find_spec("litmodels") is not None,
        "null where the package litmodels is missing",
    ),
}
LIMITS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
"""Which batches each command needs, without which it does nothing."""


def check(command: str, trainer: Mapping[str, Any]) -> None:
    """Refuse values that Lightning takes for something else.

    Raises:
        UserError: naming the option, what it may be and what was given.
    """
    for key, (is_legal, legal) in LEGAL.items():
        if (value := trainer.get(key)) is not None and not is_legal(value):
            raise UserError(f"--trainer.{key} must be {legal}, got {value!r}")
    key = f"limit_{LIMITS.get(command, 'train')}_batches"
    if command in LIMITS and trainer.get(key) == 0:
        raise UserError(
            f"--trainer.{key} must be above 0: without a batch zoo {command} does nothing, got 0"
        )
    devices = trainer.get("devices")
    if _is_on_cpu(trainer) and devices != "auto":
        number = int(str(devices)) if re.fullmatch(r"[1-9]\d{0,9}", str(devices)) else 0
        if not 1 <= number <= MOST or isinstance(devices, bool):
            raise UserError(
                f"--trainer.devices must be auto or a number of processes from 1 to {MOST:,} on "
                f"the CPU, got {devices!r}"
            )
    nodes: int = trainer.get("num_nodes") or 1
    if (
        nodes > 1
        and not {"MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID"} & set(os.environ)
        and not trainer.get("plugins")
    ):
        raise UserError(
            f"--trainer.num_nodes {nodes} waits for other machines, and nothing says which: start "
            "zoo with torchrun on each, or set MASTER_ADDR, MASTER_PORT and NODE_RANK"
        )


def _is_on_cpu(trainer: Mapping[str, Any]) -> bool:
    accelerator = trainer.get("accelerator")
    none = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    return accelerator == "cpu" or accelerator == "auto" and none


def follow_launcher(trainer: Any) -> None:
    """Take the number of processes from torchrun, where one has started this one.

    Args:
        trainer: settings, of which `devices` and `num_nodes` are set if nobody has given them.

    Raises:
        UserError: if they were given and differ.
    """
    if not TorchElasticEnvironment.detect():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    started = {"devices": local, "num_nodes": int(os.environ.get("WORLD_SIZE", local)) // local}
    usual = {"devices": ("auto", None), "num_nodes": (1, None)}
    for key, number in started.items():
        value = trainer.get(key)
        if value in usual[key]:
            trainer[key] = number
        elif re.fullmatch(r"\d+", str(value)) and int(value) != number:
            raise UserError(
                f"torchrun has started {number} "
                f"{'processes here' if key == 'devices' else 'nodes'}, and --trainer.{key} is "
                f"{value}: give --trainer.{key} {number}"
            )


def check_seed(seed: Any) -> None:
    """Refuse what is no seed: `true` would be 0 in one place and 1 in another.

    Raises:
        UserError: saying what it must be.
    """
    if type(seed) is not int or not 0 <= seed <= LAST_SEED:
        raise UserError(
            f"--seed_everything must be a whole number from 0 to {LAST_SEED:,}, got "
            f"{json.dumps(seed)}"
        )
