"""The run that a checkpoint or an adapter is of, with the results in the summary.json beside it."""

import inspect
import os
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.files.flat import Flat, as_json, flatten
from zoo.files.paths import nickname
from zoo.files.plain import check_bounds
from zoo.pages.texts import clean, printable
from zoo.parameterizations.factory import factory_class
from zoo.runs import checkpoints, older_runs
from zoo.runs.names import short
from zoo.runs.run import Run, fields_of, settings_of, slashed
from zoo.runs.run_files import SUMMARY, fitting
from zoo.training.identity import KEY, path_of
from zoo.training.module import ZooModule

USUAL = ("last", "adapter")
"""Checkpoints that stand for their run; of another the name is told."""


def checkpoint_run(path: str, file: Path, model: ZooModule) -> tuple[Run, list[str]]:
    """Return the run of a checkpoint, from what it keeps and its summary.json; and notes on that.

    Args:
        path: as given.
        file: the checkpoint that it stands for.
        model: the task that this is of, rebuilt.

    Raises:
        UserError: if the checkpoint's settings are none.
    """
    checkpoint = checkpoints.load(file, resume=False)
    about, step = model.describe(), checkpoint["global_step"]
    beside, notes = _summary(file, about)
    settings = _settings(file, checkpoint, model)
    summary = {
        "task": type(model).__name__,
        "targets": model.targets,
        "steps": step,
        **clean(checkpoint.get(KEY) or {}),
        **fitting(beside),
        **about,
        "seed": model.seed,
        "lr": model.optimizer_config.lr,
    }
    if summary.get("identity") is None:
        summary = older_runs.completed(summary, settings)
        summary["identity"]["conditions"] |= {
            f"model.{key}": value for key, value in model.network_identity().items()
        }
    known = fields_of(summary, settings_of(summary), step)
    if file.stem not in USUAL:
        known["conditions"]["checkpoint"] = printable(file.stem)
    words = [
        str(about["parameterization"]),
        *(f"{key}={short(value)}" for key, value in _arguments(model).items()),
        *["full"] * (model.start == "project"),
        *[f"base={model.base}"] * (model.base is not None),
        *[f"dense_steps={model.dense_steps}"] * (model.dense_steps > 0),
    ]
    group = slashed(known["task"], known["network"], " ".join(words))
    return Run(**known, path=path, name=printable(nickname(path)), group=group), notes


def adapter_run(path: str, config: dict[str, Any], parameterization: str) -> Run:
    """Return an adapter of peft as a run of neither task nor seed, so that it is its own group.

    Args:
        path: the adapter's, as given.
        config: its adapter_config.json.
        parameterization: the class that would hold its updates.
    """
    name, base = printable(nickname(path)), config.get("base_model_name_or_path")
    network = printable(nickname(base)) if isinstance(base, str) and base else None
    rank = [f"rank={short(config[key])}" for key in ("r", "init_r") if config.get(key)][-1:]
    return Run(
        path=path,
        name=name,
        network=network,
        parameterization=parameterization,
        conditions={"path": path},
        group=slashed(name, network, " ".join([parameterization, *rank])),
    )


def plain_run(path: str) -> Run:
    """Return a checkpoint of something else, of which the name alone is known."""
    name = printable(nickname(path))
    return Run(path=path, name=name, conditions={"path": path}, group=name)


def _settings(file: Path, checkpoint: dict[str, Any], model: ZooModule) -> Flat:
    """Return the settings in a checkpoint, which may be anything that pickle can write.

    Raises:
        UserError: if there are none, or they have no end.
    """
    settings = checkpoint.get("hyper_parameters")
    try:
        check_bounds(settings)
        if not isinstance(settings, dict):
            raise ValueError
        plain = clean(as_json({k: v for k, v in settings.items() if not str(k).startswith("_")}))
    except (TypeError, ValueError):
        raise UserError(
            f"checkpoint '{file}' has no settings that its task was made with: use another one"
        ) from None
    return {"model": path_of(type(model)), **flatten(plain, "model")}


def _summary(file: Path, about: dict[str, object]) -> tuple[dict[str, Any], list[str]]:
    """Return the summary.json of a checkpoint's run; and a note where it cannot be used.

    It lies beside the checkpoint, or in the folder above. A checkpoint, or the folder that it is
    in, may be a link to another disk, and then the summary is where the link is.
    """
    folders = [
        folder
        for path in (file.absolute(), file.resolve())
        for folder in (path.parent.parent, path.parent)
    ]
    notes = []
    for path in dict.fromkeys(folder / SUMMARY for folder in folders):
        if not os.path.lexists(path):
            continue
        try:
            summary = clean(read_json(path))
        except UserError:
            notes.append(f"'{path}' is damaged: ignored")
            continue
        if all(summary.get(key) == about[key] for key in ("parameterization", "trainable")):
            return summary, []
        notes.append(f"'{path}' is of another run: ignored")
    return {}, notes[:1]


def _arguments(model: ZooModule) -> dict[str, object]:
    """Return the parameterization's own settings that are not its defaults, without the seed."""
    known = inspect.signature(factory_class(model.parameterization)).parameters
    return {
        key: value
        for key, value in model.arguments().items()
        if key != "seed" and value is not None and (key not in known or known[key].default != value)
    }
