"""LoRA as peft has it: dW = s B A with s = lora_alpha / r, or lora_alpha / sqrt(r)."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import AdaLoRA, LoRA, OfBase
from zoo.runs.peft import dora
from zoo.runs.peft.adapter import PREFIX, Change, Factors, Found, OfStack, Update
from zoo.runs.peft.formats import Parts, matrix, read_layers
from zoo.runs.peft.settings import Settings, usual, whole_if_it_is

BIAS = "lora_only"

CHANGING = (
    "layer_replication",
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
PARTS = r"lora_[AB]\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?"


# ---- Reading -------------------------------------------------------------------------------------


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read."""
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        return f"init_lora_weights {start!r}, which changes the backbone"
    return next((key for key in CHANGING if config.get(key)), None)


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the factors of each layer, with the lengths of DoRA's rows, and what else was trained.

    A trained bias of B is added to the layer's. Of `target_parameters` a matrix is a layer as any
    other; of a stack of matrices, as fused experts have it, each is an update of its own, which no
    linear layer has.

    Raises:
        UserError: for what is no LoRA of linear layers, or damaged.
    """
    added: dict[str, Change] = {}
    stacks: dict[str, Update] = {}

    def update(settings: Settings, parts: Parts) -> Update | None:
        a, b = matrix(parts, "lora_A.weight"), matrix(parts, "lora_B.weight")
        if len(a) != b.shape[1]:
            raise ValueError(settings.layer)
        if stack := _stack(settings, a, b):
            stacks.update(stack)
            return None
        if settings.flag("lora_bias") or "lora_B.bias" in parts:
            bias = parts["lora_B.bias"]
            added[f"{settings.layer}.bias"] = _adds(bias * settings.scale(len(a)), len(b))
        if settings.flag("use_dora") or any(name in parts for name in dora.MAGNITUDES):
            return dora.update(settings, parts)
        return Factors(a, b, settings.scale(len(a)))

    found = read_layers(where, config, tensors, PARTS, "lora_", update)
    return Found({**found.updates, **stacks}, found.others, added)


def _adds(values: Tensor, size: int) -> Change:
    if values.shape != (size,):
        raise ValueError("lora_B.bias")
    return lambda bias: bias + values.to(bias)


def _stack(settings: Settings, a: Tensor, b: Tensor) -> dict[str, Update]:
    """Return the updates of a stack's matrices by their names, if a layer's name is that of one.

    Of A (e r, in) matrix e has rows e r to e r + r, of B (out, r e) every e-th column. Whether W
    is (out, in) or its transpose says no file. peft nests the wrappers of several parameters in
    the order in which the module has them: `parameter0` is the first.

    Raises:
        UserError: if parameters of one module have different ranks: no file says which is which.
    """
    targets = settings.config.get("target_parameters")
    module = re.sub(r"(\.base_layer)+$", "", settings.layer)
    named = [str(each).rpartition(".") for each in targets] if isinstance(targets, list) else []
    ours = [f"{module}.{key}" for owner, dot, key in named if dot and _ends(module, owner)]
    ranks = {Settings(settings.config, name).whole("r", 8, "rank_pattern") for name in ours}
    if not ours or ranks == {len(a)}:
        return {}
    if len(ranks) > 1 or len(a) % min(ranks):
        raise UserError(
            f"{module} has parameters of different ranks, and no file says which is which: merge "
            "it with peft instead"
        )
    rank = ranks.pop()
    count, depth = len(a) // rank, settings.layer.removeprefix(module).count(".base_layer")
    name, scale = f"{module}.parameter{len(ours) - 1 - depth}", settings.scale(rank)
    rows, columns = a.unflatten(0, (count, rank)), b.unflatten(1, (rank, count))
    return {f"{name}.{i}": OfStack(rows[i], columns[:, :, i], scale) for i in range(count)}


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


# ---- Writing -------------------------------------------------------------------------------------


def write(
    layers: Mapping[str, ZooLayer], rank: int | None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, float]]:
    """Return the config, A and B of each layer, exact or truncated, and errors (`lora_factors`)."""
    tensors, errors, ranks, alphas = {}, {}, {}, {}
    for name, layer in layers.items():
        factors, errors[name] = lora_factors(layer, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.B
        ranks[name] = len(factors.A)
        alphas[name] = whole_if_it_is(factors.scale * len(factors.A))
    (r, other_ranks), (alpha, other_alphas) = usual(ranks), usual(alphas)
    config = {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": other_ranks,
        "alpha_pattern": other_alphas,
    }
    return config, tensors, errors


def own_factors(layer: ZooLayer) -> Factors | None:
    """Return the factors of a layer's update as they are, if it has any.

    LoRA has them, and some maps of W0; those of PiSSA have twice its rank, as peft's conversion of
    PiSSA to LoRA makes them. Of AdaLoRA they are those of the directions that are left, or one of
    zeros: peft loads no LoRA of rank 0.
    """
    p = layer.parameterization
    if getattr(layer, "padding_idx", None) is not None:  # a row of the embedding is no product
        return None
    if isinstance(p, LoRA):
        return Factors(p.lora_A, p.lora_B, layer.scale)
    if isinstance(p, AdaLoRA):
        left = p.directions()
        left[0] |= not left.any()
        return Factors((p.lora_E * p.lora_A)[left], p.lora_B[:, left], layer.scale)
    if isinstance(p, OfBase) and (base := layer.base) is not None:
        found = p.factors(base)
        return None if found is None else Factors(found[1], found[0], layer.scale)
    return None


@torch.no_grad()
def lora_factors(layer: ZooLayer, rank: int | None = None) -> tuple[Factors, float]:
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
