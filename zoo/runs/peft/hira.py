"""HiRA as peft has it: dW = W0 * (B A), entry by entry."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import HiRA
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import (
    Parts,
    Written,
    all_are,
    matrix,
    nothing_unsupported,
    read_layers,
    setting,
    tensors_of,
)
from zoo.runs.peft.settings import Settings, usual

CONV1D, BIAS = True, None
unsupported = nothing_unsupported


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read A and B of each layer."""
    return read_layers(where, config, tensors, "hira_[AB]", "hira_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    a, b = matrix(parts, "hira_A"), matrix(parts, "hira_B")
    made_by = functools.partial(HiRA, rank=len(a))
    return Mapped(made_by, {"lora_A": a, "lora_B": b}, (len(b), a.shape[1]))


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are HiRA."""
    return all_are(layers, HiRA)


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and factors; a layer's scale goes into B."""

    def parts(layer: ZooLayer) -> Parts:
        p: Any = layer.parameterization
        return {"hira_A": p.lora_A, "hira_B": layer.scale * p.lora_B}

    rank, others = usual(setting(layers, "rank"))
    config = {"peft_type": "HIRA", "r": rank, "rank_pattern": others, "hira_dropout": 0.0}
    return config, tensors_of(layers, parts)
