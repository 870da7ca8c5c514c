"""What a task of the user's own must have, said in one line where it lacks it."""

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

from zoo.errors import UserError, blame
from zoo.files.trust import OURS, imported
from zoo.layers.convert import zoo_layers
from zoo.training.module import ZooData, ZooModule

STEPS = {
    "fit": ("training_step", "validation_step"),
    "validate": ("validation_step",),
    "test": ("test_step",),
    "predict": ("predict_step",),
}
LOADERS = {
    "fit": ("train_dataloader", "val_dataloader"),
    "validate": ("val_dataloader",),
    "test": ("test_dataloader",),
    "predict": ("predict_dataloader",),
}
"""The loaders that each command calls."""


def check_task(model: ZooModule, data: ZooData, command: str, validates: bool = True) -> None:
    """Hold a task against what zoo and Lightning ask of it.

    Args:
        model: the task as its class has built it.
        data: its data.
        command: the one that is to be run.
        validates: whether a fit validates.

    Raises:
        UserError: naming the class and what it lacks.
    """
    name, of_data = type(model).__name__, type(data).__name__
    if "optimizer_config" not in vars(model):
        raise UserError(
            f"{name} is not set up: call super().__init__(**settings) first in its __init__"
        )
    if not isinstance(getattr(model, "net", None), nn.Module):
        others = ", ".join(key for key, _ in model.named_children()) or "none"
        raise UserError(
            f"{name} has no network: keep it as self.net, which --model.targets and counts refer "
            f"to (its modules are {others})"
        )
    if not zoo_layers(model.net):
        raise UserError(
            f"{name} has no layer in a parameterization: build its network as "
            "self.net = self.parameterize(network)"
        )
    if "parameterization" not in model.hparams:
        raise UserError(
            f"{name} keeps no settings in its checkpoints: call self.save_settings() in its "
            "__init__, after super().__init__(**settings)"
        )
    if "prepare_data_per_node" not in vars(data):
        raise UserError(f"{of_data} is not set up: call super().__init__() first in its __init__")
    for cls, base, names in (
        (type(model), LightningModule, STEPS),
        (type(data), LightningDataModule, LOADERS),
    ):
        for method in names.get(command, ()):
            needed = validates or not method.startswith("val")
            if needed and getattr(cls, method) is getattr(base, method):
                raise UserError(
                    f"{cls.__name__} has no {method}, which zoo {command} needs: define it"
                )
    if not isinstance(data.name, str):
        raise UserError(
            f"{of_data} has {data.name!r} as name: give it a word, which runs are called after"
        )


def check_facts(data: ZooData) -> None:
    """Hold what a run is to say of its data against what can be written, before it trains.

    Raises:
        UserError: naming the class, and of a dict the value.
    """
    name = type(data).__name__
    for method in ("facts", "identity", "settings"):
        try:
            found = getattr(data, method)()
        except Exception as error:
            if isinstance(error, UserError) or type(data).__module__.partition(".")[0] in OURS:
                raise
            raise UserError(f"{name}.{method} fails: {blame(error)}; correct that file") from error
        if not isinstance(found, Mapping):
            raise UserError(f"{name}.{method} must return a dict, got {type(found).__name__}")
        for key, value in found.items() if method != "settings" else ():
            try:
                json.dumps({key: value})
            except (TypeError, ValueError, RecursionError):
                raise UserError(
                    f"{name}.{method} gives {type(value).__name__} as {key!r}, which a summary "
                    "cannot hold: give numbers, texts, and lists and dicts of them"
                ) from None


def why_not_built(error: BaseException, classes: Sequence[type]) -> str | None:
    """Say in one line what went wrong in a constructor of the user's own; None if nothing did.

    Args:
        error: the exception that building them raised, wrapped or not.
        classes: of the task and its data.
    """
    own = [cls for cls in classes if cls.__module__.partition(".")[0] not in OURS]
    for cause in reversed(list(_causes(error))):  # the first of them
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for cls in own:
                if getattr(frame.f_locals.get("self"), "__class__", None) is cls:
                    return f"{cls.__name__} cannot be built: {blame(cause)}; correct that file"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an exception and those that it was made of."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def classes_of(*specs: Any) -> list[type]:
    """Find the classes of a config that are imported already."""
    found = (imported(str(spec.get("class_path"))) for spec in specs if spec is not None)
    return [cls for cls in found if isinstance(cls, type)]
