"""Checkpoints of runs and adapters: found, read, compared with a model, and made one again.

An adapter, `adapter.safetensors`, is a checkpoint in another format: what is trained, and in its
metadata the settings that rebuild the task. It is read wherever a checkpoint is. What either names
is imported only if it is zoo's own, or the user has said so (`zoo.files.trust`).
"""

import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.cli import instantiate_module
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from zoo import path_today
from zoo.bases.masks import Kept, pack
from zoo.errors import UserError, option, options_called
from zoo.files.paths import ADAPTER
from zoo.files.tensors import stored_once, write_tensors
from zoo.files.trust import NOBODY, OURS, Trust
from zoo.layers.anew import match_state
from zoo.layers.convert import zoo_layers
from zoo.runs import adapter_folder
from zoo.training.checkpoint_files import START, load, run_folder
from zoo.training.checkpoint_state import PROJECTED
from zoo.training.identity import KEY
from zoo.training.module import ZooModule

HUGE, SPARSEST = 2**24, 1000
"""Weights of a matrix, and weights for each number of a file: no network has more of both."""
PARAMETERS = 20_000
"""How many a network from a file may have, besides ten times as many as the file has tensors."""
REMEDY = "; give the config and options it was trained with"


def resolve(path: str) -> Path:
    """Return a checkpoint's path; a folder stands for its `last.ckpt` or `adapter.safetensors`.

    Raises:
        UserError: if there is none.
    """
    given = Path(path)
    if adapter_folder.find_alone(given):
        raise UserError(
            f"{path!r} is an adapter that Python made, of no task: make it a run with zoo import "
            f"{path}"
        )
    if found := find(given):
        return found
    if (
        (given / "adapter_config.json").is_file()
        or given.is_dir()
        and any(given.glob("*/adapter_config.json"))
    ):
        raise UserError(f"{path!r} is a peft adapter: make it a run with zoo import {path}")
    raise UserError(
        f"no checkpoint {path!r}: give a .ckpt file, or a run's folder with checkpoints/last.ckpt"
    )


def find(path: Path) -> Path | None:
    """Return the checkpoint that a path stands for: itself, or what `resolve` takes of a folder."""
    tries = [path / "checkpoints" / "last.ckpt", path / ADAPTER] if path.is_dir() else [path]
    return next((candidate for candidate in tries if candidate.is_file()), None)


