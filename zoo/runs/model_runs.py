"""A network in memory as a run: what its parameterized layers add to the weights beneath them."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from zoo.errors import UserError
from zoo.layers.adapters import in_use
from zoo.layers.convert import are_updates, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.runs.peft import own_factors
from zoo.runs.run import Run, slashed
from zoo.runs.source import Source, Update, What, chosen

CONVERT = "adapt it with zoo.adapt, or make it with zoo.parameterize"


def model_run(model: nn.Module, name: str | None = None) -> Run:
    """Return what is known of a network in memory as a run, which has neither task nor seed.

    Args:
        model: the network.
        name: what it is called; by default its class.
    """
    maps = dict.fromkeys(
        type(each).__name__
        for layer in zoo_layers(model).values()
        for each in in_use(layer.parameterization)
    )
    network, parameterization = type(model).__name__, "+".join(maps) or None
    called = name or network
    return Run(
        path=called,
        name=called,
        network=network,
        parameterization=parameterization,
        conditions={"path": called},
        group=slashed(called, parameterization),
    )


@torch.no_grad()
def read_model(
    model: nn.Module, name: str | None = None, layers: Sequence[str] | None = None
) -> Source:
    """Return the updates of a network in memory: dW of its layers, or W of those from scratch.

    Args:
        model: the network, with layers that zoo parameterized.
        name: what it is called; by default its class.
        layers: globs of layer names that choose.

    Raises:
        UserError: if it has no such layers, none is switched on, or there are no numbers yet.
    """
    run, there = model_run(model, name), zoo_layers(model)
    if not there:
        raise UserError(f"{run.name!r} has no layer that zoo parameterized: {CONVERT}")
    if not any(layer.enabled and in_use(layer.parameterization) for layer in there.values()):
        raise UserError(
            f"the updates of {run.name!r} are switched off: look at it outside of zoo.disabled, or "
            "switch one on with zoo.use"
        )
    need_memory(model)
    what, updates = own_updates(there, chosen(there, layers))
    notes = ["has no weight that training started from: W itself is looked at"] * (what == "W")
    return Source(**vars(run), what=what, updates=updates, notes=notes)


def need_memory(model: nn.Module) -> None:
    """Refuse a network on the meta device, which has no numbers.

    Raises:
        UserError: naming the first parameter that is there.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UserError(f"{name} is on the meta device, without numbers: load them first")


def own_updates(
    there: Mapping[str, ZooLayer], names: Iterable[str]
) -> tuple[What, dict[str, Update]]:
    """Return whether some layers' updates are dW or W, and the updates of those that are named.

    Args:
        there: all parameterized layers of a network.
        names: of those that are wanted.
    """
    dense = any(layer.dense_phase is not None for layer in there.values())
    what: What = "W" if dense or not are_updates(there) else "dW"
    return what, {name: own_update(there[name]) for name in names}


def own_update(layer: ZooLayer) -> Update:
    """Return s W of a layer on the CPU, with factors as they are."""
    at_work = layer.enabled and layer.dense_phase is None
    if at_work and (own := own_factors(layer)) is not None:
        return Update((own.scale * own.B.detach()).cpu(), own.A.detach().cpu())
    return Update(layer.update().detach().float().cpu())
