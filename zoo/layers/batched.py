"""Weights of equal shape built as one batch, before a network's forward pass.

Small transforms are bound by what each call costs, not by arithmetic: the sixteen matrices of the
character model are four batches, built in half the time of sixteen calls (results/goals.csv).

    build_together(network)   # from then on, in every forward pass with gradients

Layers from scratch whose maps share a `batch_key` take part; all others build W as they are called.
"""

import math
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases.seeds import of_device
from zoo.bases.vmapped import Function, transforming
from zoo.layers.kept import product_dtype
from zoo.layers.layer import ZooLayer, zoo_layers
from zoo.parameterizations import Isometry

LARGEST = {"cpu": 1 << 19, "cuda": 1 << 19}
"""The most numbers of a matrix that takes part, by type of device.

Larger ones have work enough of their own. "cuda" is a CPU's value, unmeasured.
"""


class _Together(Function):
    """(c_1, c_2, ...) -> (W_1, W_2, ...), each as its own map has it, in one batch."""

    @staticmethod
    def forward(maps: list[Isometry], dtype: torch.dtype, *coefs: Tensor) -> tuple[Tensor, ...]:
        return maps[0].expand_batch(maps, coefs).to(dtype).unbind()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.maps, ctx.dtype = inputs[0], inputs[2].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, None, *_Apart.apply(ctx.maps, ctx.dtype, torch.stack(grads))


class _Apart(Function):
    """(W_1, W_2, ...), stacked as (B, m, n), -> (c_1, c_2, ...): the adjoint of `_Together`."""

    @staticmethod
    def forward(maps: list[Isometry], dtype: torch.dtype, weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(coef.to(dtype) for coef in maps[0].gather_batch(maps, weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.maps, ctx.dtype = inputs[0], inputs[2].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, torch.stack(_Together.apply(ctx.maps, ctx.dtype, *grads))


def batches(maps: Iterable[Isometry]) -> list[list[Isometry]]:
    """Group the maps of equal `batch_key`, two or more at a time."""
    groups: dict[Hashable, list[Isometry]] = {}
    for space in maps:
        if (key := space.batch_key()) is not None:
            groups.setdefault(key, []).append(space)
    return [group for group in groups.values() if len(group) > 1]


class Together:
    """Builds the small weights of a network as a pass begins, and takes them back as it ends."""

    def __init__(self, network: nn.Module) -> None:
        self.layers: dict[Isometry, list[ZooLayer]] = {}  # tied layers share a map
        largest = max(LARGEST.values())  # the network may move to another device yet
        for layer in zoo_layers(network).values():
            space = layer.parameterization
            based = layer.has_base and layer.dense_phase != "projected"
            rows = layer.kind == "embedding"  # whose precision is not that of products
            alone = based or rows or layer.recompute or math.prod(space.shape) > largest
            if isinstance(space, Isometry) and not alone:
                self.layers.setdefault(space, []).append(layer)

    def before(self, network: nn.Module, args: object) -> None:
        """Build the weights and hand them to their layers, at the start of a pass that trains.

        Not within a transform of `torch.func`, which may have a batch of buffers, nor in an
        exported program, which is no faster for it.
        """
        skipped = transforming() or torch.compiler.is_exporting()
        if skipped or not network.training or not torch.is_grad_enabled():
            return
        for group in batches(space for space in self.layers if _takes_part(space)):
            coefs = [space.coef for space in group]
            weights = _Together.apply(group, product_dtype(coefs[0]), *coefs)
            for space, w in zip(group, weights, strict=True):
                for layer in self.layers[space]:
                    layer.hand_over(w if layer.scale == 1.0 else layer.scale * w)

    def after(self, network: nn.Module, args: object, output: object) -> None:
        """Take the weights back at the end of a pass, also of one that failed."""
        for layers in self.layers.values():
            for layer in layers:
                layer.hand_over(None)


def _takes_part(space: Isometry) -> bool:
    return space.coef.requires_grad and _could_take_part(space)


def _could_take_part(space: Isometry) -> bool:
    small = math.prod(space.shape) <= of_device(LARGEST, space.coef.device)
    return small and space.builds_weight


def built_together(network: nn.Module) -> dict[nn.Module, Isometry]:
    """Find the layers that are handed a W in a pass that trains, and the map that it is of.

    Those in a dense phase are handed one when it is over.
    """
    hooks = [hook for part in network.modules() for hook in part._forward_pre_hooks.values()]
    found: dict[nn.Module, Isometry] = {}
    for together in (getattr(hook, "__self__", None) for hook in hooks):
        if isinstance(together, Together):
            spaces = [s for s in together.layers if s.coef.requires_grad or s.waiting]
            for group in batches(space for space in spaces if _could_take_part(space)):
                found.update({layer: space for space in group for layer in together.layers[space]})
    return found


def build_together(network: nn.Module) -> None:
    """Have a network build its small weights in batches at the start of each pass that trains.

    W and its gradient are what they are without, up to rounding. Under autocast W comes in the
    lower precision, in which the layer multiplies.
    """
    together = Together(network)
    if together.layers:
        network.register_forward_pre_hook(together.before)
        network.register_forward_hook(together.after, always_call=True)


def stop_building(network: nn.Module) -> None:
    """Have a network, and every part of it, build no weights in batches any more."""
    for part in network.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key, hook in [*hooks.items()]:
                if isinstance(getattr(hook, "__self__", None), Together):
                    del hooks[key]
                    part._forward_hooks_always_called.pop(key, None)
