"""What is known of a run beside its weights, and names and groups that tell several of them apart."""

import dataclasses
import inspect
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.files.paths import nickname
from zoo.files.plain import check_bounds
from zoo.layers.convert import factory_class
from zoo.pages.texts import clean, printable
from zoo.runs import checkpoints
from zoo.runs.summaries import is_number
from zoo.training.identity import KEY, PARTS, is_identity
from zoo.training.module import ZooModule

DATA = ("corpus", "corpus_sha256", "max_length", "block_size", "batch_size", "precision", "steps")
"""What of the summary of a run without an identity tells it apart, besides examples and a checkpoint's settings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of a run.

    Args:
        path: as given.
        name: short.
        task: of GLUE, or the corpus, or the task's class.
        model: the pretrained network in short, or the task's class.
        parameterization: as the run's summary has it, `LoRA`, or `LoRA+DCT` where layers differ.
        seed: of its training.
        loss: on the validation data, at the step of the checkpoint.
        score: the same.
        metric: the score's name; `score` where it is the mean of several.
        group: equal for runs that differ only in their seed, once `label` has seen all of them.
        settings: what tells it from other runs, but for its seed; words by dotted name.
    """

    path: str
    name: str
    group: str
    task: str | None = None
    model: str | None = None
    parameterization: str | None = None
    seed: int | None = None
    loss: float | None = None
    score: float | None = None
    metric: str | None = None
    settings: dict[str, str] = field(default_factory=dict)


def run_facts(path: str, file: Path, model: ZooModule) -> tuple[Facts, list[str]]:
    """What is known of a run, from its checkpoint and the `summary.json` beside it; and notes on the latter.

    Args:
        path: as given.
        file: the checkpoint that it stands for.
        model: the task that this is of, rebuilt.

    Raises:
        UserError: if the checkpoint's settings are none.
    """
    checkpoint, about = checkpoints.load(file, resume=False), model.describe()
    summary, notes = _summary(file, about)
    settings = {
        str(key): value
        for key, value in _settings(file, checkpoint).items()
        if not str(key).startswith("_")
    }
    arguments, step = _arguments(model), checkpoint["global_step"]
    task, network = _called(summary, checkpoint, model)
    told = _own(summary, checkpoint, model) or _told(summary, settings, model, step)
    words = [
        str(about["parameterization"]),
        *(f"{key}={_words(value)}" for key, value in arguments.items()),
    ]
    words += ["full"] if model.start == "project" else []
    score, loss = (_result(summary, key, step) for key in ("score", "loss"))
    return Facts(
        path=path,
        name=_name(path),
        group=_slashed(task, network, " ".join(words)),
        task=task,
        model=network,
        parameterization=str(about["parameterization"]),
        seed=model.seed,
        loss=loss,
        score=score,
        metric=_metric(summary) if score is not None else None,
        settings={
            **_flat(told),
            **({"checkpoint": file.stem} if file.stem not in ("last", "adapter") else {}),
        },
    ), notes


