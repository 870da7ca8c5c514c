"""Whether peft would make of an adapter and its backbone the network that was to be written.

Every tensor of the network is compared: what the files say is put together as peft puts it
together, with its ways to find a module by the end of its name and a rank or alpha by a pattern.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.convert import is_conv1d, zoo_layers
from zoo.runs.peft.adapter import Factors, Update
from zoo.runs.peft.reading import read
from zoo.runs.peft.settings import Settings

TOLERANCE = 1e-5
"""How far a number may be off, relative to the largest of its tensor or 1."""
TRUNCATED = 1e-4
"""How far the relative error of a truncated update may be off."""


def verify(
    folder: Path,
    net: nn.Module,
    plain: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor] | None,
    errors: Mapping[str, float],
) -> None:
    """Compare a written adapter with the network that it is of.

    Args:
        folder: with the adapter.
        net: the converted network.
        plain: the state dict that it has with plain layers.
        backbone: what the files of the pretrained network hold; by default what `net` has.
        errors: of each layer that was written truncated, |dW - s B A|_F / |dW|_F.

    Raises:
        UserError: naming the first tensor that peft would have otherwise, and by how much.
    """
    adapter, layers = read(folder), zoo_layers(net)
    _check_names(net, adapter.config, adapter.updates)
    stored = set(adapter.saved)
    for name, want in ((name, plain[name]) for name in plain):
        owner = name.rpartition(".")[0]
        if name in stored:
            got = adapter.saved[name]
        elif backbone is None:
            got = _base(layers[owner]) if owner in layers and name.endswith(".weight") else want
        elif name in backbone:
            got = backbone[name]
        else:
            raise _refused(name, "which the backbone lacks, is not in it")
        if owner in adapter.updates and name.endswith(".weight") and name not in stored:
            layer = layers[owner]
            turned = is_conv1d(layer.replaced)
            base = got.float().mT if turned else got.float()
            got = base + adapter.updates[owner].matrix(layer.parameterization.shape, base)
            want = layer.effective_weight().float()
            if (error := errors.get(owner, 0.0)) > 0:
                truncation = (error + TRUNCATED) * (want - base).norm()
                if (got - want).norm() <= truncation:
                    continue
        if got.shape != want.shape:
            raise _refused(name, f"would be {tuple(got.shape)} in place of {tuple(want.shape)}")
        if not got.is_floating_point() or not want.numel():
            off, allowed = float(not torch.equal(got, want)), 0.0
        else:
            off = (got.float() - want.float()).abs().max().item()
            exact = max(TOLERANCE, torch.finfo(got.dtype).eps, torch.finfo(want.dtype).eps)
            allowed = exact * max(1.0, want.float().abs().max().item())
        if not off <= allowed:
            raise _refused(name, f"would be off by {off:.2g}")


def _base(layer: Any) -> Tensor:
    """Return W0 as the plain layer had it."""
    return layer.base.mT if is_conv1d(layer.replaced) else layer.base


def _refused(name: str, why: str) -> UserError:
    return UserError(f"as a peft adapter this network's {name} {why}: export --to dense")


def _check_names(net: nn.Module, config: Mapping[str, Any], updates: Mapping[str, Update]) -> None:
    """Refuse patterns by which peft would find other modules, or other ranks.

    Raises:
        UserError: naming the first of them.
    """
    targets, kept = config["target_modules"], config.get("modules_to_save") or []
    for name, _ in net.named_modules():
        if not name or ".parameterization" in name:
            continue
        excluded = any(re.match(rf"(^|.*\.){each}($|\..*)", name) for each in kept)
        if isinstance(targets, str):
            targeted = re.fullmatch(targets, name) is not None
        else:
            targeted = name in targets or name.endswith(tuple(f".{each}" for each in targets))
        if (targeted and not excluded) != (name in updates):
            raise _refused(name, "would be " + ("updated" if targeted else "left alone"))
    for name, update in updates.items():
        if not isinstance(update, Factors):
            continue
        rank = Settings(config, name).whole("r", None, "rank_pattern")
        if rank != len(update.A):
            raise _refused(name, f"would have rank {rank} in place of {len(update.A)}")
