"""What a fit needs to go on with a run: the optimizer's state, the same seed and its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files.locks import Lock
from zoo.training.tensorboard import Logger

WRITTEN = ("summary.json", "config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
"""The files of a run that a fit writes again."""


def check_resumable(path: Path, checkpoint: Mapping[str, Any], seed: int) -> None:
    """Refuse to go on from a checkpoint without an optimizer's state, or of another seed.

    Args:
        path: where the checkpoint is.
        checkpoint: what is in it.
        seed: the seed that the command asks for.

    Raises:
        UserError: saying what to do in its place.
    """
    if "optimizer_states" not in checkpoint:
        raise UserError(
            f"'{path}' has no optimizer state beside it to go on from: give the folder of a run"
        )
    before = checkpoint.get("hyper_parameters", {}).get("seed", seed)
    if before != seed:
        raise UserError(
            f"'{path}' was trained with seed {before}, and goes on with it alone, got {seed}: drop "
            "--seed_everything, or start a new run"
        )


def resumed_logger(folder: Path, step: int, lock: Lock | None) -> Logger:
    """Make the logger of a run that goes on.

    Args:
        folder: the run's.
        step: of the checkpoint; events past it belong to steps that are now taken again.
        lock: on the folder, in the process that has it.

    Raises:
        UserError: if a folder stands where a file is written.
    """
    for name in WRITTEN:
        if (folder / name).is_dir():
            raise UserError(f"'{folder / name}' is a folder, where a file is written: move it away")
    logger = Logger(
        folder.parent.parent,
        folder.parent.name,
        folder.name,
        default_hp_metric=False,
        purge_step=step + 1,
    )
    return logger.held_by(lock) if lock is not None else logger
