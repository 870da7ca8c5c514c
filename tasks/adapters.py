"""An adapter of peft or of loralib as a task: its network, with the adapter's updates and head."""

from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.causal_lm import CausalLM
from tasks.finetuning import PEFT_TASKS, FineTuning, Tuning
from tasks.glue import GlueClassifier
from tasks.hub import load_skeleton, resize_tokens
from zoo.errors import UserError
from zoo.layers.convert import ParameterizationFactory, dense_weight, linear_layers, zoo_layers
from zoo.layers.names import summary
from zoo.parameterizations import Dense
from zoo.runs.peft import Adapter, Factors, Mapped, OfStack

TIED = ("embed_tokens", "lm_head")
"""Names by which peft knows modules that `ensure_weight_tying` is about."""


def build(adapter: Adapter, backbone: str, task: str | None) -> tuple[FineTuning, dict[str, Any]]:
    """Make the task that an adapter is of, with an update of each of its layers.

    Returned beside it is what the config says of the task's data.

    Raises:
        UserError: if there is no such task, or a layer of the adapter is not in the backbone, or of
            another shape.
    """
    heads = {name: head for head, name in PEFT_TASKS.items()}
    kind = adapter.config.get("task_type", "CAUSAL_LM" if task is None else "SEQ_CLS")
    if kind not in list(heads):  # a list has no hash
        raise UserError(
            f"the adapter's task_type is {kind}, and zoo has tasks for {' and '.join(heads)}"
        )
    if (task is None) == (kind == "SEQ_CLS"):
        remedy = "say of which task of GLUE, as in --task rte" if task is None else "drop --task"
        raise UserError(f"the adapter's task_type is {kind}: {remedy}")
    skeleton = load_skeleton(backbone, heads[kind])
    tokens = other_tokens(adapter, skeleton)
    if tokens is not None:
        resize_tokens(skeleton, tokens)
    check_shapes(adapter, skeleton, backbone)
    apart = untied(adapter, skeleton)
    factories = {name: update.factory() for name, update in adapter.updates.items()}
    factories |= dict.fromkeys(apart, Dense)
    usual = Counter(map(_key, factories.values())).most_common(1)[0][0]
    fixed = {u.scale for u in adapter.updates.values() if isinstance(u, Mapped)}
    if len(fixed) > 1:
        raise UserError(
            f"the adapter's layers have scales {', '.join(f'{s:g}' for s in sorted(fixed))}, and a "
            "task has one: load it in Python, zoo.load"
        )
    scales = [*fixed] or [u.scale for u in adapter.updates.values() if isinstance(u, Factors)]
    frozen = f"{skeleton.base_model_prefix}." if kind == "SEQ_CLS" else ""
    trained = [*adapter.saved, *adapter.changed]
    settings: dict[str, Any] = {
        "backbone": backbone,
        "parameterization": next(
            factory for factory in factories.values() if _key(factory) == usual
        ),
        "targets": list(factories),
        "overrides": {
            name: factory for name, factory in factories.items() if _key(factory) != usual
        },
        "tuning": Tuning(
            scale=Counter(scales).most_common(1)[0][0] if scales else 1.0,
            tokens=tokens,
            train=_modules([name for name in trained if name.startswith(frozen)], skeleton, apart),
        ),
    }
    if kind == "CAUSAL_LM":
        return CausalLM(**settings), {"class_path": "tasks.TokenData", "init_args": {}}
    return GlueClassifier(task=str(task), **settings), {
        "class_path": "tasks.GlueData",
        "init_args": {"task": task},
    }


def _modules(trained: Sequence[str], network: nn.Module, apart: Container[str]) -> list[str]:
    """Return names of modules that are trained whole, and of parameters that are trained alone.

    Args:
        trained: names of parameters.
        network: what has them.
        apart: layers that get a dense update in place of their own weight.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    every, named = set(trained), set()
    for name in trained:
        module = name.rpartition(".")[0]
        if module in apart:
            continue
        known = modules.get(module)
        own = [] if known is None else [key for key, _ in known.named_parameters(recurse=False)]
        whole = all(f"{module}.{key}" in every for key in own)
        named.add(module if whole else name)
    return sorted(named)


def _key(factory: ParameterizationFactory) -> str:
    """Return what is equal for factories of equal parameterizations."""
    return str(factory)


def names_of_parameters(network: nn.Module) -> dict[int, list[str]]:
    """Return all names of each parameter, by its id: tied ones have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def untied(adapter: Adapter, network: nn.Module) -> set[str]:
    """Find linear layers whose weight the adapter has apart from one that it is tied to.

    peft trains copies of modules: of an embedding, while the head that was tied to it stays, or the
    other way round. Here the two stay one matrix, and the layer gets a dense update, which is the
    difference.

    Raises:
        UserError: if none of the two is a linear layer.
    """
    modules = adapter.config.get("modules_to_save")
    ends = [str(name).rpartition(".")[2] for name in modules] if isinstance(modules, list) else []
    if adapter.config.get("ensure_weight_tying") and any(end in TIED for end in ends):
        return set()  # peft has tied its copies as well
    layers, apart = linear_layers(network), set()
    groups = names_of_parameters(network).values()
    for names in (names for names in groups if len(names) > 1):
        values = [adapter.saved[name] for name in names if name in adapter.saved]
        trained_alike = len(values) == len(names) and all(
            torch.equal(value, values[0]) for value in values
        )
        if not values or trained_alike:
            continue
        owners = [name.removesuffix(".weight") for name in names]
        if len(names) != 2 or not (inside := [owner for owner in owners if owner in layers]):
            raise UserError(
                f"the adapter trains {names[0]} apart from {names[1]}, and here they are one "
                "matrix: merge it with peft instead"
            )
        apart.add(inside[-1])
    return apart


