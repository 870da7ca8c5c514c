"""What a checkpoint holds of a task: what is trained, its settings, and what both belong to."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.bases.masks import restore
from zoo.errors import UserError
from zoo.layers.anew import match_state
from zoo.layers.convert import zoo_layers
from zoo.parameterizations.factory import factory_class
from zoo.training import identity

if TYPE_CHECKING:
    from zoo.training.module import ZooModule

PROJECTED = "zoo_projected"
"""The key of the root-mean-squares of what was projected after a dense phase, by layer."""
FROZEN = ""
"""Stands among the hashes of layers for all that is frozen."""


def plain(value: Any) -> Any:
    """Return a setting as a config has it: classes by their path, dataclasses as mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, functools.partial | type):
        path = identity.path_of(factory_class(value))
        return {"class_path": path, "init_args": plain(dict(getattr(value, "keywords", {})))}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Return the hash of every layer's fixed bases and positions, by the layer's name.

    What follows from a W0 that a checkpoint has itself is left out.
    """
    return {
        name: layer.parameterization.fingerprint()
        for name, layer in zoo_layers(model).items()
        if not (layer.stores_base and layer.parameterization.needs_base)
    }


def fill(module: "ZooModule", checkpoint: dict[str, Any]) -> None:
    """Put what is trained into a checkpoint, and the task's class, fingerprints and identity."""
    checkpoint["state_dict"] = module.trained_state()
    if module._trainer is not None:
        checkpoint[identity.KEY] = identity.record(module)
    checkpoint["zoo_task"] = identity.path_of(type(module))
    checkpoint["zoo_fingerprints"] = fingerprints(module.net)
    if (frozen := _frozen_digest(module)) is not None:
        checkpoint["zoo_fingerprints"][FROZEN] = frozen
    if module.projected:
        checkpoint[PROJECTED] = dict(module.projected)


def complete(module: "ZooModule", checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint belongs to a task, and add to its state dict what it leaves out.

    Args:
        module: the task that the state dict is to be loaded into.
        checkpoint: as `fill` has made it; its matrices in `masked` are restored.

    Raises:
        UserError: if a seeded basis or a frozen weight was rebuilt differently here, a setting in
            `from_data` is another one, or a masked matrix is damaged.
    """
    module.check_settings(checkpoint)
    match_state(zoo_layers(module.net), {*checkpoint["state_dict"], *checkpoint.get("masked", {})})
    _restart_rates(module, checkpoint.get(PROJECTED, {}))
    _check_fingerprints(module, dict(checkpoint.get("zoo_fingerprints", {})))
    here, state = module.state_dict(), checkpoint["state_dict"]
    for name, masked in checkpoint.pop("masked", {}).items():
        if name not in here or tuple(here[name].shape) != masked.shape:
            raise UserError(
                f"the masked {name} of the checkpoint has no matrix of shape {masked.shape} here"
            )
        try:
            state[name] = restore(masked)
        except ValueError as error:
            raise UserError(
                f"the masked {name} of the checkpoint is damaged ({error}): use another copy"
            ) from None
    known = {name: tensor for name, tensor in state.items() if name in here}
    if any(tensor.dtype == torch.float64 != here[name].dtype for name, tensor in known.items()):
        module.double()  # Lightning does so after loading only, when the digits would be lost
        here = module.state_dict()
    checkpoint["state_dict"] = {name: here[name] for name in module._frozen_names()} | state


def _restart_rates(module: "ZooModule", sizes: Mapping[str, float]) -> None:
    """Have rates follow from the weights that were projected, as at the end of the dense phase."""
    layers = zoo_layers(module.net)
    for name, size in sizes.items():
        if name in layers and not layers[name].parameterization.needs_base:
            with torch.random.fork_rng(devices=[]):
                layers[name].parameterization.reset_parameters(size)  # coefficients come later
    module.projected = dict(sizes)


def _check_fingerprints(module: "ZooModule", theirs: dict[str, str]) -> None:
    mine, frozen = fingerprints(module.net), theirs.pop(FROZEN, None)
    if frozen is not None and _frozen_digest(module) not in (None, frozen):
        raise UserError(
            "the frozen weights are not those that the checkpoint was trained on: "
            f"{type(module).__name__} makes others at each start. Read them from a file, draw them "
            "from the seed, or have checkpoints hold them: self.drawn = frozenset of their names"
        )
    for layer, fingerprint in theirs.items():
        if mine.get(layer, fingerprint) != fingerprint:
            raise UserError(
                f"{layer}: the checkpoint's coefficients belong to another basis (hash "
                f"{fingerprint}, here {mine[layer]}); train and load with the same "
                "parameterization, seed and selection"
            )


def _frozen_digest(module: "ZooModule") -> str | None:
    """Hash what a checkpoint leaves out and a constructor makes again; None for a backbone."""
    names = module._frozen_names()
    # What waits is drawn as it begins to train.
    spaces = {layer.parameterization for layer in zoo_layers(module.net).values()}
    waiting = {p for space in spaces if space.waiting for p in space.parameters()}
    named = module.named_parameters()
    left_out = [p for name, p in named if name in names and p not in waiting]
    if module.network_identity() or not left_out or any(p.is_meta for p in left_out):
        return None
    return identity.digest_of_weights(left_out)
