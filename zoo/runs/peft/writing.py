"""A network's updates as a peft adapter, held against the network before it is kept."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.files.tensors import write_tensors
from zoo.layers.convert import is_conv1d, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.runs.peft import adalora, dora, lora
from zoo.runs.peft.adapter import CONFIG, PREFIX, TENSORS, same
from zoo.runs.peft.formats import Writer
from zoo.runs.peft.reading import FORMATS
from zoo.runs.peft.verifying import verify

VERSION = "0.21.2"
"""Of peft, whose files these are like."""
HEADS = ("classifier", "score")
"""Ends of names that peft stores whole for any sequence classifier, whatever the config says."""


@torch.no_grad()
def write(
    folder: Path,
    net: nn.Module,
    fields: dict[str, str],
    rank: int | None = None,
    backbone: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Write the updates of a network's layers, and what else of it is trained or drawn, for peft.

    What peft has a format for becomes itself (`reading.FORMATS`, DoRA); anything else, and with
    `rank` any update of a higher rank, becomes LoRA by truncated singular value decomposition. A
    module with a parameter that is trained besides, or that is not what the backbone has, is stored
    whole, but for biases, which most formats have a setting for. What was written is read again,
    and what peft makes of it and the backbone is compared with the network (`verify`).

    Args:
        folder: an empty one.
        net: a converted network.
        fields: `task_type` and `base_model_name_or_path` of the config.
        rank: of the truncation; 8 by default.
        backbone: what the files of the pretrained network hold, by name before conversion; by
            default all that is frozen in `net`.

    Returns:
        By layer, |dW - s B A|_F / |dW|_F.

    Raises:
        UserError: if a layer has no frozen weight that its W is an update of, all are trained
            otherwise as well, or peft would make another network of it.
    """
    for name, layer in zoo_layers(net).items():
        if not layer.has_base:
            raise UserError(
                f"{name} has no frozen weight that a peft adapter could be added to: export --to "
                "dense"
            )
        if layer.kind != "linear":
            raise UserError(
                f"{name} is a {layer.replaced.__name__}, and only updates of linear layers can be "
                "written for peft: export --to dense"
            )
    always = HEADS if fields.get("task_type") == "SEQ_CLS" else ()
    plain = PlainState(net)
    changed = _changed(net, plain, backbone)
    for kind, biases in _biases(net, plain, changed):
        saved = _matched(net, [*_saved(net, always, changed - biases)], always)
        inside = tuple(f"{name}." for name in saved)
        layers = {
            name: layer
            for name, layer in zoo_layers(net).items()
            if not f"{name}.".startswith(inside) and not adalora.is_pruned(layer)
        }
        turned = any(is_conv1d(layer.replaced) for layer in layers.values())
        held = None if rank is not None else _holder(layers, turned)
        if layers and (kind == "none" or held is None or held.BIAS is not None):
            break
    if not layers:
        raise UserError(
            "no layer has an update alone: what is trained besides leaves no adapter; export --to "
            "dense"
        )
    if held is not None:
        config, tensors = held.write(layers)
        errors = dict.fromkeys(layers, 0.0)
    else:
        config, tensors, errors = lora.write(layers, rank)
    only = lora.BIAS if held is None else held.BIAS
    tensors |= {
        f"{PREFIX}{name}": tensor for name, tensor in plain.items() if name.startswith(inside)
    }
    tensors |= {
        PREFIX + (f"{name[:-5]}.base_layer.bias" if name[:-5] in layers else name): plain[name]
        for name in biases
        if not name.startswith(inside)
    }
    config |= {
        **fields,
        "peft_version": VERSION,
        "inference_mode": True,
        "target_modules": _targets(net, layers, saved),
        "modules_to_save": saved or None,
    }
    if only is not None:  # otherwise the format has no such setting
        config["bias"] = only if kind == "only" else kind
    if turned:
        config["fan_in_fan_out"] = True
    write_tensors(folder / TENSORS, tensors)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    verify(folder, net, plain, backbone, errors)
    return errors


