"""HRA as peft has it: W0 times reflections about the columns of U (n, r), one after the other.

With `apply_GS` the columns are made orthonormal before, one after the other (Gram and Schmidt).
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import Householder
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import Parts, Written, alike, all_are, matrix, read_layers, tensors_of
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = False, "hra_only"


def unsupported(config: dict[str, Any]) -> str | None:
    """Return what of a config cannot be read: an odd number of reflections."""
    r = config.get("r")
    return f"r {r}, an odd number of reflections" if type(r) is int and r % 2 else None


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read U of each layer."""
    return read_layers(where, config, tensors, "hra_u", "hra_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    u = matrix(parts, "hra_u")
    if u.shape[1] % 2:
        raise UserError(
            f"{settings.layer} has {u.shape[1]} reflections, an odd number: merge it with peft "
            "instead"
        )
    if not u.norm(dim=0).all():
        raise ValueError("hra_u")
    if settings.flag("apply_GS"):
        # Signs of columns reflect alike.
        u = torch.linalg.qr(u.double()).Q.float()
    return Mapped(functools.partial(Householder, rank=u.shape[1]), {"hra_u": u})


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are of one rank, and of scale 1."""
    return all_are(layers, Householder, scaled=False) and alike(layers, "rank")


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and U."""
    p: Any = next(iter(layers.values())).parameterization
    config = {"peft_type": "HRA", "r": p.rank, "apply_GS": False}
    return config, tensors_of(layers, lambda layer: dict(layer.parameterization.named_parameters()))
