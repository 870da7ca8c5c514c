"""LoRA as peft has it: dW = s B A with s = lora_alpha / r, or lora_alpha / sqrt(r)."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import LoRA, OfBase
from zoo.runs.peft.adapter import CONFIG, PREFIX, Factors, Update, apart_from_bases, by_layer

CHANGING = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings with which an update is no longer s B A."""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Starts of the factors that leave the backbone's weights as they are; MiCA's trains A alone."""
REPEATS = re.compile(r"\)[*+?{]|[*+}][*+{]|\\\d")
"""What lets whoever wrote a pattern choose how long a search for it takes: groups that repeat, and
references."""


# ---- Reading -------------------------------------------------------------------------------------


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read."""
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        return f"init_lora_weights {start!r}, which changes the backbone"
    return next((key for key in CHANGING if config.get(key)), None)


def read(
    where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Update], dict[str, Tensor], dict[str, Tensor]]:
    """Read factors by layer, what else was trained, and base weights that are saved beside them.

    Raises:
        UserError: for what is no LoRA of linear layers, or damaged.
    """
    layers, others = by_layer(tensors, r"(.+)\.lora_([AB])\.weight")
    for name in others:
        if ".lora_" in name or name.startswith("lora_"):
            raise UserError(
                f"{where} has {name}, and only LoRA of linear layers can be read: merge it with "
                "peft instead"
            )
    updates: dict[str, Update] = {}
    for layer, parts in layers.items():
        a, b = matrices(where, layer, parts)
        if len(a) != b.shape[1]:
            raise no_matrices(where, layer)
        updates[layer] = Factors(a, b, _scale(config, layer, len(a)))
    return updates, *apart_from_bases(others)


def matrices(where: str, layer: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return A and B of a layer, float32; their ranks may differ.

    Raises:
        UserError: if one is missing, no matrix or empty.
    """
    a, b = parts.get("A"), parts.get("B")
    if a is None or b is None or not a.ndim == b.ndim == 2 or not b.numel():
        raise no_matrices(where, layer)
    return a.float(), b.float()


def no_matrices(where: str, layer: str) -> UserError:
    """Return the error of a layer whose factors are damaged."""
    return UserError(f"{where}: {layer} has no matrices (r, in) and (out, r): use another one")


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """Return lora_alpha / r, or lora_alpha / sqrt(r); patterns match the end of a layer's name."""
    alpha = config.get("lora_alpha", 8)
    try:
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            quantifiers = len(re.findall(r"[*+{]", pattern))
            if len(pattern) > 200 or REPEATS.search(pattern) or quantifiers > 4:
                raise ValueError(pattern)
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = value
                break
        if not math.isfinite(alpha) or alpha == 0:
            raise ValueError(alpha)
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (re.error, AttributeError, TypeError, ValueError):
        raise UserError(
            f"{CONFIG}: lora_alpha or alpha_pattern is damaged: use another adapter"
        ) from None


# ---- Writing -------------------------------------------------------------------------------------


def write(
    layers: dict[str, ZooLinear], rank: int | None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, float]]:
    """Return the config, A and B of each layer, exact or truncated, and errors (`lora_factors`)."""
    tensors, errors, ranks, alphas = {}, {}, {}, {}
    for name, layer in layers.items():
        factors, errors[name] = lora_factors(layer, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.B
        ranks[name] = len(factors.A)
        alphas[name] = number(factors.scale * len(factors.A))
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {
            _alone(name, layers): value for name, value in ranks.items() if value != r
        },
        "alpha_pattern": {
            _alone(name, layers): value for name, value in alphas.items() if value != alpha
        },
    }
    return config, tensors, errors


def _alone(name: str, names: Mapping[str, object]) -> str:
    """Return a pattern that no other of these layers matches."""
    # peft takes a key for a pattern of the end of a name.
    matched = [other for other in names if re.match(rf"(.*\.)?({name})$", other)]
    return name if len(matched) == 1 else f"^{re.escape(name)}"


def own_factors(layer: ZooLinear) -> Factors | None:
    """Return the factors of a layer's update as they are, if it has any.

    LoRA has them, and some maps of W0; those of PiSSA have twice its rank, as peft's conversion of
    PiSSA to LoRA makes them.
    """
    p = layer.parameterization
    if isinstance(p, LoRA):
        return Factors(p.lora_A, p.lora_B, layer.scale)
    if isinstance(p, OfBase) and layer.base is not None:
        found = p.factors(layer.base)
        return None if found is None else Factors(found[1], found[0], layer.scale)
    return None


@torch.no_grad()
def lora_factors(layer: ZooLinear, rank: int | None = None) -> tuple[Factors, float]:
    """Return the update of a layer as factors, and |dW - s B A|_F / |dW|_F.

    Its own (`own_factors`) if their rank is at most `rank`, else the truncated singular value
    decomposition (Eckart-Young), of rank 8 by default.
    """
    own = own_factors(layer)
    if own is not None and (rank is None or len(own.A) <= rank):
        return own, 0.0
    u, s, vh = torch.linalg.svd(layer.update().float(), full_matrices=False)
    r = min(rank or 8, len(s))
    root = s[:r].sqrt()
    error = (s[r:].norm() / s.norm()).item() if s.any() else 0.0
    return Factors(root[:, None] * vh[:r], u[:, :r] * root, 1.0), error


def number(value: float) -> float:
    """Return a whole number as an integer: peft's own files have integers there."""
    return round(value) if value == round(value) else value
