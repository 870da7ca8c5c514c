"""DoRA as peft has it, a kind of its LoRA: rows of W0 + s B A with lengths of their own."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import DoRA
from zoo.runs.peft.adapter import Mapped
from zoo.runs.peft.formats import Parts, Written, all_are, matrix, setting, tensors_of
from zoo.runs.peft.settings import Settings, ranks_without_scale

CONV1D, BIAS = True, "lora_only"

MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
"""Names of the lengths, peft's of today and those of before its version 0.11."""


def update(settings: Settings, parts: Parts) -> Mapped:
    """Return the update of a layer of A, B and the lengths m of its rows, d = m / |w| - 1.

    Raises:
        ValueError: if sizes differ.
    """
    a, b = matrix(parts, "lora_A.weight"), matrix(parts, "lora_B.weight")
    name = next((each for each in MAGNITUDES if each in parts), MAGNITUDES[0])
    length = parts[name].flatten()
    if len(a) != b.shape[1] or len(length) != len(b):
        raise ValueError(name)
    scaled = b * settings.scale(len(a))

    def coefficients(base: Tensor) -> Mapping[str, Tensor]:
        norm = base.float().norm(dim=1)
        d = torch.where(norm > 0, length.to(norm) / norm - 1, 0.0)
        return {"lora_A": a, "lora_B": scaled, "lora_magnitude": d}

    made_by = functools.partial(DoRA, rank=len(a))
    return Mapped(made_by, coefficients, (len(b), a.shape[1]), [a, scaled, length])


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are DoRA."""
    return all_are(layers, DoRA)


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config, factors and lengths; a layer's scale goes into B, so that alpha is r."""

    def parts(layer: ZooLayer) -> Parts:
        p, base = layer.parameterization, layer.base
        assert isinstance(p, DoRA) and base is not None
        length = (1 + p.lora_magnitude.float()) * base.float().norm(dim=1)
        return {
            "lora_A.weight": p.lora_A,
            "lora_B.weight": layer.scale * p.lora_B,
            MAGNITUDES[0]: length,
        }

    config = {
        "peft_type": "LORA",
        "use_dora": True,
        **ranks_without_scale(setting(layers, "rank"), "lora_alpha"),
        "lora_dropout": 0.0,
    }
    return config, tensors_of(layers, parts)
