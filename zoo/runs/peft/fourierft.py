"""FourierFT as peft has it: K coefficients at places that its `random_loc_seed` draws."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.layers.layer import ZooLayer
from zoo.parameterizations import Fourier
from zoo.runs.peft.adapter import Found, Mapped
from zoo.runs.peft.formats import (
    Parts,
    Written,
    alike,
    all_are,
    nothing_unsupported,
    of_dimensions,
    read_layers,
    tensors_of,
)
from zoo.runs.peft.settings import Settings, usual

CONV1D, BIAS = True, "fourier_only"
unsupported = nothing_unsupported


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the coefficients of each layer; no file says how large its weight is."""
    return read_layers(where, config, tensors, "fourierft_spectrum", "fourierft_", _update)


def _update(settings: Settings, parts: Parts) -> Mapped:
    spectrum = of_dimensions(parts, "fourierft_spectrum", 1)
    scaling, sign = settings.number("scaling", 150.0), 1.0
    if scaling < 0:
        scaling, sign = -scaling, -1.0
    made_by = functools.partial(
        Fourier,
        coefficients=len(spectrum),
        scaling=scaling,
        shared=True,
        seed=settings.seed("random_loc_seed", 777),
    )
    return Mapped(made_by, {"fourierft_spectrum": sign * spectrum})


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are Fourier at places that layers of a size share, of one seed."""
    ps: list[Any] = [layer.parameterization for layer in layers.values()]
    shared = all_are(layers, Fourier) and all(p.shared and p.twins for p in ps)
    return shared and alike(layers, "seed")


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config and coefficients, all at the first layer's scaling."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    scaling = next(iter(ps.values())).scaling

    def parts(layer: ZooLayer) -> Parts:
        p: Any = layer.parameterization
        return {"fourierft_spectrum": p.fourierft_spectrum * (layer.scale * p.scaling / scaling)}

    count, others = usual({name: p.num_trainable for name, p in ps.items()})
    config = {
        "peft_type": "FOURIERFT",
        "n_frequency": count,
        "n_frequency_pattern": others,
        "scaling": scaling,
        "random_loc_seed": next(iter(ps.values())).seed,
    }
    return config, tensors_of(layers, parts)
