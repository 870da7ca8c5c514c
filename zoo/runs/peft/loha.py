"""LoHa as peft has it: dW = alpha / r (A1 B1) * (A2 B2), entry by entry."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import LoHa
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
from zoo.runs.peft.settings import Settings, ranks_without_scale

CONV1D, BIAS = False, None
unsupported = nothing_unsupported

NAMES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read A1, B1, A2 and B2 of each layer; alpha / r goes into A1."""
    return read_layers(where, config, tensors, "|".join(NAMES), "hada_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    found = {name: matrix(parts, name) for name in NAMES}
    m, rank = found["hada_w1_a"].shape
    found["hada_w1_a"] = found["hada_w1_a"] * (settings.number("alpha", 8, "alpha_pattern") / rank)
    made_by = functools.partial(LoHa, rank=rank)
    return Mapped(made_by, found, (m, found["hada_w1_b"].shape[1]))


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are LoHa."""
    return all_are(layers, LoHa)


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and factors; a layer's scale goes into A1, so that alpha is r."""

    def parts(layer: ZooLayer) -> Parts:
        found = {name: layer.parameterization.get_parameter(name) for name in NAMES}
        return {**found, "hada_w1_a": layer.scale * found["hada_w1_a"]}

    config = {
        "peft_type": "LOHA",
        **ranks_without_scale(setting(layers, "rank")),
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "use_effective_conv2d": False,
    }
    return config, tensors_of(layers, parts)