def other_tokens(adapter: Adapter, network: Any) -> int | None:
    """Return how many tokens the adapter's tables have, if not as many as the network's."""
    state, known = network.state_dict(), getattr(network.config, "vocab_size", None)
    for name, tensor in [*adapter.saved.items(), *adapter.bases.items()]:
        table = name in state and tensor.ndim == state[name].ndim == 2
        if table and len(state[name]) == known != len(tensor):
            return len(tensor)
    return None


def check_shapes(adapter: Adapter, network: Any, backbone: str) -> None:
    """Refuse an adapter of another backbone.

    Raises:
        UserError: naming the layer that is missing or of another shape.
    """
    layers = linear_layers(network)
    for name, update in adapter.updates.items():
        if isinstance(update, OfStack):
            raise UserError(
                f"the adapter trains {name.partition('.parameter')[0]}, several matrices in one "
                "parameter, which no layer here holds: look into it with zoo analyze, or merge it "
                "with peft instead"
            )
        if name not in layers:
            there = summary(layers)
            raise UserError(
                f"the adapter is for another backbone than {backbone!r}: no {name} in it, but "
                f"{there}"
            )
        out_features, in_features = here = tuple(dense_weight(layers[name]).shape)
        if not update.fits((out_features, in_features)):
            raise UserError(
                f"the adapter is for another backbone than {backbone!r}: {name} is "
                f"{update.size()}, here {here}"
            )


def fill_(model: FineTuning, adapter: Adapter) -> None:
    """Copy updates and other parameters into a model; a scale other than the layer's goes into B.

    Raises:
        UserError: if a parameter is not there, or of another shape: a head of another task; if one
            that is trained, or that the backbone lacks, is not in the adapter; if the adapter was
            trained on another weight than the backbone has.
    """
    layers, state = zoo_layers(model.net), model.net.state_dict()
    whole: dict[str, Tensor] = {}  # of layers that are no longer tied
    names = names_of_parameters(model.net)
    with torch.no_grad():
        for name, base in adapter.bases.items():
            if name not in state or not torch.equal(state[name].float(), base.float()):
                raise UserError(
                    f"the adapter was trained on another {name} than {model.backbone!r} has: give "
                    "the backbone that it was trained on as --backbone"
                )
        for name, tensor in adapter.saved.items():
            if name not in state or state[name].shape != tensor.shape:
                here = tuple(state[name].shape) if name in state else "none"
                option = "--task" if isinstance(model, GlueClassifier) else "--backbone"
                raise UserError(
                    f"the adapter's {name} is {tuple(tensor.shape)}, here {here}: "
                    f"give its own {option}"
                )
        for name, layer in layers.items():
            update = adapter.updates.get(name)
            base = state[f"{name}.weight"]
            dense = isinstance(layer.parameterization, Dense)
            held = update is not None and update.factory() is Dense
            if dense and (not held or any(each in adapter.saved for each in names[id(layer.base)])):
                weight = adapter.saved.get(f"{name}.weight", base).float().clone()
                if update is not None:
                    weight += update.matrix(layer.parameterization.shape, base)
                whole[name] = weight
            elif update is not None:  # else it is called as one of the adapter's ends
                update.fill_(layer.parameterization, base, layer.scale)
        for name, tensor in adapter.saved.items():
            if name.removesuffix(".weight") not in whole:
                state[name].copy_(tensor)
        for name, change in adapter.changed.items():
            state[name].copy_(change(state[name]))
        for name, weight in whole.items():
            coef: Any = layers[name].parameterization.coef
            coef.copy_((weight - state[f"{name}.weight"]) / layers[name].scale)
    trained = {id(p): name for name, p in model.net.named_parameters() if p.requires_grad}
    given = {
        key
        for key, each in names.items()
        if any(name in adapter.saved or name in adapter.changed for name in each)
    }
    needed = [
        name
        for key, name in trained.items()
        if ".parameterization." not in name and key not in given
    ]
    drawn = sorted(name.removeprefix("net.") for name in model.drawn)
    for name in (*needed, *(name for name in drawn if name in state)):
        if name not in adapter.saved:
            raise UserError(
                f"the adapter has no {name}, nor has the backbone: it would be random; use another "
                "one"
            )
