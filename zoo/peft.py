"""Adapters in the format of Hugging Face's peft, which itself is not needed: LoRA and RandLoRA written, LoRA read.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. LoRA is dW = s B A with s = lora_alpha / r (or
lora_alpha / sqrt(r)). RandLoRA has one pair of bases for all layers, from which each takes its corner, and N = ceil(d /
r) bases; peft pairs row k of the n-th scaled A not with column k of B_n, but with column k N + n of all of B.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.bases import uniform_matrix
from zoo.convert import is_conv1d, merge, zoo_layers
from zoo.errors import UserError
from zoo.files import read_json
from zoo.linear import ZooLinear
from zoo.parameterizations import LoRA, RandLoRA
from zoo.tensors import read_tensors, write_tensors

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
HEADS = ("classifier", "score")
"""Modules whose names end so are always stored whole for a sequence classifier, whatever the config says."""
CHANGING = (
    "use_dora", "lora_bias", "layer_replication", "target_parameters", "trainable_token_indices", "use_qalora",
    "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config",
)
"""Settings with which an update is no longer s B A."""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Starts of the factors that leave the weights of the backbone as they are."""


REPEATS = re.compile(r"\)[*+?{]|[*+}][*+{]|\\\d")
"""What makes a search for a pattern take as long as whoever wrote it likes: groups that repeat, and references."""


class Factors(NamedTuple):
    """dW = scale B A, with A (r, in_features) and B (out_features, r)."""

    A: Tensor
    B: Tensor
    scale: float


@dataclass(frozen=True)
class LoRAAdapter:
    """A LoRA adapter as read from a folder.

    Args:
        config: its adapter_config.json.
        factors: by the layer's name in the backbone.
        saved: parameters that were trained as they are, such as those of the head, by name.
    """

    config: dict[str, Any]
    factors: dict[str, Factors]
    saved: dict[str, Tensor]


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_lora(folder: Path) -> LoRAAdapter:
    """A LoRA adapter that peft wrote, or `write`.

    Raises:
        UserError: if the folder holds no adapter, a damaged one, or one whose update is not s B A.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise UserError(f"'{folder}' is no peft adapter: it has no {name}; give a folder that has one")
    config = read_json(folder / CONFIG)
    if reason := _unsupported(config):
        raise UserError(f"adapter '{folder}' has {reason}, and only plain LoRA can be read: merge it with peft instead")
    found: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for key, tensor in read_tensors(folder / TENSORS)[0].items():
        name = key.removeprefix(PREFIX)
        if match := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            found.setdefault(match[1], {})[match[2]] = tensor
        elif ".lora_" in name or ".base_layer." in name:
            raise UserError(f"adapter '{folder}' has {name}, and only LoRA of linear layers can be read")
        else:
            saved[name] = tensor
    factors = {}
    for layer, pair in found.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not b.numel():
            raise UserError(f"adapter '{folder}': {layer} has no matrices (r, in) and (out, r): use another one")
        factors[layer] = Factors(a.float(), b.float(), _scale(config, layer, a.shape[0]))
    if not factors:
        raise UserError(f"adapter '{folder}' has no layers: use another one")
    return LoRAAdapter(config, factors, saved)


def _unsupported(config: dict[str, Any]) -> str | None:
    """What of a config cannot be read."""
    if config.get("peft_type") != "LORA":
        return f"peft_type {config.get('peft_type')}"
    if config.get("bias", "none") != "none":
        return f"bias {config['bias']!r}"
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        return f"init_lora_weights {config['init_lora_weights']!r}, which changes the backbone"
    return next((key for key in CHANGING if config.get(key)), None)


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """lora_alpha / r, or lora_alpha / sqrt(r); patterns match the end of a layer's name."""
    alpha = config.get("lora_alpha", 8)
    try:
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if len(pattern) > 200 or REPEATS.search(pattern) or len(re.findall(r"[*+{]", pattern)) > 4:
                raise ValueError(pattern)
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = value
                break
        if not math.isfinite(alpha) or alpha == 0:
            raise ValueError(alpha)
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (re.error, AttributeError, TypeError, ValueError):
        raise UserError(f"{CONFIG}: lora_alpha or alpha_pattern is damaged: use another adapter") from None


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write(folder: Path, net: nn.Module, fields: dict[str, str], rank: int | None = None) -> dict[str, float]:
    """Write the updates of a network's layers, and what else of it is trained, as a peft adapter.

    LoRA and RandLoRA become themselves; anything else, layers of RandLoRA that share no bases, and with `rank` any
    update of a higher rank becomes LoRA by truncated singular value decomposition.

    Args:
        folder: an empty one.
        net: a converted network.
        fields: `task_type` and `base_model_name_or_path` of the config.
        rank: of the truncation; 8 by default.

    Returns:
        By layer, |dW - s B A|_F / |dW|_F.

    Raises:
        UserError: if a layer has no frozen weight that its W is an update of, or all are trained otherwise as well.
    """
    for name, layer in zoo_layers(net).items():
        if layer.weight is None:
            raise UserError(f"{name} has no frozen weight that a peft adapter could be added to: export --to dense")
    saved = list(_saved(net, HEADS if fields.get("task_type") == "SEQ_CLS" else ()))
    inside = tuple(f"{name}." for name in saved)
    layers = {name: layer for name, layer in zoo_layers(net).items() if not f"{name}.".startswith(inside)}
    if not layers:
        raise UserError("no layer has an update alone: what is trained besides leaves no adapter; export --to dense")
    if rank is None and _shares_bases(layers):
        config, tensors = _randlora(layers)
        errors = dict.fromkeys(layers, 0.0)
    else:
        config, tensors, errors = _lora(layers, rank)
    merged = merge(net).state_dict()
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in merged.items() if name.startswith(inside)}
    config |= {
        **fields, "inference_mode": True, "bias": "none", "target_modules": list(layers),
        "modules_to_save": saved or None,
        "fan_in_fan_out": any(is_conv1d(layer.replaced) for layer in layers.values()),
    }
    write_tensors(folder / TENSORS, tensors)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return errors


