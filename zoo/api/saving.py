"""Adapters to and from folders: `save` and `load`."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.api import hub
from zoo.api.adapting import DEFAULT, add, check_name
from zoo.api.arguments import check_network, makes_tensors, path_of
from zoo.api.card import card, numbers_of
from zoo.api.record import Adapter, find_record, maps_of, named_tensors, record_of
from zoo.api.say import say
from zoo.api.switching import check_free, freeze, hold
from zoo.errors import UserError
from zoo.files.access import new_folder
from zoo.files.paths import ADAPTER, nickname
from zoo.layers.names import summary
from zoo.layers.swap import swappable
from zoo.parameterizations import WeightParameterization
from zoo.runs import adapter_folder
from zoo.runs.adapter_config import CONFIG, About
from zoo.runs.adapter_folder import CARD, TENSORS, Stored


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter into a folder, whole or not at all: coefficients, config and a card.

    Of a network that was parameterized from scratch it is the whole network.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.DCT, ratio=0.25)
        >>> folder = zoo.save(net, "my_adapter", data="toy", metrics={"accuracy": 0.5})
        >>> sorted(file.name for file in folder.iterdir())
        ['README.md', 'adapter.safetensors', 'zoo_adapter.json']

    Args:
        model: an adapted network.
        folder: a new one, or one that holds an adapter if `overwrite`.
        name: of the adapter; by default the one in use.
        data: what it was trained on, for the card; by default what was said of one that was loaded.
        metrics: what it reached, by name, for the card; by default what was said of one that was
            loaded and is not trained on.
        overwrite: whether to replace an adapter that is there.

    Raises:
        UserError: if there is no such adapter, or the folder is there already.
    """
    path = path_of("folder", folder)
    stored = stored_of(model, name)
    given: dict[str, Any] = {} if data is None else {"data": str(data)}
    if metrics is not None:
        given["metrics"] = numbers_of(metrics)
    stored = dataclasses.replace(stored, about=dataclasses.replace(stored.about, **given))
    text = card(stored)
    ours = set(map(Path, (ADAPTER, CONFIG, CARD)))
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"'{path}' is there already: give another folder, or overwrite=True")
    with new_folder(path, "folder", lambda file: file in ours, overwrite) as part:
        adapter_folder.write(part, stored, text)
    return path


