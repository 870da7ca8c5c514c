"""Runs as a report takes them: what they reached, and the settings that say which of them may be compared."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import UserError
from zoo.files.paths import nickname
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import printable
from zoo.runs import curves
from zoo.runs.curves import Curve
from zoo.runs.settings import Flat, filled
from zoo.runs.summaries import CONFIG, SUMMARY, is_count, is_size, read_settings, read_summary
from zoo.training.identity import PARTS

OWN = ("parameterization", "targets", "overrides", "budget", "tuning", "optimizer")
"""Settings of a model that make a method; the others are of the network."""
SILENT_DATA = (
    "data_dir",
    "fallback",
    "corpus",
    "task",
    "eval_batch_size",
    "backbone",
    "seed",
    "train_examples",
)
"""Settings of the data that do not matter for the result, or stand in the summary as what came of them."""
SILENT_TUNING = ("preset", "gradient_checkpointing")
DATA = (
    "corpus_sha256",
    "glue_task",
    "examples",
    "max_length",
    "block_size",
    "batch_size",
    "vocabulary",
)
"""What of a summary without an identity tells data apart, besides the sizes of the splits."""
BATCH = (
    "trainer.accumulate_grad_batches",
    "trainer.devices",
    "trainer.num_nodes",
    "data.batch_size",
)
"""Settings of which the global batch is all that matters."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "accumulate_grad_batches": (1,),
    "limit_train_batches": (1.0,),
    "limit_val_batches": (1.0,),
    "num_nodes": (1,),
    "overfit_batches": (0, 0.0),
    "devices": ("auto", 1, "1"),
    "max_time": (),
}
"""Settings of the trainer that tell runs apart, and their values that say nothing."""
UNTOLD = "facts.identity"
"""Of a run that does not say its identity, beside others that do: it is never of one comparison with them."""
CLIPPING = ("gradient_clip_val", "gradient_clip_algorithm")


class Skipped(NamedTuple):
    """A folder that is left out, and why."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Args:
        path: of its folder.
        name: of the run, with its version unless that is 0.
        subject: task or corpus, and the network.
        conditions: settings that runs to be compared share.
        method: all settings that make a method: not the seed and not the learning rate.
        parameterization: as the summary has it, `LoRA+DCT` where layers differ.
        arguments: of the parameterization, those that are set, by name.
        optimizer: its name.
        counts: coefficients, replaced, trainable, total.
        value: the metric at the last step; None if it is not finite, and the run diverged.
        higher: whether more is better.
        metrics: what the metric may be called.
        epoch: steps of a pass over the training data, if known.
        summary: all of it.
        curve: the metric by step.
        ranks: the mean stable rank by step.
    """

    path: str
    name: str
    subject: str
    conditions: Flat
    method: Flat
    parameterization: str
    arguments: dict[str, Any]
    optimizer: str
    counts: dict[str, int]
    lr: float
    seed: int
    value: float | None
    higher: bool
    metrics: list[str]
    steps: int
    epoch: int | None
    summary: dict[str, Any]
    curve: Curve = field(default_factory=list)
    ranks: Curve = field(default_factory=list)


