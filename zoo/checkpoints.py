"""Checkpoints on disk: written, found, read without executing anything, and compared with a model before use.

A checkpoint holds what is trained, 4 bytes a number. What else a run needs to go on, the optimizer's moments and the
curves so far, lies beside it: `last.resume_250.pt` belongs to the `last.ckpt` of step 250. An adapter,
`adapter.safetensors`, is a checkpoint in another format: what is trained, and in its metadata the settings that rebuild
the task. It is read wherever a checkpoint is.
"""

import importlib
import io
import json
import warnings
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
import yaml
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from zoo.errors import UserError
from zoo.lab.masks import Kept, pack
from zoo.lab.masks import unpack as unpack_masked
from zoo.module import ZooModule
from zoo.tensors import ADAPTER, read_tensors, write_tensors
from zoo.trust import NOBODY, Trust

RESUME = ("optimizer_states", "lr_schedulers", "callbacks", "loops")
"""What only going on needs."""
REMEDY = "; give the config and options it was trained with"


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads a checkpoint with what going on needs in a file of its own.

    That file is written first and carries the step, so that a run killed in between still has a pair that belongs
    together; one of an older step is removed last.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write both, each whole or not at all; one file if there is no optimizer's state."""
        path, rest = Path(path), {key: checkpoint[key] for key in RESUME if key in checkpoint}
        if "optimizer_states" not in rest:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        beside = _resume_file(path, checkpoint["global_step"])
        super().save_checkpoint(rest, beside, storage_options)
        kept = {key: value for key, value in checkpoint.items() if key not in rest}
        super().save_checkpoint(kept, path, storage_options)
        for old in path.parent.glob(f"{escape(path.stem)}.resume_*.pt"):
            if old != beside:
                old.unlink()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Both as one."""
        return load(Path(path))


def _resume_file(path: Path, step: int) -> Path:
    return path.with_name(f"{path.stem}.resume_{step}.pt")


def resolve(path: str) -> Path:
    """A checkpoint's path; a folder stands for its `checkpoints/last.ckpt` or `adapter.safetensors`.

    Raises:
        UserError: if there is none.
    """
    given = Path(path)
    if found := find(given):
        return found
    if (given / "adapter_config.json").is_file():
        raise UserError(f"{path!r} is a peft adapter: make it a run with zoo import {path}")
    raise UserError(f"no checkpoint {path!r}: give a .ckpt file, or a run's folder with checkpoints/last.ckpt")


def find(path: Path) -> Path | None:
    """The checkpoint that a path stands for: itself, or what a folder has of `last.ckpt` and `adapter.safetensors`."""
    tries = [path / "checkpoints" / "last.ckpt", path / ADAPTER] if path.is_dir() else [path]
    return next((candidate for candidate in tries if candidate.is_file()), None)


def run_folder(path: Path) -> Path | None:
    """The folder of the run that a checkpoint is in, if it is in one."""
    folder = path.resolve().parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def snapshot(model: ZooModule) -> dict[str, Any]:
    """A checkpoint of a model that no trainer holds: what is trained, and its settings."""
    checkpoint = {
        "epoch": 0, "global_step": 0, "pytorch-lightning_version": lightning.__version__,
        "state_dict": {}, "hparams_name": "kwargs", "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def write_adapter(
    path: Path, checkpoint: dict[str, Any], config: str = "", masked: Mapping[str, Kept] | None = None
) -> None:
    """Write a checkpoint's coefficients, and the rest of what is trained, as one safetensors file.

    Args:
        path: the file.
        checkpoint: as `load` gives it.
        config: the run's config.yaml, with which the adapter can be validated and tested.
        masked: further tensors by name, of which the file holds the coefficients that are kept.
    """
    places: dict[Any, str] = {}  # a matrix that two layers share is stored once
    shared = {name: places.setdefault(_place(t), name) for name, t in checkpoint["state_dict"].items()}
    settings = {key: checkpoint.get(key) for key in ("zoo_task", "hyper_parameters", "hparams_name", "zoo_fingerprints",
                                                     "epoch", "global_step", "pytorch-lightning_version")}
    settings["shared"] = {name: first for name, first in shared.items() if name != first}
    tensors = {name: checkpoint["state_dict"][name] for name in places.values()}
    kept, settings["masked"] = pack(masked or {})
    tensors |= kept
    write_tensors(path, tensors, {"zoo": json.dumps(settings), "config": config})


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _read_adapter(path: Path) -> dict[str, Any]:
    tensors, metadata = read_tensors(path)
    try:
        checkpoint = json.loads(metadata["zoo"])
        tensors |= {name: tensors[first] for name, first in checkpoint.pop("shared").items()}
        tensors = unpack_masked(tensors, checkpoint.pop("masked", {}))
        return {**checkpoint, "state_dict": tensors, "config": metadata.get("config", "")}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"'{path}' is no adapter of zoo's: zoo import reads the folder of a peft one") from None


def unpack(path: Path, folder: Path) -> Path:
    """An adapter as a run's folder, for what reads nothing else; the checkpoint in it.

    Of its config, model, data, seed and precision: a callback or profiler in a file from elsewhere would be run.

    Raises:
        UserError: if the file or its config is damaged.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    content = load(path)
    try:
        config = yaml.safe_load(content.pop("config")) or {}
        kept = {key: config[key] for key in ("seed_everything", "model", "data") if key in config}
        if "precision" in (config.get("trainer") or {}):
            kept["trainer"] = {"precision": config["trainer"]["precision"]}
    except (yaml.YAMLError, AttributeError, TypeError):
        raise UserError(f"adapter '{path}' has a damaged config: use another one") from None
    (folder / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False) if kept else "", encoding="utf-8")
    torch.save(content, checkpoint)
    return checkpoint


