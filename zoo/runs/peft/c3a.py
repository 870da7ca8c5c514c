"""C3A as peft has it: dW is circulant blocks of kernels w (m / b, n / b, b), divided by n."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import Circulant
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import (
    Parts,
    Written,
    all_are,
    nothing_unsupported,
    of_dimensions,
    read_layers,
    setting,
    tensors_of,
)
from zoo.runs.peft.settings import Settings, usual

CONV1D, BIAS = False, "c3a_only"
unsupported = nothing_unsupported


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the kernels of each layer; zoo's coefficients are w sqrt(b) / n."""
    return read_layers(where, config, tensors, "c3a_kernel", "c3a_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    kernel = of_dimensions(parts, "c3a_kernel", 3)
    rows, columns, block = kernel.shape
    coefficients = {"coef": kernel.flatten() * (math.sqrt(block) / (columns * block))}
    made_by = functools.partial(Circulant, block=block)
    return Mapped(made_by, coefficients, (rows * block, columns * block))


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are circulant."""
    return all_are(layers, Circulant)


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and kernels."""

    def parts(layer: ZooLayer) -> Parts:
        p: Any = layer.parameterization
        (m, n), b = p.shape, p.block
        kernel = p.coef.view(m // b, n // b, b) * (layer.scale * n / math.sqrt(b))
        return {"c3a_kernel": kernel}

    size, others = usual(setting(layers, "block"))
    config = {"peft_type": "C3A", "block_size": size, "block_size_pattern": others}
    return config, tensors_of(layers, parts)
