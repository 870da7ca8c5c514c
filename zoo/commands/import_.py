"""`zoo import`: a LoRA adapter of Hugging Face's peft as a run, to validate, look into or export."""

import functools
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.arguments import parse
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.module import ZooModule
    from zoo.peft import LoRAAdapter

OPTIONS: dict[str, dict[str, Any]] = {
    "adapter": {"help": "a folder with adapter_config.json and adapter_model.safetensors"},
    "--backbone": {"default": None, "help": "a folder or name; by default the one that the adapter names"},
    "--task": {"default": None, "help": "of GLUE, for a sequence classifier"},
    "--output": {"default": None, "help": "a new folder; by default runs/<name of the adapter's>"},
}


def main(argv: list[str]) -> int:
    """Write the run, and print where it is."""
    options = parse("import", __doc__ or "", argv, OPTIONS)
    folder = import_adapter(**vars(options))
    print(f"run             {folder}")
    print(f"look            zoo validate --ckpt_path {folder}")
    return 0


def import_adapter(adapter: str, backbone: str | None, task: str | None, output: str | None) -> Path:
    """Write a run with the adapter's factors and head, whole or not at all; its folder.

    Raises:
        UserError: if the folder holds no LoRA adapter, or one of another backbone or task.
    """
    import torch
    import yaml

    import tasks
    from zoo import checkpoints
    from zoo.files import new_folder
    from zoo.peft import read_lora

    found = read_lora(Path(adapter))
    backbone = backbone or found.config.get("base_model_name_or_path")
    if not backbone:
        raise UserError(f"adapter {adapter!r} names no backbone: give one as --backbone")
    target = Path(output) if output else Path("runs") / Path(adapter).resolve().name
    with new_folder(target) as part:
        try:
            model, data = build(found, str(backbone), task)
        except UserError as error:  # names the options of fit
            raise UserError(re.sub(r"--(model|data)\.(backbone|task)\b", r"--\2", str(error))) from error
        fill_(model, found)
        linked = {target.rpartition(".")[2] for target in tasks.LINKS.values()}  # the command line takes them from data
        init_args = {k: v for k, v in model.hparams.items() if k not in {"_instantiator", "seed", *linked}}
        class_path = f"tasks.{type(model).__name__}"
        config = {"model": {"class_path": class_path, "init_args": init_args}, "data": data}
        (part / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (part / "checkpoints").mkdir()
        torch.save(checkpoints.snapshot(model), part / "checkpoints" / "last.ckpt")
    return target


def build(adapter: "LoRAAdapter", backbone: str, task: str | None) -> tuple["ZooModule", dict[str, Any]]:
    """The task that an adapter is of, with an update of each of its layers; and what the config says of its data.

    Raises:
        UserError: if there is no such task, or a layer of the adapter is not in the backbone, or of another shape.
    """
    from tasks import CausalLM, GlueClassifier
    from tasks.finetuning import PEFT_TASKS, Tuning
    from tasks.hub import load_skeleton
    from zoo.parameterizations import LoRA

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


def check_shapes(adapter: "LoRAAdapter", network: Any, backbone: str) -> None:
    """Refuse an adapter of another backbone.

    Raises:
        UserError: naming the layer that is missing or of another shape.
    """
    from zoo.convert import dense_weight, linear_layers, summary

    layers = linear_layers(network)
    for name, factors in adapter.factors.items():
        theirs = (len(factors.B), factors.A.shape[1])
        if name not in layers:
            there = summary(layers)
            raise UserError(f"the adapter is for another backbone than {backbone!r}: no {name} in it, but {there}")
        if theirs != tuple(dense_weight(layers[name]).shape):
            shapes = f"{theirs}, here {tuple(dense_weight(layers[name]).shape)}"
            raise UserError(f"the adapter is for another backbone than {backbone!r}: {name} is {shapes}")


def fill_(model: "ZooModule", adapter: "LoRAAdapter") -> None:
    """Copy factors and other parameters into a model; a scale other than the layer's goes into B.

    Raises:
        UserError: if a parameter is not there, or of another shape: a head of another task; if one that is trained is
            not in the adapter, or would be trained apart from another that it is one matrix with.
    """
    import torch

    from zoo.convert import zoo_layers

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