def load(path: Path) -> dict[str, Any]:
    """A checkpoint or adapter as plain data, on the CPU; nothing in the file is executed (`weights_only=True`).

    Raises:
        UserError: if the file is truncated, holds anything but data, or is no Lightning checkpoint.
    """
    checkpoint = _read_adapter(path) if path.suffix == ".safetensors" else read_file(path)
    for key in ("state_dict", "global_step", "pytorch-lightning_version"):
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise UserError(f"'{path}' is no zoo checkpoint: it has no {key}; use another one")
    if not isinstance(checkpoint["state_dict"], dict):
        raise UserError(f"'{path}' is no zoo checkpoint: its state_dict is none; use another one")
    beside = _resume_file(path, checkpoint["global_step"])
    return checkpoint | read_file(beside) if beside.is_file() else checkpoint


def read_file(path: Path) -> Any:
    """What a file of torch.save holds, on the CPU; nothing in it is executed.

    Raises:
        UserError: if it is truncated, or holds anything but data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: what follows says more
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        with path.open("rb") as file:
            pickled = file.read(1) in (b"\x80", b"P")  # of a pickle, or of torch's archive of one: a text has no code
        if pickled and ("Unsupported" in str(error) or "GLOBAL" in str(error)):
            held = f"checkpoint '{path}' holds code, not only weights"
            raise UserError(f"{held}: refused, nothing was executed; use another one") from None
        raise UserError(f"checkpoint '{path}' is damaged or no checkpoint: use another one") from None
    except Exception:  # whatever unpickling makes of bytes that are no pickle
        raise UserError(f"checkpoint '{path}' is truncated or no checkpoint: use another one") from None


def rebuild(
    path: Path, backbone: str | None = None, trained: bool = True, trust: Trust = NOBODY
) -> ZooModule:
    """The task that a checkpoint is of, with its coefficients, on the CPU.

    Its class and those of its parameterizations are imported from what is installed or in the current folder.

    Args:
        path: the checkpoint.
        backbone: where the pretrained network is now, if it is not where it was.
        trained: whether to load what was trained; else everything is as it starts, what is random drawn anew.

    Raises:
        UserError: if the file is no checkpoint of a task, or a class or backbone that it names cannot be had here.
    """
    checkpoint = load(path)
    module, _, name = str(checkpoint.get("zoo_task", "")).rpartition(".")
    try:
        task = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"checkpoint '{path}' is of a task {name!r} that is not found: run it where it is") from None
    if not (isinstance(task, type) and issubclass(task, ZooModule)):
        raise UserError(f"checkpoint '{path}' is of no task of zoo: use another one")
    settings = checkpoint.get("hyper_parameters", {})
    if backbone is not None:
        if "backbone" not in settings:
            raise UserError(f"checkpoint '{path}' has no backbone: drop --backbone")
        checkpoint["hyper_parameters"] = {**settings, "backbone": backbone}
    file = io.BytesIO()  # Lightning reads its own format only
    kept = {key: value for key, value in checkpoint.items() if key not in RESUME}
    torch.save(kept if trained else {**kept, "state_dict": {}}, file)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            if not trained:
                warnings.filterwarnings("ignore", message=".*(not in the checkpoint|contains no parameters)")
            model = task.load_from_checkpoint(file, map_location="cpu", weights_only=True, strict=trained)
    except UserError as error:  # names the option of fit
        raise UserError(str(error).replace("--model.backbone", "--backbone")) from error
    except Exception as error:  # what a checkpoint names may be missing here, or be something else
        reason = str(error).strip().splitlines()[-1].strip()[:100]
        hint = "is --backbone what it was trained on?" if backbone else "run it where its parameterization is found"
        raise UserError(f"checkpoint '{path}' cannot be rebuilt here ({reason}); {hint}") from error
    check(path, checkpoint, model)
    return model.eval()


def check(path: Path, checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Refuse a checkpoint, as `load` gives it, of another model.

    Raises:
        UserError: naming the first parameter that is missing, left over or of another shape, or the layer whose
            basis is another one.
    """
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
