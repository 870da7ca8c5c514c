"""A LoRA adapter of Hugging Face's peft as a task: the network it belongs to, with its factors and head."""

import functools
from collections import Counter
from typing import Any

import torch

from tasks.causal_lm import CausalLM
from tasks.finetuning import PEFT_TASKS, Tuning
from tasks.glue import GlueClassifier
from tasks.hub import load_skeleton
from zoo.convert import dense_weight, linear_layers, summary, zoo_layers
from zoo.errors import UserError
from zoo.module import ZooModule
from zoo.parameterizations import LoRA
from zoo.peft import LoRAAdapter


def build(adapter: LoRAAdapter, backbone: str, task: str | None) -> tuple[ZooModule, dict[str, Any]]:
    """The task that an adapter is of, with an update of each of its layers; and what the config says of its data.

    Raises:
        UserError: if there is no such task, or a layer of the adapter is not in the backbone, or of another shape.
    """
    heads = {name: head for head, name in PEFT_TASKS.items()}
    kind = adapter.config.get("task_type")
    if kind not in list(heads):  # a list has no hash
        raise UserError(f"the adapter's task_type is {kind}, and zoo has tasks for {' and '.join(heads)}")
    if (task is None) == (kind == "SEQ_CLS"):
        remedy = "say of which task of GLUE, as in --task rte" if task is None else "drop --task"
        raise UserError(f"the adapter's task_type is {kind}: {remedy}")
    skeleton = load_skeleton(backbone, heads[kind])
    check_shapes(adapter, skeleton, backbone)
    ranks = {name: len(factors.A) for name, factors in adapter.factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    scale = Counter(factors.scale for factors in adapter.factors.values()).most_common(1)[0][0]
    frozen = f"{skeleton.base_model_prefix}." if kind == "SEQ_CLS" else ""
    settings: dict[str, Any] = {
        "backbone": backbone,
        "parameterization": functools.partial(LoRA, rank=rank),
        "targets": list(ranks),
        "overrides": {name: functools.partial(LoRA, rank=r) for name, r in ranks.items() if r != rank},
        "tuning": Tuning(
            scale=scale, train=sorted({n.rpartition(".")[0] for n in adapter.saved if n.startswith(frozen)})
        ),
    }
    if task is None:
        return CausalLM(**settings), {"class_path": "tasks.TokenData", "init_args": {}}
    return GlueClassifier(task=task, **settings), {"class_path": "tasks.GlueData", "init_args": {"task": task}}


def check_shapes(adapter: LoRAAdapter, network: Any, backbone: str) -> None:
    """Refuse an adapter of another backbone.

    Raises:
        UserError: naming the layer that is missing or of another shape.
    """
    layers = linear_layers(network)
    for name, factors in adapter.factors.items():
        theirs = (len(factors.B), factors.A.shape[1])
        if name not in layers:
            there = summary(layers)
            raise UserError(f"the adapter is for another backbone than {backbone!r}: no {name} in it, but {there}")
        if theirs != tuple(dense_weight(layers[name]).shape):
            shapes = f"{theirs}, here {tuple(dense_weight(layers[name]).shape)}"
            raise UserError(f"the adapter is for another backbone than {backbone!r}: {name} is {shapes}")


def fill_(model: ZooModule, adapter: LoRAAdapter) -> None:
    """Copy factors and other parameters into a model; a scale other than the layer's goes into B.

    Raises:
        UserError: if a parameter is not there, or of another shape: a head of another task; if one that is trained is
            not in the adapter, or would be trained apart from another that it is one matrix with.
    """
    layers, state = zoo_layers(model.net), model.net.state_dict()
    with torch.no_grad():
        for name, factors in adapter.factors.items():
            layers[name].parameterization.lora_A.copy_(factors.A)  # type: ignore[operator, union-attr]
            ratio = factors.scale / layers[name].scale
            layers[name].parameterization.lora_B.copy_(factors.B * ratio)  # type: ignore[operator, union-attr]
        for name, tensor in adapter.saved.items():
            if name not in state or state[name].shape != tensor.shape:
                here = tuple(state[name].shape) if name in state else "none"
                raise UserError(f"the adapter's {name} is {tuple(tensor.shape)}, here {here}: give its own --task")
            for other, value in state.items():
                tied = other != name and value.data_ptr() == state[name].data_ptr()
                if tied and not torch.equal(adapter.saved.get(other, value), tensor):
                    apart = f"the adapter trains {name} apart from {other}, and here they are one matrix"
                    raise UserError(f"{apart}: merge it with peft instead")
            state[name].copy_(tensor)
    for name, parameter in model.net.named_parameters():
        if parameter.requires_grad and ".parameterization." not in name and name not in adapter.saved:
            raise UserError(f"the adapter has no {name}, which is trained: it would be random; use another one")
