"""Folders of runs as `zoo fit` leaves them, without the fits."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

REPLACED = 10_000


def write_run(
    folder: Path,
    loss: float | None = 1.5,
    seed: int = 0,
    lr: float = 0.01,
    name: str = "DCT",
    ratio: float = 0.5,
    arguments: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    steps: int = 400,
    coefficients: int | None = None,
    config: dict[str, Any] | None = None,
    events: dict[str, Sequence[Any]] | None = None,
    **summary: Any,
) -> Path:
    """One run; `config` has settings by dotted name, `events` curves by tag, anything else goes
    into the summary.
    """
    given = ({} if name == "Dense" else {"ratio": ratio}) | (arguments or {})
    settings = {"name": "adamw", "lr": lr, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99} | (
        optimizer or {}
    )
    count = coefficients or (REPLACED if name == "Dense" else round(REPLACED * ratio))
    written = {
        "task": "CharLM",
        "corpus": "tiny",
        "corpus_sha256": "a" * 64,
        "train_characters": 40_960,
        "batch_size": 32,
        "validation_characters": 4_096,
        "block_size": 128,
        "parameterization": name,
        "trainable": count + 100,
        "coefficients": count,
        "replaced": REPLACED,
        "total": count + 100,
        "arguments": given,
        "targets": ["blocks.*"],
        "loss": loss,
        "score": None,
        "metrics": {"val/loss": loss},
        "stable_rank": 10.0,
        "updates": False,
        "seed": seed,
        "steps": steps,
        "lr": lr,
        "precision": "32-true",
        "optimizer": settings,
        "seconds": 3.0,
        "device": "CPU",
        "command": "zoo fit",
        "date": "2026-11-22T05:54:02+00:00",
    }
    resolved: dict[str, Any] = {
        "seed_everything": seed,
        "name": None,
        "model": {
            "class_path": "tasks.CharLM",
            "init_args": {
                "parameterization": {
                    "class_path": f"zoo.parameterizations.{name}",
                    "init_args": given,
                },
                "targets": None,
                "overrides": None,
                "width": 128,
                "optimizer": settings,
            },
        },
        "data": {
            "class_path": "tasks.CharData",
            "init_args": {
                "corpus": "tiny",
                "data_dir": str(folder),
                "batch_size": 32,
                "block_size": 128,
            },
        },
        "trainer": {
            "max_steps": steps,
            "default_root_dir": str(folder),
            "accumulate_grad_batches": 1,
        },
    }
    for key, value in (config or {}).items():
        *path, last = key.split(".")
        node = resolved
        for part in path:
            node = node[part]
        node[last] = value
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(written | summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved))
    if events:
        write_events(folder, events)
    return folder


def write_events(folder: Path, events: dict[str, Sequence[Any]], suffix: str = "") -> None:
    """Curves of (step, value) by tag, in an event file."""
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    for tag, curve in events.items():
        for step, value in curve:
            scalar = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=step, wall_time=0, summary=scalar))
    writer.close()


def write_sweep(top: Path, losses: dict[str, list[float]], **settings: Any) -> Path:
    """Runs of several parameterizations at one rate: their losses on seeds 1, 2, ..."""
    for name, values in losses.items():
        for seed, loss in enumerate(values, 1):
            write_run(top / f"{name}-{seed}" / "version_0", loss, seed, name=name, **settings)
    return top
