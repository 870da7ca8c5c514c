"""Fits in this process, and what is read of the runs that they leave."""

from pathlib import Path
from typing import Any

import torch
from conftest import configs

from zoo.__main__ import main


def fit(*words: str, config: str = "dct_half.yaml") -> Path:
    """Run a fit in the current folder; returns its run's folder."""
    before = set(Path("runs").glob("*/version_*"))
    assert main(["fit", *configs(config), *words]) == 0
    (folder,) = set(Path("runs").glob("*/version_*")) - before
    return folder


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def same(a: Any, b: Any) -> bool:
    """Whether plain data with tensors in it is equal to the bit."""
    if isinstance(a, dict):
        return (
            isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
