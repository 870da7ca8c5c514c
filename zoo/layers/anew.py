"""Coefficients that begin anew while a network trains: after a dense phase, or merged into W0.

What is drawn depends on the seed, the layer's name and the restart alone, so that it is the same on
every rank and in a run that goes on from any checkpoint.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from zoo.bases.seeds import stream_seed
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import WeightParameterization

Layers = Mapping[str, ZooLayer]


def once(layers: Layers) -> dict[str, ZooLayer]:
    """Return the layers without those that share the map of another one."""
    first: dict[WeightParameterization, str] = {}
    for name, layer in layers.items():
        first.setdefault(layer.parameterization, name)
    return {name: layers[name] for name in first.values()}


@contextmanager
def drawn_from(module: nn.Module, seed: int, *labels: object) -> Iterator[None]:
    """Draw what a module draws from a stream of its own; all other draws are as without it."""
    device = next(module.parameters()).device
    some = [] if device.type in ("cpu", "meta") else [device]
    kind = "cuda" if device.type in ("cpu", "meta") else device.type
    with torch.random.fork_rng(some, device_type=kind):
        torch.manual_seed(stream_seed(seed, *labels))
        yield


@torch.no_grad()
def update_anew(name: str, layer: ZooLayer, seed: int, number: int) -> None:
    """Draw the coefficients of an update of W0 as it is now, which starts at W = 0.

    Args:
        name: of the layer.
        layer: one with a base.
        seed: of the run.
        number: of the restart; 0 after a dense phase.
    """
    space, base = layer.parameterization, layer.base
    assert base is not None
    with drawn_from(space, seed, "anew", name, number):
        space.reset_parameters(0.0)
        space.for_base(base.detach())


@torch.no_grad()
def end_dense_phases(layers: Layers, seed: int) -> dict[str, float]:
    """Let W0 be frozen and W start at 0, or W start as the projection of W0, as layers have it.

    Args:
        layers: of a network, by name.
        seed: of the run.

    Returns:
        By the layers that were projected, the root-mean-square of W0, from which rates follow.
    """
    dense = {name: layer for name, layer in layers.items() if layer.dense_phase is not None}
    sizes: dict[str, float] = {}
    for name, layer in once(dense).items():
        space, base = layer.parameterization, layer.base
        assert base is not None
        if layer.dense_phase == "frozen":
            for p in layer.base_parameters:
                p.mul_(1)  # a fused optimizer's steps leave no trace in the version of a tensor
            update_anew(name, layer, seed, 0)
            continue
        w = base.detach().to(next(space.parameters()).dtype)
        sizes[name] = w.float().square().mean().sqrt().item()
        with drawn_from(space, seed, "anew", name, 0):
            space.reset_parameters(sizes[name])
            space.project_(w)
    for layer in dense.values():
        layer.end_dense()
    return sizes


@torch.no_grad()
def merge_updates(layers: Layers, seed: int, number: int) -> None:
    """Merge every update into W0, and draw its coefficients anew; W0 is in checkpoints from now on.

    Args:
        layers: those with a base, by name.
        seed: of the run.
        number: of the restart, from 1 on.
    """
    for name, layer in once(layers).items():
        layer.set_base_(layer.merged_weight())
        update_anew(name, layer, seed, number)
    for layer in layers.values():
        layer.stores_base = True


def match_state(layers: Layers, names: set[str], prefix: str = "net.") -> None:
    """Give layers the phase in which a state dict was written, which its names tell.

    Values are left as they are. A dense phase has W0 and no coefficients; a W0 that was merged into
    is there beside them.

    Args:
        layers: of the network that is to be given the state, by name.
        names: of the tensors.
        prefix: of the network's names in it.
    """
    having = {
        name.partition(".parameterization.")[0] for name in names if ".parameterization." in name
    }
    for name, layer in layers.items():
        if f"{prefix}{name}" not in having:
            continue
        if layer.dense_phase is not None:
            layer.end_dense()
        if layer.has_base and f"{prefix}{name}.weight" in names:
            layer.stores_base = True


@torch.no_grad()
def follow_bases(layers: Layers) -> None:
    """Have maps follow the W0 that was loaded from a checkpoint."""
    for layer in once(layers).values():
        if layer.stores_base and layer.has_base and layer.dense_phase is None:
            layer.parameterization.for_base(layer.base.detach())  # type: ignore[union-attr]