def is_start(path: Path, checkpoint: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint is weights to start a new run from.

    It is if it is an adapter, or one that no training has written. A run's own checkpoint is never
    that: without its optimizer's state it is one that something is missing of.
    """
    return path.suffix == ".safetensors" or checkpoint.get(START) is True


def snapshot(model: ZooModule) -> dict[str, Any]:
    """Return a checkpoint of a model that no trainer holds: what is trained, and its settings."""
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {},
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def write_adapter(
    path: Path,
    checkpoint: dict[str, Any],
    config: str = "",
    masked: Mapping[str, Kept] | None = None,
) -> None:
    """Write a checkpoint's coefficients, and the rest of what is trained, as one safetensors file.

    Args:
        path: the file.
        checkpoint: as `load` gives it.
        config: the run's config.yaml, with which the adapter can be validated and tested.
        masked: further tensors by name, of which the file holds the coefficients that are kept.
    """
    keys = (
        "zoo_task",
        "hyper_parameters",
        "hparams_name",
        "zoo_fingerprints",
        PROJECTED,
        KEY,
        "epoch",
        "global_step",
        "pytorch-lightning_version",
    )
    settings: dict[str, Any] = {key: checkpoint[key] for key in keys if key in checkpoint}
    tensors, settings["shared"] = stored_once(checkpoint["state_dict"])
    kept, settings["masked"] = pack(masked or {})
    tensors |= kept
    write_tensors(path, tensors, {"zoo": json.dumps(settings), "config": config})


def rebuild(
    path: Path, backbone: str | None = None, trained: bool = True, trust: Trust = NOBODY
) -> ZooModule:
    """Return the task that a checkpoint is of, with its coefficients, on the CPU.

    Args:
        path: the checkpoint.
        backbone: where the pretrained network is now, if it is not where it was.
        trained: whether to load what was trained; else everything is as it starts, what is random
            drawn anew.
        trust: which classes besides zoo's own it may name.

    Raises:
        UserError: if the file is no checkpoint of a task, names a class that is not trusted, or a
            class or backbone that it names cannot be had here.
    """
    checkpoint, where = load(path, resume=False), f"checkpoint '{path}'"
    if "zoo_task" not in checkpoint:
        raise UserError(f"{where} is of no task of zoo: use another one")
    task, settings = task_of(path, checkpoint, trust)
    if backbone is not None:
        if "backbone" not in settings:
            raise UserError(f"{where} has no backbone: drop {option('backbone')}")
        settings["backbone"] = backbone
    try:
        with options_called({"model.backbone": "backbone"}):
            check_sizes(path, checkpoint, lambda: instantiate_module(task, settings))
            model: ZooModule = instantiate_module(task, settings)  # type: ignore[type-var]
    except UserError:
        raise
    except Exception as error:  # what a checkpoint names may be missing here, or be something else
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:100]
        hint = (
            f"is {option('backbone')} what it was trained on?"
            if backbone
            else "run it where its parameterization is found"
        )
        raise UserError(f"{where} cannot be rebuilt here ({reason}); {hint}") from error
    with options_called({"model.backbone": "backbone"}):
        check(path, checkpoint, model)
    if trained:
        model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def task_of(
    path: Path, checkpoint: Mapping[str, Any], trust: Trust
) -> tuple[type[ZooModule], dict[str, Any]]:
    """Return the task that a checkpoint names, and its settings, all of what is trusted.

    Raises:
        UserError: if they name anything else, or there is no such task here.
    """
    where, settings = f"checkpoint '{path}'", checkpoint.get("hyper_parameters", {})
    task = trust.find(checkpoint["zoo_task"], ZooModule, where)
    if settings.get("_instantiator") not in (None, "lightning.pytorch.cli.instantiate_module"):
        maker = str(settings["_instantiator"])[:60]
        raise UserError(
            f"{where} cannot be rebuilt here: it names {maker!r} as what makes it; use another one"
        )
    if (
        "_class_path" in settings
        and trust.find(settings["_class_path"], ZooModule, where) is not task
    ):
        raise UserError(
            f"{where} is of {checkpoint['zoo_task']} and of {settings['_class_path']}: "
            "use another one"
        )
    known = inspect.signature(task.__init__).parameters  # type: ignore[misc]
    settings = {key: value for key, value in settings.items() if key in known}
    trust.check_arguments(task, settings, where)
    return task, path_today(settings)


def check_sizes(path: Path, checkpoint: Mapping[str, Any], build: Callable[[], nn.Module]) -> None:
    """Hold the sizes that a file's settings ask for against its tensors, before any is built.

    The network is built on the meta device, where it takes no memory, and no further than a file of
    so many tensors can have parameters.

    Args:
        path: of the checkpoint.
        checkpoint: as `load` gives it.
        build: makes the network.

    Raises:
        UserError: if they are of different networks.
    """
    left = PARAMETERS + 10 * len(checkpoint["state_dict"])

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(
                f"checkpoint '{path}' is damaged: its settings ask for a network that it has "
                "no tensors of"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network itself will say it
            model = build()
    except UserError:
        raise
    except Exception:
        if str(checkpoint.get("zoo_task")).partition(".")[0] in OURS:
            raise
        return  # a task of the user's own need not know the meta device
    finally:
        handle.remove()
    shapes = _shapes(checkpoint)
    if isinstance(model, ZooModule):
        model.check_settings(checkpoint)
        match_state(zoo_layers(model.net), {*shapes})
    _check_matrices(path, checkpoint, model)
    have = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted = model.trained_state() if isinstance(model, ZooModule) else have
    _check_shapes(
        path,
        shapes,
        {name: have[name] for name in wanted} | {n: have[n] for n in shapes if n in have},
    )


def _check_matrices(path: Path, checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Raise UserError where a file of a few numbers stands for huge matrices."""
    tensors = [
        *checkpoint["state_dict"].values(),
        *(kept.values for kept in checkpoint.get("masked", {}).values()),
    ]
    numbers = sum(tensor.numel() for tensor in tensors)
    alone = [
        math.prod(layer.parameterization.shape)
        for layer in zoo_layers(model).values()
        if not layer.has_base
    ]
    if alone and max(alone) > HUGE and sum(alone) > SPARSEST * numbers:
        raise UserError(
            f"checkpoint '{path}' is damaged: {numbers:,} numbers for {sum(alone):,} weights"
        )


def _shapes(checkpoint: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a checkpoint, masked ones too."""
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    return found | {name: kept.shape for name, kept in checkpoint.get("masked", {}).items()}


def _check_shapes(
    path: Path, theirs: Mapping[str, tuple[int, ...]], mine: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise UserError naming the first tensor that is missing, left over or of another shape."""
    for name, shape in mine.items():
        if name not in theirs:
            raise UserError(f"checkpoint '{path}' is of another model: it has no {name}{REMEDY}")
        if theirs[name] != shape:
            raise UserError(
                f"checkpoint '{path}' is of another model: {name} is {theirs[name]}, "
                f"here {shape}{REMEDY}"
            )
    for name in theirs:
        if name not in mine:
            raise UserError(
                f"checkpoint '{path}' is of another model: it has {name} as well{REMEDY}"
            )


def check(path: Path, checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Refuse a checkpoint, as `load` gives it, of another model, or one that is damaged.

    Raises:
        UserError: naming the first parameter that is missing, left over or of another shape, one
            whose numbers are not finite or of another kind, or the layer whose basis is another
            one.
    """
    shapes = _shapes(checkpoint)
    if isinstance(model, ZooModule):
        match_state(zoo_layers(model.net), {*shapes})
    mine = model.trained_state() if isinstance(model, ZooModule) else model.state_dict()
    if isinstance(model, ZooModule) and (lost := sorted(model.drawn & mine.keys() - shapes.keys())):
        raise UserError(
            f"neither checkpoint '{path}' nor its backbone has {lost[0]}, which was drawn at "
            "random: give the backbone that it was trained on, or train again"
        )
    _check_shapes(path, shapes, {name: tuple(tensor.shape) for name, tensor in mine.items()})
    for name, tensor in checkpoint["state_dict"].items():
        if (
            tensor.dtype.is_floating_point != mine[name].dtype.is_floating_point
            or tensor.dtype.is_complex
        ):
            raise UserError(
                f"checkpoint '{path}' is damaged: {name} is in {tensor.dtype}; use another copy"
            )
        if not tensor.isfinite().all():
            raise UserError(
                f"checkpoint '{path}' is damaged: {name} holds NaN or infinite values; "
                "use one from before"
            )
    if isinstance(model, ZooModule):
        # Lightning calls it too, but after the run's folder is there.
        model.on_load_checkpoint(checkpoint)


__all__ = [
    "START",
    "check",
    "check_sizes",
    "find",
    "is_start",
    "load",
    "rebuild",
    "resolve",
    "run_folder",
    "snapshot",
    "task_of",
    "write_adapter",
]
