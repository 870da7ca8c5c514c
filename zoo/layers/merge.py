"""Give a network its plain layers back: with what was trained, or as they were before."""

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from torch import nn

from zoo.layers.batched import stop_building
from zoo.layers.fixed_buffers import send_buffers
from zoo.layers.layer import ZooLayer, zoo_layers
from zoo.layers.ties import names_of, put


def merge(model: nn.Module, copy: bool = True) -> nn.Module:
    """Give a network the plain layers that were there before; outputs are the same to 1e-5.

    Layers that share a map and a base then share a weight. One whose base another module has too,
    which stays as it is, gets a weight of its own; transformers' config says then that nothing is
    tied.

    Args:
        model: with parameterized layers; or such a layer itself.
        copy: whether `model` stays as it is, and a copy is merged. Otherwise it is merged itself,
            one layer at a time: beside the network there is never more than one weight.

    Returns:
        The merged network, or where it is a layer itself, the layer in its place.

    Raises:
        UserError: naming a layer of another library whose matrix cannot be had. Nothing was changed
            then.
    """
    for layer in zoo_layers(model).values():
        layer.check_merges()
    plain = deepcopy(model) if copy else model
    stop_building(plain)
    send_buffers(plain)
    tied = [module for module in plain.modules() if _is_tied(module)]
    # Nothing here may hold a layer that was merged, but for a weight that others are to get.
    layers, everything = zoo_layers(plain), names_of(plain)
    names = {name: everything[layer] for name, layer in layers.items()}
    del everything
    keys = {
        name: (id(each.parameterization), *map(id, each.base_parameters), each.scale)
        for name, each in layers.items()
    }
    shared = {key for key, count in Counter(keys.values()).items() if count > 1}
    weights: dict[Any, nn.Parameter] = {}
    for name, key in keys.items():
        layer = layers.pop(name)
        merged = layer.merge()
        if key in shared:
            merged.weight = weights.setdefault(key, merged.weight)  # type: ignore[arg-type]
        plain = put(plain, names[name], merged)
        del layer
    for module in tied:
        first, last = _ends(module)
        if first is None or first.weight is not last.weight:
            module.config.tie_word_embeddings = False  # type: ignore[union-attr]
    return plain


def restore(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Give a network the plain layers that were there before an update, in place.

    They have the parameters that are the bases, and a layer of another library is itself again.

    Args:
        model: with these layers; or such a layer itself.
        names: of layers that have a base.

    Returns:
        `model`; where that is such a layer itself, the layer in its place.
    """
    all_names, layers = names_of(model), zoo_layers(model)
    for name in names:
        model = put(model, all_names[layers[name]], layers[name].restore())
    if not zoo_layers(model):
        stop_building(model)
        send_buffers(model)
    return model


def _is_tied(module: nn.Module) -> bool:
    """Tell whether a network of transformers ties its ends, and one of them is parameterized."""
    if not getattr(getattr(module, "config", None), "tie_word_embeddings", False):
        return False
    first, last = _ends(module)
    return last is not None and any(isinstance(end, ZooLayer) for end in (first, last))


def _ends(module: Any) -> tuple[Any, Any]:
    """Return the layers that embed the first and make the last of a network's tokens."""
    found = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found.append(getattr(module, name, lambda: None)())
        except NotImplementedError:
            found.append(None)
    first, last = found
    return first, last
