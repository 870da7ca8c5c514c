"""What a checkpoint, or a network in memory, has more than another: dW of every matrix in both."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import UserError, option
from zoo.files.trust import Trust
from zoo.layers.convert import zoo_layers
from zoo.pages.numbers import number_of
from zoo.runs import checkpoints
from zoo.runs.checkpoint_runs import checkpoint_run, plain_run
from zoo.runs.model_runs import model_run, need_memory
from zoo.runs.plain_checkpoints import Stored, aligned, in_memory, is_zoo, plain_tensors
from zoo.runs.run import Run
from zoo.runs.source import Source, Update, chosen
from zoo.training.module import ZooModule


class _Side(NamedTuple):
    """What one of the two has, by name without `.weight`, and the task if it is a run of zoo's.

    Of a run that is its layers, as merged ones are; of anything else every tensor.
    """

    name: str
    tensors: dict[str, Stored]
    task: ZooModule | None = None


@torch.no_grad()
def difference(
    after: str | nn.Module,
    before: str | nn.Module,
    name: str | None,
    backbone: str | None,
    layers: Sequence[str] | None,
    trust: Trust,
) -> Source:
    """Return the source whose updates are the difference of the matrices that both have.

    Args:
        after: what was trained, a path or a network.
        before: what it was before.
        name: of `after`, where that is a network.
        backbone: where the pretrained network of a run is now.
        layers: globs of names that choose; embeddings are compared only where one matches.
        trust: whose classes a run may name.

    Raises:
        UserError: if they have no matrix in common, shapes differ, or a glob matches nothing.
    """
    new, old = (_side(each, name, backbone, trust) for each in (after, before))
    earlier = aligned(old.tensors, new.tensors)
    common = {
        name: _alike(new.tensors[name], earlier[name]) for name in new.tensors if name in earlier
    }
    matrices = [
        name for name, pair in common.items() if any(len(stored.shape) == 2 for stored in pair)
    ]
    if not matrices:
        raise UserError(
            f"{new.name!r} and {old.name!r} have no matrix in common: give the model before "
            "training"
        )
    wanted = chosen(matrices, layers)
    run, notes = _run_of(after, new)
    # A run has its layers, and lacks nothing else of the other.
    sides = ((new.tensors, new.task, old.task), (earlier, old.task, new.task))
    if only := sum(
        len(names) - len(common)
        for names, task, other in sides
        if task is not None or other is None
    ):
        notes.append(f"only in one of the two: {number_of(only, 'parameter')}")
    if not layers and (tables := [name for name in wanted if _is_embedding(name)]):
        wanted = [name for name in wanted if name not in tables]
        notes.append(
            f"left out unless {option('layers')} names it: {number_of(len(tables), 'embedding')}"
        )
    if not wanted:
        raise UserError(
            f"{new.name!r} and {old.name!r} have only embeddings in common: name them with "
            f"{option('layers')}"
        )
    for each in wanted:
        shapes = [stored.shape for stored in common[each]]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{each} is {shapes[0]} in {new.name!r} and {shapes[1]} in {old.name!r}: give the "
                f"model before training, or choose layers with {option('layers')}"
            )
    updates = {each: Update(_loaded(common[each][0]) - _loaded(common[each][1])) for each in wanted}
    run = dataclasses.replace(run, conditions={**run.conditions, "before": old.name})
    return Source(**vars(run), what="dW", updates=updates, notes=notes)


def _run_of(after: str | nn.Module, new: _Side) -> tuple[Run, list[str]]:
    """Return what is known of the run that was trained, and notes on that."""
    if isinstance(after, nn.Module):
        return model_run(after, new.name), []
    file = checkpoints.find(Path(after))
    return checkpoint_run(after, file, new.task) if new.task and file else (plain_run(after), [])


def _is_embedding(name: str) -> bool:
    return any("embed" in part.lower() or part in ("wte", "wpe") for part in name.split("."))


def _alike(a: Stored, b: Stored) -> tuple[Stored, Stored]:
    """Return a pair as it is compared: a convolution as a matrix where the other one is."""
    return _flat(a, b), _flat(b, a)


def _flat(stored: Stored, other: Stored) -> Stored:
    (*_, _), shape = stored.shape or (0,), stored.shape
    if len(shape) <= 2 or len(other.shape) != 2:
        return stored
    return Stored((shape[0], math.prod(shape[1:])), lambda: stored.load().flatten(1))


def _loaded(stored: Stored) -> Tensor:
    return stored.load().float().cpu()


def _side(what: str | nn.Module, name: str | None, backbone: str | None, trust: Trust) -> _Side:
    if isinstance(what, nn.Module):
        need_memory(what)
        return _Side(name or type(what).__name__, in_memory(_merged(what)))
    path = Path(what)
    file = checkpoints.find(path)
    if file is None or not is_zoo(file):
        stored = plain_tensors(path).items()
        return _Side(what, {name.removesuffix(".weight"): each for name, each in stored})
    task = checkpoints.rebuild(file, backbone, trust=trust)
    return _Side(what, in_memory(_layers(task.net)), task)


def _layers(network: nn.Module) -> dict[str, Tensor]:
    """Return the weight of each parameterized layer as the plain one in its place would have it.

    That of a convolution is a matrix.
    """
    weights = {}
    for name, layer in zoo_layers(network).items():
        weight = layer.as_plain(layer.effective_weight().detach())
        weights[name] = weight.flatten(1) if weight.dim() > 2 else weight
    return weights


def _merged(network: nn.Module) -> dict[str, Tensor]:
    """Return every parameter of a network, that of a parameterized layer as a merged one has it."""
    inside = tuple(f"{name}." for name in zoo_layers(network))
    others = {
        name.removesuffix(".weight"): parameter.detach()
        for name, parameter in network.named_parameters()
        if parameter.is_floating_point() and not name.startswith(inside)
    }
    return {**others, **_layers(network)} if inside else others
