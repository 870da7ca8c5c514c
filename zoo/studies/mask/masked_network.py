"""A network whose updates are replaced by others for a while."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from zoo.layers.convert import zoo_layers
from zoo.parameterizations import Dense, WeightParameterization
from zoo.runs.source import Source


class MaskedNetwork:
    """A network whose layers have other updates until `restore`, or the end of a `with` block.

    The map of a layer gives its place to a `Dense` one, and all else of the layer stays, so that it
    may be of any kind: its frozen weight, its names, its hooks.

    Args:
        network: the network, whose layers are changed in place.
        source: its updates.
    """

    def __init__(self, network: nn.Module, source: Source) -> None:
        there = zoo_layers(network)
        self.layers = {name: there[name] for name in source.updates}
        self._start: dict[str, Tensor] = {}
        self._before: dict[str, WeightParameterization | Tensor] = {}
        maps = {}
        for name, layer in self.layers.items():
            if not layer.has_base and source.what == "dW":  # W was projected, and dW is no map's
                with torch.no_grad():
                    weight = layer.effective_weight().float()
                    self._start[name] = weight - source.updates[name].matrix().to(weight.device)
            if layer.dense_phase is None:
                maps[name] = _dense_like(layer.parameterization, beside=layer.has_base)
        for name, layer in self.layers.items():  # nothing was changed so far
            if name in maps:
                self._before[name] = layer.parameterization
                layer.parameterization = maps[name]
            else:  # no map is at work, and W is the weight itself
                self._before[name] = layer.base.detach().clone()  # type: ignore[union-attr]

    @torch.no_grad()
    def set_(self, updates: Mapping[str, Tensor]) -> None:
        """Let W = W0 + update from now on, for every layer."""
        for name, layer in self.layers.items():
            if layer.dense_phase is not None:
                layer.set_base_(updates[name])
                continue
            coef = layer.parameterization.coef
            update = updates[name].to(coef.device)
            whole = self._start[name] + update if name in self._start else update
            coef.copy_(whole / layer.scale)

    def restore(self) -> None:
        """Give every layer back what it had."""
        for name, before in self._before.items():
            layer = self.layers[name]
            if isinstance(before, WeightParameterization):
                layer.parameterization = before
            else:
                with torch.no_grad():
                    layer.set_base_(before)
        self._before = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def _dense_like(space: WeightParameterization, beside: bool) -> Dense:
    """Return a map of a matrix as it is, frozen, where another map is.

    Args:
        space: the other one.
        beside: whether it is of a layer with a frozen weight, whose sum with it is rounded alone.
    """
    like = next(space.parameters())
    with torch.random.fork_rng(devices=[]):  # what it draws is never used
        dense = Dense(*space.shape)
    dtype = torch.promote_types(like.dtype, torch.float32) if beside else like.dtype
    dense.layer = space.layer
    return dense.to(like.device, dtype).requires_grad_(False)