def read(paths: Iterable[str], trust: Trust = NOBODY) -> tuple[list[Run], list[Skipped]]:
    """All finished runs in some folders, at any depth, each once; and what was left out.

    A run may come from anyone: one with whatever in its files is left out by itself, and never
    stands in the way of the others.

    Args:
        paths: of the folders.
        trust: whose classes are imported, to see their defaults.

    Raises:
        UserError: for a path that is no folder, or in which there is no run at all.
    """
    found: dict[Path, Path] = {}  # as given, by where it really is
    for path in paths:
        folders = list(_folders(Path(path)))
        if not folders:
            raise UserError(
                f"no run in '{path}': give a folder of zoo fit, or one that contains such folders"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    raw, skipped = [], []
    for folder in sorted(found.values()):
        try:
            summary = read_summary(folder)
            own = summary.get("identity") is not None
            raw.append(
                (folder, summary, _own(summary) if own else _told(summary, read_settings(folder)))
            )
        except UserError as error:
            skipped.append(Skipped(_shown(folder), printable(error)))
        except Exception:  # whatever the checks have missed is of one run alone
            skipped.append(damaged(folder))
    runs, more = _runs(raw, trust)
    return runs, sorted([*skipped, *more])


def damaged(folder: Path | str) -> Skipped:
    """A run that cannot be taken, for a reason that nobody has thought of."""
    return Skipped(_shown(Path(folder)), "its summary.json is damaged")


def _folders(top: Path) -> Iterable[Path]:
    """Those that are a run's, or look like one."""
    if not top.is_dir():
        raise UserError(f"'{top}' is no folder: give a run's folder, or one that contains runs")
    for folder, below, files in os.walk(top):
        below.sort()
        if SUMMARY in files or CONFIG in files:
            yield Path(folder)


def _shown(folder: Path) -> str:
    """The path as it was given, or within the current folder as one would type it."""
    here = Path.cwd()
    return printable(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _runs(
    raw: Sequence[tuple[Path, dict[str, Any], Flat]], trust: Trust
) -> tuple[list[Run], list[Skipped]]:
    """Runs, whose settings were completed by those of other runs of the same task; and those that cannot be had."""
    alike = defaultdict(list)
    for item in raw:
        alike[
            item[1].get("identity") is not None, str(item[2]["model"]), str(item[2].get("data"))
        ].append(item)
    runs, skipped = [], []
    mixed = len({own for own, _, _ in alike}) > 1
    for items in alike.values():
        flats = filled([flat for _, _, flat in items], trust)
        for (folder, summary, _), flat in zip(items, flats, strict=True):
            own = summary.get("identity") is not None
            try:
                runs.append(
                    _run(folder, summary, flat | ({UNTOLD: "none"} if mixed and not own else {}))
                )
            except Exception:
                skipped.append(damaged(folder))
    return sorted(runs, key=lambda run: run.path), skipped


def _own(summary: dict[str, Any]) -> Flat:
    """What a run says of its identity, which is compared whole, and which metric it is compared by."""
    data, method, conditions = (summary["identity"][part] for part in PARTS)
    facts = {f"facts.{key}": value for key, value in data.items()}
    return {**facts, **conditions, **method, "metric": _metric(summary)}


def _metric(summary: dict[str, Any]) -> str:
    return "loss" if summary.get("score") is None else "score"


def _told(summary: dict[str, Any], flat: Flat) -> Flat:
    """The settings that matter of a run that does not say its identity, and what its summary says of the data."""
    facts = {
        key: summary[key]
        for key in summary
        if key in DATA or key.startswith(("train_", "validation_")) and is_count(summary[key])
    }
    if not {"corpus_sha256", "glue_task"} & set(facts):
        facts["data"] = summary.get("corpus", summary.get("data"))
    if (whole := _global_batch(summary, flat)) is not None:
        facts["global_batch"] = whole
        facts.pop("batch_size")
        flat = {key: value for key, value in flat.items() if key not in BATCH}
    elif summary.get("devices") not in (None, 1):
        facts["devices"] = summary["devices"]  # each has batches of its own
    told = {}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        silent = (
            part == "trainer"
            and (name not in (*NEUTRAL, *CLIPPING) or _is_neutral(name, value))
            or part == "data"
            and (name in (*SILENT_DATA, *facts))
            or part == "model"
            and (name in facts or name in ("vocabulary", "task", "targets", "seed"))
            or key.startswith("model.optimizer")
            or key.startswith("model.tuning.")
            and key.rpartition(".")[2] in SILENT_TUNING
        )
        if not silent:
            told[key] = nickname(str(value)) if name == "backbone" else value
    optimizer = summary.get("optimizer")
    if not isinstance(optimizer, dict):
        optimizer = {"name": "adamw"} | {
            key.removeprefix("model.optimizer."): value
            for key, value in flat.items()
            if key.startswith("model.optimizer.")
        }
        optimizer |= {"weight_decay": summary.get("weight_decay")}
    if optimizer.get("name") == "adamw":
        optimizer = {key: value for key, value in optimizer.items() if key != "momentum"}
    told |= {
        f"model.optimizer.{key}": value
        for key, value in optimizer.items()
        if key not in ("lr", "name")
    }
    told["model.optimizer"] = optimizer.get("name") or "adamw"
    planned = flat.get("trainer.max_steps")
    told |= {f"facts.{key}": value for key, value in facts.items()}
    told |= {
        "model.targets": summary["targets"],
        "facts.steps": summary["steps"],
        "facts.precision": summary.get("precision"),
        "facts.metric": _metric(summary),
        "facts.planned_steps": planned
        if is_size(planned) and planned != summary["steps"]
        else None,
    }
    return told


def _is_neutral(name: str, value: object) -> bool:
    """A whole number of batches is one, and 1.0 all of them."""
    return any(type(value) is type(known) and value == known for known in NEUTRAL.get(name, ()))


def _global_batch(summary: dict[str, Any], flat: Flat) -> int | None:
    """Of a run that does not say it: what a process had, times processes, times batches of a step."""
    processes = summary.get("devices") or 1
    factors: list[Any] = [
        summary.get("batch_size"),
        processes,
        flat.get("trainer.accumulate_grad_batches") or 1,
    ]
    return math.prod(factors) if all(map(is_size, factors)) else None


def _parts(summary: dict[str, Any], flat: Flat) -> tuple[Flat, Flat]:
    """The settings of a method, by name within the model, and the conditions."""
    method: Flat = {}
    conditions: Flat = {}
    if (own := summary.get("identity")) is not None:
        roots = {_root(key) for key in own["method"]}
        for key, value in flat.items():
            part = method if _root(key) in roots else conditions
            part[key.removeprefix("model.") if part is method else key] = value
        return method, conditions
    conditions["task"] = summary["task"]
    for key, value in flat.items():
        part_name, _, name = key.partition(".")
        if name.split(".")[0] in OWN or name in CLIPPING:
            method[name if part_name == "model" else key] = value
        elif key != "data":
            conditions["class" if key == "model" else name] = value
    if conditions.get("class") == f"tasks.{summary['task']}":
        del conditions["class"]
    return method, conditions


def _root(key: str) -> str:
    """`model.optimizer` of `model.optimizer.lr`."""
    return ".".join(key.split(".")[:2])


def _subject(summary: dict[str, Any], flat: Flat) -> str:
    """Data and network, as a run names them, or as its config does."""
    if summary.get("identity") is not None:
        return f"{summary.get('data_name') or summary['task']} / {summary.get('network') or summary['task']}"
    corpus = (
        summary.get("glue_task") or summary.get("corpus") or summary.get("data") or summary["task"]
    )
    return f"{corpus} / {flat.get('model.backbone', summary['task'])}"


def _run(folder: Path, summary: dict[str, Any], flat: Flat) -> Run:
    method, conditions = _parts(summary, flat)
    counts = {key: summary[key] for key in ("coefficients", "replaced", "trainable", "total")}
    score = summary.get("score")
    result = summary["loss"] if score is None else score
    same = [
        tag.removeprefix("val/")
        for tag, value in (summary.get("metrics") or {}).items()
        if value == score
    ]
    tag = "val/loss" if score is None else "val/score"
    rank = "stable_rank/update." if summary.get("updates") else "stable_rank/"
    scalars = curves.read(folder, (tag, rank))
    arguments = {
        key.removeprefix("parameterization."): value
        for key, value in method.items()
        if key.startswith("parameterization.")
    }
    whole = Path(os.path.abspath(folder))
    name = whole.parent.name if whole.name.startswith("version_") else whole.name
    version = "" if whole.name in (name, "version_0") else f"-{whole.name}"
    return Run(
        path=_shown(folder),
        name=printable(name + version),
        subject=_subject(summary, flat),
        conditions=conditions,
        method=method | counts,
        parameterization=summary["parameterization"],
        arguments=arguments,
        optimizer=str(method["optimizer"]),
        counts=counts,
        lr=float(summary["lr"]),
        seed=summary["seed"],
        value=float(result) if math.isfinite(result) else None,
        higher=score is not None,
        metrics=["loss"]
        if score is None
        else [*[name for name in same if name != "score"], "score"],
        steps=summary["steps"],
        epoch=_epoch(summary, flat),
        summary=summary,
        curve=scalars.get(tag, []),
        ranks=[
            (step, mean) for step, mean in curves.mean_over_layers(scalars, rank) if mean > 0
        ],  # dW starts at 0
    )


def _epoch(summary: dict[str, Any], flat: Flat) -> int | None:
    """Steps of a pass over the training data: examples, or ids in windows that do not overlap."""
    if summary.get("identity") is not None:
        epoch: int | None = summary.get("epoch_steps")
        return epoch
    examples, batch = summary.get("examples") or {}, flat.get("facts.global_batch")
    ids = next(
        (value for key, value in summary.items() if key.startswith("train_") and is_count(value)),
        None,
    )
    block = summary.get("block_size")
    if batch is None:
        return None
    if "train" in examples:
        return math.ceil(examples["train"] / batch)
    return (
        max(1, ids // (batch * block))
        if ids is not None and block is not None and is_size(block)
        else None
    )
