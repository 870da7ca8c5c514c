"""MiSS as peft has it: shards of r inputs share D, (r, m), or (r, q) with `init_weights: mini`."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import MiSS
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import Parts, Written, alike, all_are, matrix, read_layers, tensors_of
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = False, "MiSS_only"


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read: the kind that turns W0's blocks."""
    bat = config.get("init_weights") == "bat"
    return "init_weights 'bat', which turns blocks of the backbone's weights" if bat else None


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read D of each layer; no file says how many inputs it has."""
    return read_layers(where, config, tensors, "miss_block", "miss_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    block = matrix(parts, "miss_block")
    rank, rows = block.shape
    mini = rows if settings.config.get("init_weights") == "mini" else None
    return Mapped(functools.partial(MiSS, rank=rank, mini_r=mini), {"miss_block": block})


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are MiSS of one rank and one `mini_r`, which divides their outputs."""
    ps: list[Any] = [layer.parameterization for layer in layers.values()]
    return (
        all_are(layers, MiSS)
        and alike(layers, "rank", "mini_r")
        and all(p.mini_r is None or p.out_features % p.mini_r == 0 for p in ps)
    )


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and D; a layer's scale goes into it."""
    p: Any = next(iter(layers.values())).parameterization
    config = {
        "peft_type": "MISS",
        "r": p.rank,
        "mini_r": p.mini_r or 1,
        "init_weights": "mini" if p.mini_r else True,
        "miss_dropout": 0.0,
    }

    def parts(layer: ZooLayer) -> Parts:
        return {"miss_block": layer.scale * layer.parameterization.get_parameter("miss_block")}

    return config, tensors_of(layers, parts)
