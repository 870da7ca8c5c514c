"""OFT as peft has it: blocks of b inputs are rotated, x R with R of the numbers above Q's diagonal.

R is Cayley's transform of Q, or with `use_cayley_neumann` a series of `num_cayley_neumann_terms`.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import OFT
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import Parts, Written, alike, all_are, matrix, read_layers, tensors_of
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = False, "oft_only"


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read: the series of peft before its version 0.18."""
    version = str(config.get("peft_version") or "")  # which only later ones have
    old = re.match(r"0\.\d\b|0\.1[0-7]\b|$", version) is not None
    return (
        "use_cayley_neumann of peft before 0.18"
        if old and config.get("use_cayley_neumann")
        else None
    )


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the numbers of each layer's Q; those of `coft` within their bound."""
    return read_layers(where, config, tensors, r"oft_R\.weight", "oft_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped | None:
    given = matrix(parts, "oft_R.weight")
    block = (1 + math.isqrt(1 + 8 * given.shape[1])) // 2
    if block * (block - 1) // 2 != given.shape[1]:
        raise ValueError("oft_R.weight")
    terms = 0
    if settings.flag("use_cayley_neumann"):
        terms = settings.whole("num_cayley_neumann_terms", 5)
    if terms == 1:  # R is the identity
        return None
    if settings.flag("coft"):
        bound = settings.number("eps", 6e-5) / math.sqrt(len(given))
        norm = math.sqrt(2) * given.norm(dim=1, keepdim=True)  # |Q|_F
        given = torch.where(norm <= bound, given, given * (bound / norm))

    def coefficients(base: Tensor) -> Mapping[str, Tensor]:
        return {"oft_R": given.expand(base.shape[1] // block, -1)}

    made_by = functools.partial(OFT, block=block, terms=terms)
    if settings.flag("block_share"):
        return Mapped(made_by, coefficients, read=[given])
    return Mapped(made_by, {"oft_R": given})


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are OFT of one block and one transform, and of scale 1."""
    return all_are(layers, OFT, scaled=False) and alike(layers, "block", "terms")


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and the numbers of Q."""
    p: Any = next(iter(layers.values())).parameterization
    config = {
        "peft_type": "OFT",
        "r": 0,
        "oft_block_size": p.block,
        "use_cayley_neumann": p.terms > 0,
        "num_cayley_neumann_terms": p.terms or 5,
        "module_dropout": 0.0,
        "coft": False,
        "block_share": False,
    }

    def parts(layer: ZooLayer) -> Parts:
        return {"oft_R.weight": layer.parameterization.get_parameter("oft_R")}

    return config, tensors_of(layers, parts)
