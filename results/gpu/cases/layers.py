"""The layers that are compared: dense, zoo's, and peft's at equal counts, with what floors need."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from results.gpu.cases.floors import Counts
from results.gpu.frame.failures import note
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, BlockDCT, Dense, LoRA, RandLoRA, WeightParameterization
from zoo.studies.bench.layers import Spec, frozen_bias, linear, peft_layer, rival

DENSE = "nn.Linear"
"""The name of the layer that the others are compared with."""
HALF, EQUAL = {"ratio": 0.5}, {"lora_rank": 8}
ALONE = (
    Spec(Dense, {}),
    Spec(DCT, HALF),
    Spec(BlockDCT, HALF),
    Spec(BlockDCT, {"ratio": 0.1}),
    Spec(LoRA, HALF),
    Spec(RandLoRA, HALF),
)
UPDATES = (
    Spec(Dense, {}),
    Spec(LoRA, {"rank": 8}),
    Spec(RandLoRA, {"rank": 32}),
    Spec(DCT, EQUAL),
    Spec(BlockDCT, EQUAL),
)


class Layer(NamedTuple):
    """A layer that is measured."""

    name: str
    module: nn.Module
    counts: Counts
    rival: str | None = None  # the name of peft's layer that it is compared with

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.module.parameters() if p.requires_grad]


def layers_of(
    shape: tuple[int, int], start: str, device: str, names: Sequence[str] = ()
) -> Iterator[Layer | tuple[str, str]]:
    """Make the dense layer, then the others; in place of one that cannot be had, its name and why.

    Args:
        shape: (m, n) of W.
        start: "alone", or "update" of a frozen weight, beside peft's.
        device: where they are.
        names: of those that are wanted, of zoo's alone; none: of all, and peft's.
    """
    (m, n), where, update = shape, torch.device(device), start == "update"
    yield Layer(DENSE, linear(shape, where), Counts(shape, m * n + m, 0))
    fourier = None
    for spec in UPDATES if update else ALONE:
        if names and spec.label not in names:
            continue
        try:
            module = _zoo(spec, shape, where, update)
        except Exception as error:
            yield spec.label, note(error, device)
            continue
        layer = Layer(spec.label, module, counts(module, update))
        if not update or names or spec.cls is Dense:
            yield layer
        elif spec.cls is BlockDCT:  # it has the DCT's count, rounded down to whole blocks
            yield layer._replace(rival=fourier)
        else:
            theirs = _peft(layer, device)
            fourier = theirs.name if isinstance(theirs, Layer) else None
            yield layer._replace(rival=fourier)
            yield theirs


def _zoo(spec: Spec, shape: tuple[int, int], device: torch.device, update: bool) -> ZooLinear:
    """Make a layer as `convert` does, with positions and bases drawn once, which takes seconds."""
    with torch.device("meta"):
        p = spec.cls(*shape, **spec.arguments)
    p.to_empty(device=device)
    p.reset_parameters(0.0 if update else shape[1] ** -0.5)
    dense = linear(shape, device)
    layer = ZooLinear(p, dense.bias, dense.weight.detach() if update else None)
    frozen_bias(layer, update)
    return layer


def _peft(layer: Layer, device: str) -> Layer | tuple[str, str]:
    """Make peft's layer of the same kind and count."""
    name = f"peft for {layer.name}"
    try:
        found = rival(layer.module)
        name = f"{found.name} for {layer.name}"
        module = peft_layer(found, layer.counts.shape, torch.device(device))
    except Exception as error:  # peft may be missing, or its tuners have other arguments
        return name, note(error, device)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Layer(name, module, layer.counts._replace(trained=trained))


def counts(layer: nn.Module, update: bool) -> Counts:
    """Count what a layer of zoo's takes."""
    p = layer.parameterization
    assert isinstance(p, WeightParameterization)
    (m, n), trained = (
        p.shape,
        sum(each.numel() for each in layer.parameters() if each.requires_grad),
    )
    built = Counts(
        p.shape, trained, sum(each.numel() for each in layer.parameters()) - trained, update=update
    )
    if isinstance(p, BlockDCT | LoRA):
        return built._replace(adds=(p.num_trainable, 3 * p.num_trainable))
    if isinstance(p, RandLoRA):
        k, wide, d = p.num_bases * p.rank, max(m, n), min(m, n)
        return built._replace(
            frozen=built.frozen + wide * k + p.rank * d,
            build=2 * wide * k * d,
            adds=(k * (wide + d), k * (2 * wide + 3 * d)),
        )
    return built