def _record(summary: dict[str, Any], checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a run says of itself, in its summary, or else in its checkpoint; empty if it says nothing."""
    return summary if is_identity(summary.get("identity")) else checkpoint.get(KEY) or {}


def _called(
    summary: dict[str, Any], checkpoint: dict[str, Any], model: ZooModule
) -> tuple[str, str]:
    """The data and the network in short."""
    known, settings = _record(summary, checkpoint), checkpoint["hyper_parameters"]
    class_name = type(model).__name__
    if known:
        return printable(known.get("data_name") or class_name), printable(
            known.get("network") or class_name
        )
    task = printable(
        summary.get("glue_task") or settings.get("task") or summary.get("corpus") or class_name
    )
    return task, printable(
        nickname(str(settings["backbone"])) if "backbone" in settings else class_name
    )


def _own(summary: dict[str, Any], checkpoint: dict[str, Any], model: ZooModule) -> dict[str, Any]:
    """The identity that a run has written, as a whole, with the learning rate; empty if it has written none."""
    known = _record(summary, checkpoint)
    if not known:
        return {}
    data, method, conditions = (known["identity"][part] for part in PARTS)
    told = {key: value for key, value in method.items() if key.rpartition(".")[2] != "seed"}
    return {**data, **conditions, "optimizer.lr": model.optimizer_config.lr, **told}


def _told(
    summary: dict[str, Any], settings: dict[str, Any], model: ZooModule, step: int
) -> dict[str, Any]:
    """What tells a run apart that has written no identity: of its summary, and of its checkpoint's settings."""
    cls = factory_class(model.parameterization)
    examples = summary.get("examples")
    data = (
        {f"{split}_examples": count for split, count in examples.items()}
        if isinstance(examples, dict)
        else {}
    )
    data |= {key: summary[key] for key in DATA if key in summary}
    parameterization = {"class": f"{cls.__module__}.{cls.__qualname__}", **_arguments(model)}
    return {
        **data,
        **settings,
        "parameterization": parameterization,
        "steps": data.get("steps", step),
    }


def adapter_facts(path: str, config: dict[str, Any]) -> Facts:
    """What is known of a peft LoRA adapter: neither task nor seed, so that it is a group of its own.

    Args:
        path: the adapter's, as given.
        config: its adapter_config.json.
    """
    name, base = _name(path), config.get("base_model_name_or_path")
    network = printable(nickname(base)) if isinstance(base, str) and base else None
    rank = _words(config.get("r"))
    return Facts(
        path=path,
        name=name,
        group=_slashed(name, network, f"LoRA rank={rank}"),
        model=network,
        parameterization="LoRA",
        settings={"path": path},
    )


def plain_facts(path: str) -> Facts:
    """What is known of a checkpoint of something else: its name."""
    return Facts(path=path, name=_name(path), group=_name(path), settings={"path": path})


def _name(path: str, parts: int = 1) -> str:
    return printable(nickname(path, parts))


def _settings(file: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint, which may be anything that pickle can write, and hold itself."""
    settings = checkpoint.get("hyper_parameters")
    try:
        check_bounds(settings)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"checkpoint '{file}' has no settings that its task was made with: use another one"
        )
    return settings


def _summary(file: Path, about: dict[str, object]) -> tuple[dict[str, Any], list[str]]:
    """The summary.json beside a checkpoint or in its run's folder; and a note where it cannot be used.

    A checkpoint, or the folder that it is in, may be a link to another disk, and then the summary
    is where the link is.
    """
    folders = [
        folder
        for path in (file.absolute(), file.resolve())
        for folder in (path.parent.parent, path.parent)
    ]
    notes = []
    for path in dict.fromkeys(folder / "summary.json" for folder in folders):
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
    """The parameterization's own settings that are not its defaults, without the seed."""
    known = inspect.signature(factory_class(model.parameterization)).parameters
    return {
        key: value
        for key, value in model.arguments().items()
        if key != "seed" and value is not None and (key not in known or known[key].default != value)
    }


def _result(summary: dict[str, Any], key: str, step: int) -> float | None:
    """A result at a step, if it was recorded: at the last one everything, at the best one what decided."""
    best = summary.get("monitor") == f"val/{key}" and summary.get("best_step") == step
    value = (
        summary.get(key) if summary.get("steps") == step else summary.get("best") if best else None
    )
    return float(value) if value is not None and is_number(value) and math.isfinite(value) else None


def _metric(summary: dict[str, Any]) -> str:
    metrics = summary.get("metrics")
    same = (
        [tag for tag, value in metrics.items() if value == summary["score"]]
        if isinstance(metrics, dict)
        else []
    )
    return next((tag.removeprefix("val/") for tag in same if tag != "val/score"), "score")


def _slashed(*parts: object) -> str:
    return " / ".join(str(part) for part in parts if part)


def _words(value: object) -> str:
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as words by dotted name, without seeds and what is not set."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "seed" and value is not None and value != []:
            flat[f"{prefix}{key}"] = printable(value)
    return flat


AnyFacts = TypeVar("AnyFacts", bound=Facts)


def label(sources: Sequence[AnyFacts]) -> list[AnyFacts]:
    """The same sources with names that differ, and with groups that differ where more than the seed does.

    A group is called by task, network and parameterization; where that is not enough, by the fewest
    other settings that tell: `rte / bert / LoRA rank=8, lr=0.0001`.

    Args:
        sources: as they were read.

    Raises:
        UserError: if two are of one path.
    """
    names, groups = _names(sources), _groups(sources)
    return [
        dataclasses.replace(source, name=name, group=group)
        for source, name, group in zip(sources, names, groups, strict=True)
    ]


def repeated(sources: Sequence[Facts]) -> dict[str, str]:
    """By name, what to note of runs that have the group and the seed of one before."""
    first: dict[tuple[str, int], str] = {}
    notes = {}
    for source in sources:
        if source.seed is not None:
            before = first.setdefault((source.group, source.seed), source.name)
            if before != source.name:
                notes[source.name] = (
                    f"has the seed of {before}: the statistics take both for independent, and err"
                )
    return notes


def _groups(sources: Sequence[Facts]) -> list[str]:
    """Which runs are equal but for their seed is decided by all settings, what to call them by those that differ."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], str] = {
        (source.group, frozenset(source.settings.items())): "" for source in sources
    }
    for group in dict.fromkeys(source.group for source in sources):
        kinds = [dict(kind) for name, kind in found if name == group]
        keys = list(dict.fromkeys(key for source in sources for key in source.settings))
        told = [group] * len(kinds)
        while len(set(told)) < len(kinds):
            best, _, names = max(
                (_with(told, key, kinds) for key in keys), key=lambda found: found[:2]
            )
            # Where no setting helps, they differ behind what is shown of one.
            told = (
                names
                if best > len(set(told))
                else [f"{name} ({i})" for i, name in enumerate(told, 1)]
            )
        found |= {
            (group, frozenset(kind.items())): name for kind, name in zip(kinds, told, strict=True)
        }
    return [found[source.group, frozenset(source.settings.items())] for source in sources]


def _with(
    names: Sequence[str], key: str, kinds: Sequence[dict[str, str]]
) -> tuple[int, bool, list[str]]:
    """Names with a setting added: how many are different then, whether all have the setting, and the names."""
    short = key.rpartition(".")[2]
    more = [
        f"{name}, {short}={_words(kind[key])}" if key in kind else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    return len(set(more)), all(key in kind for kind in kinds), more


def _names(sources: Sequence[Facts]) -> list[str]:
    """Those that two have get more parts of their paths."""
    names = [source.name for source in sources]
    for parts in range(
        2, 2 + max((len(Path(source.path).absolute().parts) for source in sources), default=0)
    ):
        names = [
            _name(source.path, parts) if names.count(name) > 1 else name
            for name, source in zip(names, sources, strict=True)
        ]
    if twice := [
        source.path for name, source in zip(names, sources, strict=True) if names.count(name) > 1
    ]:
        raise UserError(f"{twice[0]!r} and {twice[1]!r} are the same: give each once")
    return names
