"""Runs that wrote no identity: what today's zoo would have written of them.

The words of single tasks that the library would otherwise know nothing of (`glue_task`,
`corpus_sha256`, ...) stand here alone: older summaries have nothing else to tell data apart by. A
run of today says it itself (`zoo.training.identity`).
"""

import math
from typing import Any

from zoo.files.flat import Flat
from zoo.files.paths import nickname
from zoo.runs.run import UNTOLD
from zoo.runs.run_files import is_count, is_size
from zoo.training.optimizers import OF_MUON

DATA = (
    "corpus_sha256",
    "glue_task",
    "examples",
    "max_length",
    "block_size",
    "batch_size",
    "vocabulary",
)
"""What of a summary tells data apart, besides the sizes of its splits."""
SILENT = {
    "data": (
        "data_dir",
        "fallback",
        "corpus",
        "task",
        "eval_batch_size",
        "backbone",
        "seed",
        "train_examples",
    ),
    "model": ("vocabulary", "task", "targets", "seed"),
}
"""Settings that change no result, or stand in the summary as what came of them."""
SILENT_TUNING = ("preset", "gradient_checkpointing")
METHOD = ("parameterization", "targets", "overrides", "budget", "tuning", "optimizer")
"""Settings of a model that make a method; the others are conditions."""
CLIPPING = ("gradient_clip_val", "gradient_clip_algorithm")
"""Settings of the trainer that make a method."""
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


def completed(summary: dict[str, Any], settings: Flat) -> dict[str, Any]:
    """Return an older summary with what today's zoo writes: identity, names, steps of an epoch.

    The facts of the data stand among the conditions, in the order in which reports have always
    shown them.

    Args:
        summary: of the run, each value of its kind (`zoo.runs.run_files`); it has `task`,
            `targets` and `steps`.
        settings: of its config.yaml or its checkpoint, by dotted name.
    """
    facts = {
        key: summary[key]
        for key in summary
        if key in DATA or key.startswith(("train_", "validation_")) and is_count(summary[key])
    }
    if not {"corpus_sha256", "glue_task"} & set(facts):
        facts["data"] = summary.get("corpus", summary.get("data"))
    if (whole := _global_batch(summary, settings)) is not None:
        facts["global_batch"] = whole
        facts.pop("batch_size")
        settings = {key: value for key, value in settings.items() if key not in BATCH}
    elif summary.get("devices") not in (None, 1):
        facts["devices"] = summary["devices"]  # each has batches of its own
    method: Flat = {}
    conditions: Flat = {"task": summary["task"]}
    for key, value in settings.items():
        if not _is_silent(key, value, facts):
            name = key.partition(".")[2]
            part = method if name.split(".")[0] in METHOD or name in CLIPPING else conditions
            part[key] = nickname(str(value)) if name == "backbone" else value
    optimizer = _optimizer(summary, settings)
    method |= {
        f"model.optimizer.{key}": value
        for key, value in optimizer.items()
        if key not in ("lr", "name")
    }
    method |= {
        "model.optimizer": optimizer.get("name") or "adamw",
        "model.targets": summary["targets"],
    }
    conditions |= {f"facts.{key}": value for key, value in facts.items()}
    conditions |= {"steps": summary["steps"], "precision": summary.get("precision")}
    planned = settings.get("trainer.max_steps")
    if is_size(planned) and planned != summary["steps"]:
        conditions["planned_steps"] = planned
    return {
        **summary,
        "identity": {
            "data": {},
            "method": method,
            "conditions": {**conditions, UNTOLD: "none"},
        },
        "data_name": summary.get("glue_task")
        or settings.get("model.task")
        or summary.get("corpus")
        or summary.get("data")
        or summary["task"],
        "network": conditions.get("model.backbone", summary["task"]),
        "epoch_steps": _epoch_steps(summary, whole),
    }


def _is_silent(key: str, value: object, facts: Flat) -> bool:
    """Say whether a setting changes no result, or is told elsewhere."""
    part, _, name = key.partition(".")
    if part == "trainer":
        return name not in (*NEUTRAL, *CLIPPING) or any(
            type(value) is type(known) and value == known  # 1 batch is one, and 1.0 all of them
            for known in NEUTRAL.get(name, ())
        )
    return (
        name in (*SILENT.get(part, ()), *facts)
        or key.startswith("model.optimizer")
        or key.startswith("model.tuning.")
        and key.rpartition(".")[2] in SILENT_TUNING
    )


def _optimizer(summary: dict[str, Any], settings: Flat) -> Flat:
    """Return the settings of the optimizer, of which the oldest summaries know the decay alone."""
    found = summary.get("optimizer")
    if not isinstance(found, dict):
        found = {"name": "adamw"} | {
            key.removeprefix("model.optimizer."): value
            for key, value in settings.items()
            if key.startswith("model.optimizer.")
        }
        if "weight_decay" in summary:
            found["weight_decay"] = summary["weight_decay"]
    if found.get("name") == "adamw":
        found = {key: value for key, value in found.items() if key not in OF_MUON}
    return found


def _global_batch(summary: dict[str, Any], settings: Flat) -> int | None:
    """Return what a process had, times processes, times batches of a step, if that is known."""
    factors: list[Any] = [
        summary.get("batch_size"),
        summary.get("devices") or 1,
        settings.get("trainer.accumulate_grad_batches") or 1,
    ]
    return math.prod(factors) if all(map(is_size, factors)) else None


def _epoch_steps(summary: dict[str, Any], batch: int | None) -> int | None:
    """Return the steps of a pass: over examples, or over ids in windows that do not overlap."""
    if batch is None:
        return None
    examples, block = summary.get("examples") or {}, summary.get("block_size", 0)
    if "train" in examples:
        return math.ceil(examples["train"] / batch)
    ids = next(
        (value for key, value in summary.items() if key.startswith("train_") and is_count(value)),
        None,
    )
    return max(1, ids // (batch * block)) if ids is not None and is_size(block) else None
