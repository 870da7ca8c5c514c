"""AdaLoRA as peft has it: dW = s P diag(l) Q with s = lora_alpha / init_r, of what is left of P."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import AdaLoRA
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import (
    Parts,
    Written,
    all_are,
    matrix,
    nothing_unsupported,
    read_layers,
    tensors_of,
)
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = True, "lora_only"
unsupported = nothing_unsupported

SMALL = 1e-5
"""What peft adds to the rank by which it divides."""
NAMES = ("lora_A", "lora_B", "lora_E")


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read Q, P and l of each layer that has a rank left; s goes into l."""
    return read_layers(where, config, tensors, "|".join(NAMES), "lora_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped | None:
    if not all(parts[name].numel() for name in NAMES):
        return None
    found = {name: matrix(parts, name) for name in NAMES}
    alpha, rank = settings.config.get("lora_alpha", 8), settings.whole("init_r", 12)
    # 0 or less is the initial rank.
    zero = type(alpha) in (int, float) and alpha <= 0
    scale = (rank if zero else settings.number("lora_alpha", 8)) / (rank + SMALL)
    found["lora_E"] = found["lora_E"] * scale
    r, n = found["lora_A"].shape
    return Mapped(functools.partial(AdaLoRA, rank=r), found, (len(found["lora_B"]), n))


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are AdaLoRA."""
    return all_are(layers, AdaLoRA)


def is_pruned(layer: ZooLayer) -> bool:
    """Return whether nothing is left of a layer, which is then no layer of the adapter."""
    p = layer.parameterization
    return isinstance(p, AdaLoRA) and not p.directions().any()


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config, and P, l and Q of the directions that are left; a scale goes into l."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    ranks = {name: int(p.directions().sum()) for name, p in ps.items()}
    rank = max(ranks.values())

    def parts(layer: ZooLayer) -> Parts:
        p: Any = layer.parameterization
        some = p.directions()
        return {
            "lora_A": p.lora_A[some],
            "lora_B": p.lora_B[:, some],
            "lora_E": p.lora_E[some] * (layer.scale * (rank + SMALL) / rank),
        }

    left = {f"{name}.lora_E": [True] * r + [False] * (rank - r) for name, r in ranks.items()}
    config = {
        "peft_type": "ADALORA",
        "init_r": rank,
        "target_r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "total_step": 1,
        "rank_pattern": left if len({*ranks.values()}) > 1 else None,
    }
    return config, tensors_of(layers, parts)