def _saved(module: nn.Module, always: tuple[str, ...], prefix: str = "") -> Iterator[str]:
    """The outermost modules with parameters of their own that are trained, but for coefficients; and those `always`."""
    for name, child in module.named_children():
        own = [p.requires_grad for p in child.parameters(recurse=False)]
        inner = [p.requires_grad for p in child.parameters()]
        whole = all(inner) and not zoo_layers(child) if inner else False
        if (always and name.endswith(always)) or any(own) or whole:
            yield prefix + name
        elif not isinstance(child, ZooLinear):
            yield from _saved(child, always, f"{prefix}{name}.")


def _shares_bases(layers: dict[str, ZooLinear]) -> bool:
    """Whether all layers are RandLoRA on corners of the same bases, with no more of them than peft has.

    The number that peft has must be one: it decides which column of B belongs to which base.
    """
    ps: list[Any] = [layer.parameterization for layer in layers.values()]
    if not all(isinstance(p, RandLoRA) for p in ps):
        return False
    same = len({(p.seed, p.rank, _peft_bases(p)) for p in ps}) == 1
    return same and all(p.num_bases <= _peft_bases(p) for p in ps)


def _peft_bases(p: RandLoRA) -> int:
    """The fewest that reach full rank."""
    return math.ceil(min(p.shape) / p.rank)


def _randlora(layers: dict[str, ZooLinear]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Lambda (r, N) and gamma (N, d) of each layer, N = ceil(d / r) filled up with zeros, and the bases once."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    scales = {name: layer.scale * ps[name].scale for name, layer in layers.items()}
    scale = Counter(scales.values()).most_common(1)[0][0]
    tensors = {}
    for name, p in ps.items():
        missing = _peft_bases(p) - p.num_bases
        lam = nn.functional.pad(p.randlora_lambda * (scales[name] / scale), (0, 0, 0, missing)).mT
        tensors[f"{PREFIX}{name}.randlora_lambda"] = lam
        tensors[f"{PREFIX}{name}.randlora_gamma"] = nn.functional.pad(p.randlora_gamma, (0, 0, 0, missing))
    rank, seed, bases = p.rank, p.seed, _peft_bases(p)
    sides = [max(p.shape[i] for p in ps.values()) for i in (0, 1)]
    unused = math.ceil(min(sides) / rank) - bases  # peft makes as many as the largest of both sides would need
    a = uniform_matrix(rank, min(sides), seed, "A")
    b = uniform_matrix(max(sides), bases * rank, seed, "B").unflatten(1, (bases, rank)).mT.reshape(-1, bases, rank)
    tensors["base_model.randlora_A"] = a[:, None, :].float()  # (r, 1, d)
    tensors["base_model.randlora_B"] = nn.functional.pad(b, (0, 0, 0, unused)).float()  # (M, N, r)
    config = {
        "peft_type": "RANDLORA", "r": rank, "randlora_alpha": _number(scale * rank), "randlora_dropout": 0.0,
        "save_projection": True, "projection_prng_key": 0, "sparse": False, "very_sparse": False,
    }
    return config, tensors


def _lora(
    layers: dict[str, ZooLinear], rank: int | None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, float]]:
    """A and B of each layer, exact or truncated, and the errors."""
    tensors, errors, ranks, alphas = {}, {}, {}, {}
    for name, layer in layers.items():
        factors, errors[name] = lora_factors(layer, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.A, factors.B
        ranks[name] = len(factors.A)
        alphas[name] = _number(factors.scale * len(factors.A))
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": alpha, "lora_dropout": 0.0,
        "rank_pattern": {name: value for name, value in ranks.items() if value != r},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }
    return config, tensors, errors


@torch.no_grad()
def lora_factors(layer: ZooLinear, rank: int | None = None) -> tuple[Factors, float]:
    """The update of a layer as factors, and |dW - s B A|_F / |dW|_F.

    LoRA's own if its rank is at most `rank`, else the truncated singular value decomposition (Eckart-Young), of rank 8
    by default.
    """
    p = layer.parameterization
    if isinstance(p, LoRA) and (rank is None or p.rank <= rank):
        return Factors(p.lora_A, p.lora_B, layer.scale), 0.0
    u, s, vh = torch.linalg.svd(layer.update().float(), full_matrices=False)
    r = min(rank or 8, len(s))
    root = s[:r].sqrt()
    error = (s[r:].norm() / s.norm()).item() if s.any() else 0.0
    return Factors(root[:, None] * vh[:r], u[:, :r] * root, 1.0), error


def _number(value: float) -> float:
    """A whole number as one: peft's own files have integers there."""
    return round(value) if value == round(value) else value