def write_checkpoint(
    model: nn.Module, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapter in use into a folder that may hold other files, each file whole.

    Args:
        model: an adapted network.
        folder: it is made if need be.
        state: the network's state dict, where it is not in this process' memory.
    """
    stored = stored_of(model)
    if state is not None:
        part, several = adapter_folder.PART, f"maps.{record_of(model).in_use(None)}."
        for layer, own in stored.coefficients.items():
            for key, tensor in own.items():
                names = f"{layer}{part}{key}", f"{layer}{part}{several}{key}"
                own[key] = next((state[name] for name in names if name in state), tensor)
        stored.trained.update({key: state.get(key, t) for key, t in stored.trained.items()})
    folder.mkdir(parents=True, exist_ok=True)
    adapter_folder.write(folder, stored, card(stored), tensors_in=TENSORS[1])


def for_python(folder: Path, net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write beside an exported run's tensors what `load` needs besides, and the card.

    Args:
        folder: which has them already.
        net: the run's network.
        state: the tensors; names of the network's begin with `net.` there.
    """
    trained = {
        key.removeprefix("net."): tensor
        for key, tensor in state.items()
        if adapter_folder.PART not in key
    }
    stored = dataclasses.replace(stored_of(net), trained=trained)
    adapter_folder.write(folder, stored, card(stored), prefix="net.", tensors_in=None)


@makes_tensors
def load(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str = DEFAULT,
    classes: Sequence[type[WeightParameterization]] = (),
    trainable: bool = False,
    revision: str | None = None,
) -> nn.Module:
    """Give a network an adapter that was saved, and use it.

    Nothing in the folder is executed or imported: coefficients are read with safetensors, all else
    as JSON within bounds, and what it wants trained besides replaces what it declares and no more.

        >>> base, x = torch.nn.Linear(8, 8), torch.ones(8)
        >>> net = zoo.adapt(copy.deepcopy(base), zoo.DCT, ratio=0.25)
        >>> torch.nn.init.ones_(net.parameterization.coef) is None
        False
        >>> other = zoo.load(base, zoo.save(net, "my_adapter"))
        >>> torch.equal(other(x), net(x))
        True

    Args:
        model: the network that the adapter was trained on, as it was before; or a network with
            other adapters.
        path: the folder that `zoo.save`, `zoo export --to safetensors` or a checkpoint of
            transformers' Trainer left; or a name on the Hugging Face hub, `user/adapter`.
        name: of the adapter in this network.
        classes: parameterizations of your own that it may name.
        trainable: whether it is to be trained on.
        revision: of the hub's repository: a branch, a tag or a commit.

    Returns:
        `model`; where that is a layer itself, the adapted layer in its place.

    Raises:
        UserError: if there is no adapter, or it is one of another network, shape, basis or format,
            or names a class that was not handed over. The network is then as it was.
    """
    check_network(model)
    check_name(name)
    folder, where = _folder(path, revision)
    stored = adapter_folder.read(folder, classes, where)
    record = find_record(model)
    if record is not None and stored.start != "update":
        raise UserError(f"{where} is of a whole network: load it into one without adapters")
    _check_fits(model, stored)
    model = add(
        model,
        name,
        stored.factories,
        functools.partial(_filled, stored=stored),
        list(stored.trained),
        stored.start,
    )
    for key, tensor in named_tensors(model, stored.trained).items():
        tensor.data.copy_(stored.trained[key])
    source = next(filter(hub.is_pinned, (where, stored.about.source)), "")
    about = dataclasses.replace(stored.about, source=source)
    record_of(model).adapters[name].about = about
    freeze(model, name, not trainable)
    mark = "trained on" if trainable else "not trained"
    say(f"{where}: {len(stored.factories)} layers, adapter {name!r}, {mark}")
    return model


def _folder(path: str | os.PathLike[str], revision: str | None) -> tuple[Path, str]:
    """Return the folder of an adapter, after it was fetched if it is a hub's, and what to call it.

    Raises:
        UserError: if there is none.
    """
    given = path_of("path", path)
    if found := adapter_folder.find(given):
        if revision is not None:
            raise UserError(
                f"revision is of a hub's repository, and '{found}' is a folder: drop it"
            )
        return found, f"adapter '{found}'"
    if not given.exists() and hub.is_id(str(path)):
        return hub.fetch(str(path), revision)
    if not given.exists():
        raise UserError(f"no folder '{given}': give one that zoo.save wrote, or a hub's user/name")
    if (given / "adapter_config.json").is_file():
        remedy = f"make it a run with zoo import {given}, and give an export of that"
        raise UserError(f"'{given}' is a peft adapter: {remedy}")
    if (given / "checkpoints").is_dir() or given.suffix == ".ckpt":
        raise UserError(
            f"'{given}' is a run: give what zoo export {given} --to safetensors writes of it"
        )
    raise UserError(f"'{given}' holds no adapter: give a folder with {CONFIG}")


def stored_of(model: nn.Module, name: str | None = None) -> Stored:
    """Return an adapter of a network as it is to be written.

    Args:
        model: an adapted network.
        name: of the adapter; by default the one in use.

    Raises:
        UserError: if there is no such adapter.
    """
    record = record_of(model)
    check_free(record, "save")
    name = record.in_use(name)
    hold(model, record)
    adapter, layers = record.adapters[name], maps_of(model, name)
    coefficients = {
        layer: {key: p.detach() for key, p in space.named_parameters()}
        for layer, (_, space) in layers.items()
    }
    if record.start == "update":
        trained = dict(adapter.trained)
    else:
        inside = tuple(f"{layer}{adapter_folder.PART}" for layer in layers)
        state = model.state_dict()
        trained = {key: t for key, t in state.items() if not key.startswith(inside)}
    return Stored(
        where=f"adapter {name!r}",
        start=record.start,
        factories=adapter.factories,
        scales=adapter.scales,
        shapes={layer: space.shape for layer, (_, space) in layers.items()},
        coefficients=coefficients,
        trained=trained,
        fingerprints={
            layer: space.fingerprint()
            for layer, (_, space) in layers.items()
            if coefficients[layer]
        },
        about=_about(model, adapter),
    )


def _about(model: nn.Module, adapter: Adapter) -> About:
    """Return where an adapter comes from: as its folder had it, or from its network.

    What it reached no longer holds where it may have been trained on.
    """
    if (about := adapter.about) is None:
        return About(base=_base(model))
    metrics = about.metrics if adapter.frozen else {}
    return dataclasses.replace(about, base={**_base(model), **about.base}, metrics=metrics)


def _base(model: nn.Module) -> dict[str, str]:
    """Return what a network's class and name are; of a folder only the end of its path."""
    about = {"class": type(model).__name__}
    path = getattr(getattr(model, "config", None), "_name_or_path", "")
    if isinstance(path, str) and path:
        about["name_or_path"] = nickname(path) if os.path.exists(path) else path
    return about


def _check_fits(model: nn.Module, stored: Stored) -> None:
    """Raise UserError naming what a network lacks, or has in another shape or dtype."""
    layers = {name: layer.shape for name, layer in swappable(model).items()}
    for name, shape in stored.shapes.items():
        if name not in layers:
            raise UserError(
                f"{stored.where} is of another network: it is for {name}, and this "
                f"{type(model).__name__} has {summary(layers)}"
            )
        if layers[name] != shape:
            raise UserError(
                f"{stored.where} is of another network: {name} is {shape}, here {layers[name]}"
            )
    state = model.state_dict()
    for name, tensor in stored.trained.items():
        there = tuple(state[name].shape) if name in state else None
        if there != tuple(tensor.shape):
            raise UserError(
                f"{stored.where} is of another network: {name} is {tuple(tensor.shape)}, here "
                f"{there or 'missing'}"
            )
        _check_takes(f"{stored.where}: {name}", state[name], tensor)


@torch.no_grad()
def _filled(space: WeightParameterization, stored: Stored) -> float:
    """Give a map, before any layer has it, the coefficients that were read; returns its s.

    Raises:
        UserError: if its basis was rebuilt differently here, or digits would be lost.
    """
    layer = space.layer
    own = dict(space.named_parameters())
    for key, tensor in stored.coefficients[layer].items():
        _check_takes(f"{stored.where}: {layer}", own[key], tensor)
        own[key].copy_(tensor)
    wanted = stored.fingerprints.get(layer)
    if wanted is not None and (here := space.fingerprint()) != wanted:
        raise UserError(
            f"{stored.where}: {layer}: its coefficients belong to another basis (hash {wanted}, "
            f"here {here}); it was made from another W0, or by another version"
        )
    return stored.scales[layer]


def _check_takes(what: str, here: Tensor, tensor: Tensor) -> None:
    """Raise UserError if numbers are of another kind, would lose digits, or have no place."""
    if here.is_meta:
        raise UserError(
            f"{what} has no place in a network on the meta device: load its weights before"
        )
    if (
        here.is_floating_point() != tensor.is_floating_point()
        or torch.promote_types(tensor.dtype, here.dtype) != here.dtype
    ):
        names = [str(each.dtype).removeprefix("torch.") for each in (tensor, here)]
        raise UserError(
            f"{what} is in {names[0]}, and here in {names[1]}, which would lose digits: give a "
            f"network in {names[0]}"
        )
