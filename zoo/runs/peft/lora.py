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
from zoo.parameterizations import LoRA
from zoo.runs.peft.adapter import CONFIG, PREFIX, Factors, Update

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
"""Starts of the factors that leave the weights of the backbone as they are; MiCA's trains A alone."""
REPEATS = re.compile(r"\)[*+?{]|[*+}][*+{]|\\\d")
"""What makes a search for a pattern take as long as whoever wrote it likes: groups that repeat, and references."""


# ---- Reading -------------------------------------------------------------------------------------


def unsupported(config: dict[str, Any]) -> str | None:
    """What of a config cannot be read."""
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        return f"init_lora_weights {start!r}, which changes the backbone"
    return next((key for key in CHANGING if config.get(key)), None)


def read(
    where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Update], dict[str, Tensor], dict[str, Tensor]]:
    """Factors by layer, what else was trained, and base weights that were saved with an update.

    Raises:
        UserError: for what is no LoRA of linear layers, or damaged.
    """
    found: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    bases: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            found.setdefault(match[1], {})[match[2]] = tensor
        elif ".lora_" in name or name.startswith("lora_"):
            raise UserError(
                f"{where} has {name}, and only LoRA of linear layers can be read: merge it with peft "
                "instead"
            )
        elif match := re.fullmatch(r"(.+)\.base_layer\.(weight|bias)", name):
            bases[f"{match[1]}.{match[2]}"] = tensor
        else:
            saved[name] = tensor
    updates: dict[str, Update] = {}
    for layer, pair in found.items():
        a, b = pair.get("A"), pair.get("B")
        if (
            a is None
            or b is None
            or a.ndim != 2
            or b.ndim != 2
            or a.shape[0] != b.shape[1]
            or not b.numel()
        ):
            raise UserError(
                f"{where}: {layer} has no matrices (r, in) and (out, r): use another one"
            )
        updates[layer] = Factors(a.float(), b.float(), _scale(config, layer, a.shape[0]))
    return updates, saved, bases


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """lora_alpha / r, or lora_alpha / sqrt(r); patterns match the end of a layer's name."""
    alpha = config.get("lora_alpha", 8)
    try:
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if (
                len(pattern) > 200
                or REPEATS.search(pattern)
                or len(re.findall(r"[*+{]", pattern)) > 4
            ):
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
    """The config, A and B of each layer, exact or truncated, and the errors (`lora_factors`)."""
    tensors, errors, ranks, alphas = {}, {}, {}, {}
    for name, layer in layers.items():
        factors, errors[name] = lora_factors(layer, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"] = (
            factors.A,
            factors.B,
        )
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
    """A pattern that no other of these layers matches."""
    return (
        name
        if sum(bool(re.match(rf"(.*\.)?({name})$", other)) for other in names) == 1
        else f"^{re.escape(name)}"
    )


@torch.no_grad()
def lora_factors(layer: ZooLinear, rank: int | None = None) -> tuple[Factors, float]:
    """The update of a layer as factors, and |dW - s B A|_F / |dW|_F.

    LoRA's own if its rank is at most `rank`, else the truncated singular value decomposition
    (Eckart-Young), of rank 8 by default.
    """
    p = layer.parameterization
    if isinstance(p, LoRA) and (rank is None or p.rank <= rank):
        return Factors(p.lora_A, p.lora_B, layer.scale), 0.0
    u, s, vh = torch.linalg.svd(layer.update().float(), full_matrices=False)
    r = min(rank or 8, len(s))
    root = s[:r].sqrt()
    error = (s[r:].norm() / s.norm()).item() if s.any() else 0.0
    return Factors(root[:, None] * vh[:r], u[:, :r] * root, 1.0), error


def number(value: float) -> float:
    """A whole number as one: peft's own files have integers there."""
    return round(value) if value == round(value) else value
