"""RandLoRA as peft has it: one pair of bases for all layers, from which each takes its corner, and N = ceil(d / r).

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
from zoo.runs.peft.adapter import CONFIG, PREFIX, Diagonals, Update, peft_order, same
from zoo.runs.peft.lora import number

SEED = "projection_prng_key"
"""Of the config: with `save_projection` peft reads the bases from the file; this says with which seed zoo has them."""


# ---- Reading -------------------------------------------------------------------------------------


def unsupported(config: dict[str, Any]) -> str | None:
    """What of a config cannot be read: all of RandLoRA can."""
    return None


def read(
    where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Update], dict[str, Tensor], dict[str, Tensor]]:
    """Diagonals by layer with the bases of all, what else was trained, and base weights that were saved with an update.

    Raises:
        UserError: if the bases are not in the file, or something is damaged.
    """
    found: dict[str, dict[str, Tensor]] = {}
    shared: dict[str, Tensor] = {}
    saved: dict[str, Tensor] = {}
    below: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)\.randlora_(lambda|gamma)", name):
            found.setdefault(match[1], {})[match[2]] = tensor
        elif match := re.fullmatch(
            r"(?:.*\.)?randlora_([AB])(?:\.default)?", name
        ):  # peft repeats them in each layer
            if not same(shared.setdefault(match[1], tensor), tensor):
                raise UserError(
                    f"{where} has other bases in {name} than elsewhere: use another one"
                )
        elif match := re.fullmatch(r"(.+)\.base_layer\.(weight|bias)", name):
            below[f"{match[1]}.{match[2]}"] = tensor
        else:
            saved[name] = tensor
    scale, (a, b) = _scale(config), (shared.get("A"), shared.get("B"))
    if a is None or b is None:
        raise UserError(
            f"{where} has no bases, and peft would draw them anew, not on every machine alike: save it "
            "with save_projection, or merge it with peft instead"
        )
    if a.ndim != 3 or b.ndim != 3 or a.shape[1] != 1 or a.shape[0] != b.shape[2]:
        raise UserError(f"{where} has no bases (r, 1, d) and (M, N, r): use another one")
    updates: dict[str, Update] = {}
    for layer, pair in found.items():
        lam, gamma = pair.get("lambda"), pair.get("gamma")
        if (
            lam is None
            or gamma is None
            or lam.ndim != 2
            or gamma.ndim != 2
            or not gamma.numel()
            or lam.shape != (len(a), len(gamma))
            or len(gamma) > b.shape[1]
            or gamma.shape[1] > a.shape[2]
        ):
            raise UserError(
                f"{where}: {layer} has no diagonals (r, N) and (N, d) of its bases: use another one"
            )
        seed = _seed(config, a, b, len(gamma))
        updates[layer] = Diagonals(lam.float(), gamma.float(), a.float(), b.float(), scale, seed)
    return updates, saved, below


def _scale(config: dict[str, Any]) -> float:
    try:
        scale = float(config["randlora_alpha"]) / config["r"]
        if not math.isfinite(scale) or scale == 0:
            raise ValueError(scale)
        return scale
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"{CONFIG}: randlora_alpha or r is damaged: use another adapter") from None


def _seed(config: dict[str, Any], a: Tensor, b: Tensor, bases: int) -> int | None:
    """With which zoo has these bases, for layers of N = `bases`; None if with none."""
    key = config.get(SEED)
    if type(key) is not int or not -(2**63) <= key < 2**63:
        return None
    mine_a, mine_b = _bases(len(a), a.shape[2], len(b), bases, key)
    return (
        key
        if torch.allclose(a[:, 0].float(), mine_a) and torch.allclose(b[:, :bases].float(), mine_b)
        else None
    )


def _bases(rank: int, smaller: int, larger: int, bases: int, seed: int) -> tuple[Tensor, Tensor]:
    """zoo's, A (r, d) and B (M, N, r) in peft's order, float32."""
    b = uniform_matrix(larger, bases * rank, seed, "B")
    return uniform_matrix(rank, smaller, seed, "A").float(), peft_order(b, bases, rank).float()


# ---- Writing -------------------------------------------------------------------------------------


def shares_bases(layers: dict[str, ZooLinear]) -> bool:
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


def write(layers: dict[str, ZooLinear]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, and lambda (r, N) and gamma (N, d) of each layer, filled up with zeros, and the bases once."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    scales = {name: layer.scale * ps[name].scale for name, layer in layers.items()}
    scale = Counter(scales.values()).most_common(1)[0][0]
    tensors = {}
    for name, p in ps.items():
        missing = _peft_bases(p) - p.num_bases
        lam = nn.functional.pad(p.randlora_lambda * (scales[name] / scale), (0, 0, 0, missing)).mT
        tensors[f"{PREFIX}{name}.randlora_lambda"] = lam
        tensors[f"{PREFIX}{name}.randlora_gamma"] = nn.functional.pad(
            p.randlora_gamma, (0, 0, 0, missing)
        )
    rank, seed, bases = p.rank, p.seed, _peft_bases(p)
    sides = [max(p.shape[i] for p in ps.values()) for i in (0, 1)]
    unused = (
        math.ceil(min(sides) / rank) - bases
    )  # peft makes as many as the largest of both sides would need
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
