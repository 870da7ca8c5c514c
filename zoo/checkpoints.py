"""Checkpoints on disk: found, read without executing anything, and compared with a model before use."""

import importlib
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from zoo.errors import UserError
from zoo.module import ZooModule

REMEDY = "; give the config and options it was trained with"


def resolve(path: str) -> Path:
    """A checkpoint's path; a run's folder stands for its `checkpoints/last.ckpt`.

    Raises:
        UserError: if there is none.
    """
    given = Path(path)
    candidate = given / "checkpoints" / "last.ckpt" if given.is_dir() else given
    if not candidate.is_file():
        raise UserError(f"no checkpoint {path!r}: give a .ckpt file, or a run's folder with checkpoints/last.ckpt")
    return candidate


def load(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data, on the CPU; nothing in the file is executed (`weights_only=True`).

    Raises:
        UserError: if the file is truncated, holds anything but data, or is no Lightning checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: what follows says more
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            held = f"checkpoint '{path}' holds code, not only weights"
            raise UserError(f"{held}: refused, nothing was executed; use another one") from None
        raise UserError(f"checkpoint '{path}' is damaged or no checkpoint: use another one") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError):
        raise UserError(f"checkpoint '{path}' is truncated or no checkpoint: use another one") from None
    for key in ("state_dict", "global_step", "pytorch-lightning_version"):
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise UserError(f"'{path}' is no zoo checkpoint: it has no {key}; use another one")
    if not isinstance(checkpoint["state_dict"], dict):
        raise UserError(f"'{path}' is no zoo checkpoint: its state_dict is none; use another one")
    return checkpoint


def rebuild(path: Path) -> ZooModule:
    """The task that a checkpoint is of, with its coefficients, on the CPU.

    Its class and those of its parameterizations are imported from what is installed or in the current folder.

    Raises:
        UserError: if the file is no checkpoint of a task, or a class or backbone that it names cannot be had here.
    """
    module, _, name = str(load(path).get("zoo_task", "")).rpartition(".")
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"checkpoint '{path}' is of a task {name!r} that is not found here: run it where it is") from None
    if not issubclass(task, ZooModule):
        raise UserError(f"checkpoint '{path}' is of no task of zoo: use another one")
    try:
        model = task.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what a checkpoint names may be missing here, or be something else
        reason = str(error).strip().splitlines()[-1]
        hint = "run it where its parameterization is found"
        raise UserError(f"checkpoint '{path}' cannot be rebuilt here ({reason}); {hint}") from error
    check(path, model)
    return model.eval()


def check(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load a checkpoint, and refuse one of another model.

    Raises:
        UserError: naming the first parameter that is missing, left over or of another shape, or the layer whose
            basis is another one.
    """
    checkpoint = load(path)
    theirs = checkpoint["state_dict"]
    mine = model.trained_state() if isinstance(model, ZooModule) else model.state_dict()
    for name, tensor in mine.items():
        if name not in theirs:
            raise UserError(f"checkpoint '{path}' is of another model: it has no {name}{REMEDY}")
        if theirs[name].shape != tensor.shape:
            shapes = f"{tuple(theirs[name].shape)}, here {tuple(tensor.shape)}"
            raise UserError(f"checkpoint '{path}' is of another model: {name} is {shapes}{REMEDY}")
    for name in theirs:
        if name not in mine:
            raise UserError(f"checkpoint '{path}' is of another model: it has {name} as well{REMEDY}")
    if isinstance(model, ZooModule):
        model.on_load_checkpoint(checkpoint)  # Lightning calls it too, but after the run's folder is there
    return checkpoint