class PlainState(Mapping[str, Tensor]):
    """The state dict that a network has with plain layers, as `zoo.layers.convert.merge` has it.

    Each tensor is built when it is asked for, so that no two matrices are there at a time.
    """

    def __init__(self, net: nn.Module) -> None:
        self.layers = zoo_layers(net)
        inside = tuple(f"{name}.parameterization." for name in self.layers)
        self.state = {
            name: tensor for name, tensor in net.state_dict().items() if not name.startswith(inside)
        }

    def __getitem__(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        if leaf != "weight" or owner not in self.layers:
            return self.state[name]
        layer = self.layers[owner]
        weight = layer.merged_weight().detach()
        return weight.mT if is_conv1d(layer.replaced) else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def _holder(layers: Mapping[str, ZooLayer], turned: bool) -> Writer | None:
    """Return the format that has these layers' updates as they are, if there is one.

    Args:
        layers: by name.
        turned: whether one of them is a `Conv1D`, which not every format of peft's is for.
    """
    formats: list[Writer] = [dora, *FORMATS.values()]
    return next(
        (each for each in formats if (each.CONV1D or not turned) and each.holds(layers)), None
    )


def _biases(
    net: nn.Module, plain: PlainState, changed: set[str]
) -> Iterator[tuple[Literal["all", "only", "none"], set[str]]]:
    """Return ways to store trained biases, the best first: peft's setting, and the biases it has.

    They are all of the network, or those of the layers with an update, or none, whose modules are
    then stored whole.
    """
    own = {f"{name}.bias" for name, layer in zoo_layers(net).items() if layer.bias is not None}
    if own & changed:
        every = {name for name in plain if "bias" in name}
        if every <= changed:
            yield "all", every
        yield "only", own
    yield "none", set()


def _changed(net: nn.Module, plain: PlainState, backbone: Mapping[str, Tensor] | None) -> set[str]:
    """Return names of what is trained as it is, and of what the backbone lacks or has otherwise.

    They are those of the state dict.
    """
    changed = {name for name, p in net.named_parameters(remove_duplicate=False) if p.requires_grad}
    if backbone is not None:
        for name, tensor in plain.state.items():
            owner = plain.layers.get(name.rpartition(".")[0])
            turned = owner is not None and name.endswith(".weight") and is_conv1d(owner.replaced)
            if name not in backbone or not same(tensor.mT if turned else tensor, backbone[name]):
                changed.add(name)
    return changed & plain.state.keys()


def _saved(
    module: nn.Module, always: tuple[str, ...], changed: set[str], prefix: str = ""
) -> Iterator[str]:
    """Return the outermost modules with own parameters or buffers among `changed`; and `always`."""
    for name, child in module.named_children():
        where = f"{prefix}{name}."
        own = {
            where + key
            for each in (child.named_parameters, child.named_buffers)
            for key, _ in each(recurse=False)
        }
        inner = [where + key in changed for key, _ in child.named_parameters()]
        whole = all(inner) and not zoo_layers(child) if inner else False
        if (always and name.endswith(always)) or own & changed or whole:
            yield prefix + name
        elif not isinstance(child, ZooLayer):
            yield from _saved(child, always, changed, where)


def _matched(net: nn.Module, saved: list[str], always: tuple[str, ...]) -> list[str]:
    """Return these modules and whatever else peft would store whole.

    A name that ends as one of theirs is enough for peft.

    Raises:
        UserError: if that is inside of one of them, which peft cannot store twice.
    """
    names = [name for name, _ in net.named_modules(remove_duplicate=False) if name]
    while more := [
        name for name in names if name not in saved and name.endswith((*saved, *always))
    ]:
        saved = [name for name in names if name in saved or name in more]
    for name in saved:
        if any(name.startswith(f"{other}.") for other in saved):
            raise UserError(
                f"peft would store {name} twice, by the end of its name: export --to dense"
            )
    return saved


def _targets(net: nn.Module, layers: Iterable[str], saved: list[str]) -> list[str] | str:
    """Return the names of the layers; as a pattern, where peft would take others for them.

    Those are layers whose names end as theirs.
    """
    layers = list(layers)
    inside = tuple(f"{name}." for name in saved)
    others = [
        name
        for name, _ in net.named_modules()
        if name not in layers and not f"{name}.".startswith(inside)
    ]
    if any(other.endswith(f".{name}") for other in others for name in layers):
        return "|".join(re.escape(name) for name in layers)
    return layers
