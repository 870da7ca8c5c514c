"""RandLoRA as peft has it: each layer takes its corner of one pair of bases, and N = ceil(d / r).

peft pairs row k of the n-th scaled A not with column k of B_n, but with column k N + n of all of B.
Which column belongs to which base so depends on N; layers of different smaller sides d share bases
in peft, but not as zoo pairs them.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases.seeds import uniform_matrix
from zoo.errors import UserError
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import RandLoRA
from zoo.runs.peft.adapter import (
    CONFIG,
    PREFIX,
    Diagonals,
    Update,
    apart_from_bases,
    by_layer,
    peft_order,
    same,
)
from zoo.runs.peft.lora import number

SEED = "projection_prng_key"
"""The key of the config that says with which seed zoo has the bases; peft reads them from the file,
with `save_projection`."""


# ---- Reading -------------------------------------------------------------------------------------


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read: all of RandLoRA can."""
    return None


def read(
    where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Update], dict[str, Tensor], dict[str, Tensor]]:
    """Read diagonals by layer with the bases of all, what else was trained, and base weights.

    Raises:
        UserError: if the bases are not in the file, or something is damaged.
    """
    layers, others = by_layer(tensors, r"(.+)\.randlora_(lambda|gamma)")
    shared: dict[str, Tensor] = {}
    for name in list(others):
        if match := re.fullmatch(r"(?:.*\.)?randlora_([AB])(?:\.default)?", name):
            tensor = others.pop(name)  # peft repeats the bases in each layer
            if not same(shared.setdefault(match[1], tensor), tensor):
                raise UserError(
                    f"{where} has other bases in {name} than elsewhere: use another one"
                )
    scale, (a, b) = _scale(config), (shared.get("A"), shared.get("B"))
    if a is None or b is None:
        raise UserError(
            f"{where} has no bases, and peft would draw them anew, not on every machine alike: "
            "save it with save_projection, or merge it with peft instead"
        )
    if a.ndim != 3 or b.ndim != 3 or a.shape[1] != 1 or a.shape[0] != b.shape[2]:
        raise UserError(f"{where} has no bases (r, 1, d) and (M, N, r): use another one")
    updates: dict[str, Update] = {}
    for layer, parts in layers.items():
        lam, gamma = parts.get("lambda"), parts.get("gamma")
        if lam is None or gamma is None or not _fit(lam, gamma, a, b):
            raise UserError(
                f"{where}: {layer} has no diagonals (r, N) and (N, d) of its bases: use another one"
            )
        seed = _seed(config, a, b, len(gamma))
        updates[layer] = Diagonals(lam.float(), gamma.float(), a.float(), b.float(), scale, seed)
    return updates, *apart_from_bases(others)


def _fit(lam: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> bool:
    """Return whether diagonals are (r, N) and (N, d), with no more than the bases have."""
    if not lam.ndim == gamma.ndim == 2 or not gamma.numel():
        return False
    bases, d = gamma.shape
    return lam.shape == (len(a), bases) and bases <= b.shape[1] and d <= a.shape[2]


def _scale(config: dict[str, Any]) -> float:
    try:
        scale = float(config["randlora_alpha"]) / config["r"]
        if not math.isfinite(scale) or scale == 0:
            raise ValueError(scale)
        return scale
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"{CONFIG}: randlora_alpha or r is damaged: use another adapter") from None


def _seed(config: dict[str, Any], a: Tensor, b: Tensor, bases: int) -> int | None:
    """Return the seed with which zoo draws these bases, N = `bases` of them, or None."""
    key = config.get(SEED)
    if type(key) is not int or not -(2**63) <= key < 2**63:
        return None
    mine_a, mine_b = _bases(len(a), a.shape[2], len(b), bases, key)
    ours = torch.allclose(a[:, 0].float(), mine_a)
    return key if ours and torch.allclose(b[:, :bases].float(), mine_b) else None


def _bases(rank: int, smaller: int, larger: int, bases: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return zoo's bases, A (r, d) and B (M, N, r) in peft's order, float32."""
    b = uniform_matrix(larger, bases * rank, seed, "B")
    return uniform_matrix(rank, smaller, seed, "A").float(), peft_order(b, bases, rank).float()


# ---- Writing -------------------------------------------------------------------------------------


def shares_bases(layers: dict[str, ZooLinear]) -> bool:
    """Return whether all layers are RandLoRA on corners of the same bases.

    peft must have as many of them for every layer, for the number decides which column of B belongs
    to which base, and no fewer than a layer has.
    """
    ps: list[Any] = [layer.parameterization for layer in layers.values()]
    if not all(isinstance(p, RandLoRA) for p in ps):
        return False
    alike = len({(p.seed, p.rank, _peft_bases(p)) for p in ps}) == 1
    return alike and all(p.num_bases <= _peft_bases(p) for p in ps)


def _peft_bases(p: RandLoRA) -> int:
    """Return the fewest bases that reach full rank."""
    return math.ceil(min(p.shape) / p.rank)


def write(layers: dict[str, ZooLinear]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config, lambda (r, N) and gamma (N, d) of each layer, and the bases once.

    Lambda and gamma are filled up with zeros.
    """
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    scales = {name: layer.scale * ps[name].scale for name, layer in layers.items()}
    scale = Counter(scales.values()).most_common(1)[0][0]
    tensors = {}
    for name, p in ps.items():
        missing = _peft_bases(p) - p.num_bases
        lam = nn.functional.pad(p.randlora_lambda * (scales[name] / scale), (0, 0, 0, missing)).mT
        gamma = nn.functional.pad(p.randlora_gamma, (0, 0, 0, missing))
        tensors[f"{PREFIX}{name}.randlora_lambda"] = lam
        tensors[f"{PREFIX}{name}.randlora_gamma"] = gamma
    rank, seed, bases = p.rank, p.seed, _peft_bases(p)
    sides = [max(p.shape[i] for p in ps.values()) for i in (0, 1)]
    # peft makes as many bases as the largest of both sides would need.
    unused = math.ceil(min(sides) / rank) - bases
    a, b = _bases(rank, min(sides), max(sides), bases, seed)
    tensors["base_model.randlora_A"] = a[:, None, :]  # (r, 1, d)
    tensors["base_model.randlora_B"] = nn.functional.pad(b, (0, 0, 0, unused))  # (M, N, r)
    config = {
        "peft_type": "RANDLORA",
        "r": rank,
        "randlora_alpha": number(scale * rank),
        "randlora_dropout": 0.0,
        "save_projection": True,
        SEED: seed,
        "sparse": False,
        "very_sparse": False,
    }
    return config, tensors
