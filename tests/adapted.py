"""Tiny adapted classifiers with an update that is not zero, and runs of them."""

from pathlib import Path
from typing import Any

import torch
from networks import disturb

from tasks import GlueClassifier
from zoo.runs import checkpoints
from zoo.training.module import ZooModule

QUERY = "bert.encoder.layer.1.attention.self.query"


def run(model: ZooModule, folder: Path) -> str:
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoints.snapshot(model), folder / "checkpoints" / "last.ckpt")
    return str(folder)


def classifier(backbone: Path, factory: Any, **settings: Any) -> GlueClassifier:
    model = GlueClassifier(str(backbone), "rte", parameterization=factory, **settings).eval()
    disturb(model)
    return model
