"""LoKr as peft has it: dW = alpha / r A (x) B, of which either may be a product of rank r."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import Kronecker
from zoo.parameterizations.structured.sizes import two_factors
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
from zoo.runs.peft.settings import Settings, ranks_without_scale

CONV1D, BIAS = False, None
unsupported = nothing_unsupported

MOST = 1024
"""The largest decompose_factor that is tried."""


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read A and B of each layer, whole or as products; alpha / r goes into A."""
    return read_layers(where, config, tensors, "lokr_w[12](?:_[ab])?", "lokr_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    sizes, coefficients, rank = [], {}, None
    for name in ("lokr_w1", "lokr_w2"):
        whole = name in parts
        if whole == (f"{name}_a" in parts):
            raise ValueError(name)
        factors = [
            matrix(parts, each) for each in ([name] if whole else [f"{name}_a", f"{name}_b"])
        ]
        sizes.append((len(factors[0]), factors[-1].shape[1]))
        if whole:
            coefficients[name] = factors[0]
        else:
            rank = len(factors[1])
            coefficients |= {f"{name}_a": factors[0], f"{name}_b": factors[1]}
    r = settings.whole("r", 8, "rank_pattern") if rank is None else rank
    first = next(iter(coefficients))
    scale = settings.number("alpha", 8, "alpha_pattern") / r
    coefficients[first] = coefficients[first] * scale
    (m1, n1), (m2, n2) = sizes
    made_by = functools.partial(
        Kronecker, terms=1, factor=[m1, n1], rank=rank, decompose_both="lokr_w1_a" in parts
    )
    shape = m1 * m2, n1 * n2
    return Mapped(made_by, {name: t[None] for name, t in coefficients.items()}, shape)


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are one Kronecker product that peft would cut in the same way."""
    return all_are(layers, Kronecker) and _cut(layers) is not None


def _cut(layers: Mapping[str, ZooLayer]) -> tuple[int, bool, dict[str, int]] | None:
    """Return decompose_factor, decompose_both and r by layer, with which peft has these sizes."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    if any(p.terms != 1 for p in ps.values()):
        return None
    ranks = {
        name: next(iter(p.ranks.values()), max(max(size) for size in p.sizes.values()))
        for name, p in ps.items()
    }
    for factor in (-1, *range(1, MOST + 1)):
        given = None if factor == -1 else factor
        if all(
            p.sizes["lokr_w1"] == tuple(two_factors(side, given)[0] for side in p.shape)
            for p in ps.values()
        ):
            break
    else:
        return None
    for both in (False, True):
        if all(
            set(p.ranks)
            == {
                name
                for name, size in p.sizes.items()
                if 2 * ranks[layer] < max(size) and (name == "lokr_w2" or both)
            }
            for layer, p in ps.items()
        ):
            return factor, both, ranks
    return None


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config, A and B; a layer's scale goes into A, so that alpha is r."""
    cut = _cut(layers)
    assert cut is not None, "asked by `holds`"
    factor, both, ranks = cut

    def parts(layer: ZooLayer) -> Parts:
        found = {name: p[0] for name, p in layer.parameterization.named_parameters()}
        first = "lokr_w1" if "lokr_w1" in found else "lokr_w1_a"
        return {**found, first: layer.scale * found[first]}

    config = {
        "peft_type": "LOKR",
        **ranks_without_scale(ranks),
        "rank_dropout": 0.0,
        "module_dropout": 0.0,
        "use_effective_conv2d": False,
        "decompose_both": both,
        "decompose_factor": factor,
    }
    return config, tensors_of(layers, parts)
