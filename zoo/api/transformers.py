"""What a network of transformers' needs besides: its head, its Trainer's checkpoints, quantization.

transformers is not imported here: a network that it made is known by what it has.
"""

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.api.record import Record, find_record, maps_of
from zoo.errors import UserError
from zoo.layers.adapters import Adapters
from zoo.runs.adapter_folder import MARK, mark_of

SAVE = "save_pretrained"
FLAG = "_hf_peft_config_loaded"
"""The attribute by which transformers' Trainer tells that a quantized network can be trained.

It is set on quantized networks alone. `save_pretrained`, which would hand such a network to peft,
is `SavePretrained` here; gradient checkpointing takes the flag for what it is, that what is frozen
must pass gradients on.
"""


def trained_by_default(model: nn.Module) -> list[str]:
    """Return the modules of the head of a transformer that classifies, which was drawn at random.

    They are what lies beside its base model; nothing of a network that has output embeddings, as
    language models have, or of one that is no transformer.
    """
    inner = getattr(model, "base_model", None)
    if not isinstance(inner, nn.Module) or inner is model or not hasattr(model, "config"):
        return []
    if getattr(model, "get_output_embeddings", lambda: None)() is not None:
        return []
    return [
        name
        for name, module in model.named_children()
        if module is not inner and next(module.parameters(), None) is not None
    ]


class SavePretrained:
    """What an adapted network has as `save_pretrained`: it writes the adapter alone.

    The tensors are in `model.safetensors`, which is where the Trainer looks for what a checkpoint
    holds, and the folder is one that `zoo.load` takes. The network has this object and is not held
    by it.

    Args:
        model: an adapted network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Write the adapter in use into a folder, over one that is there.

        Args:
            save_directory: the folder, which is made if need be.
            is_main_process: whether this process is the one that writes.
            state_dict: the network's, where its parts were gathered from several processes.
        """
        from zoo.api.saving import write_checkpoint

        if is_main_process and (model := self._model()) is not None:
            write_checkpoint(model, Path(save_directory), state_dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SavePretrained":
        """Serve the network's copy, which is known before what it has is copied."""
        model = self._model()
        return self if model is None else SavePretrained(memo.get(id(model), model))

    def __reduce__(self) -> tuple[Any, ...]:
        return SavePretrained, (self._model(),)


class Loading:
    """Lets a state dict with an adapter alone be the whole of a network's.

    As a hook before loading it holds the bases that coefficients were trained in against those of
    the network, and gives coefficients the names that they have where a layer holds several
    adapters; as one after it takes what is frozen from the names that were missing.
    """

    def __call__(self, model: nn.Module, state: Any, *more: Any) -> None:
        """Serve as the hook that was called: torch gives the one before loading more arguments.

        Raises:
            UserError: if the coefficients belong to other bases.
        """
        record = find_record(model)
        if record is None:
            return
        if more:
            self._compare(model, record, state.pop(f"{more[0]}{MARK}", None))
        if record.start != "update":
            return
        if more:
            self._rename(model, record, state, more[0])
        else:
            self._forgive(model, record, state.missing_keys)

    def _compare(self, model: nn.Module, record: Record, mark: Tensor | None) -> None:
        if mark is None or (name := record.alone()) is None:
            return
        maps = maps_of(model, name).items()
        here = mark_of({layer: space.fingerprint() for layer, (_, space) in maps})
        if not torch.equal(mark.cpu(), here):
            raise UserError(
                "the checkpoint's coefficients belong to other bases than this network's: adapt it "
                "with the class, settings, seed and targets that it was trained with"
            )

    def _rename(self, model: nn.Module, record: Record, state: Any, prefix: str) -> None:
        if (name := record.alone()) is None:
            return
        for layer in record.adapters[name].factories:
            part = f"{prefix}{layer}.parameterization."
            holder = model.get_submodule(layer).parameterization
            if isinstance(holder, Adapters):
                for key in [k for k in state if k.startswith(part)]:
                    if not key.startswith(f"{part}maps."):
                        state[f"{part}maps.{name}.{key[len(part) :]}"] = state.pop(key)

    def _forgive(self, model: nn.Module, record: Record, missing: list[str]) -> None:
        needed = {name for name, p in model.named_parameters() if p.requires_grad}
        if (name := record.alone()) is not None:
            needed |= record.adapters[name].trained.keys()
        missing[:] = [name for name in missing if name in needed]


def wire(model: nn.Module) -> None:
    """Have a network of transformers' save its adapter, and load it, as its own checkpoints."""
    if not (hasattr(type(model), SAVE) and hasattr(model, "config")) or SAVE in vars(model):
        return
    vars(model)[SAVE] = SavePretrained(model)
    model.register_load_state_dict_pre_hook(Loading())
    model.register_load_state_dict_post_hook(Loading())
    if getattr(model, "is_quantized", False):
        vars(model)[FLAG] = True


def unwire(model: nn.Module) -> None:
    """Have a network of transformers' save itself again."""
    if isinstance(vars(model).get(SAVE), SavePretrained):
        del vars(model)[SAVE]
        vars(model).pop(FLAG, None)
        for hooks in (model._load_state_dict_pre_hooks, model._load_state_dict_post_hooks):
            for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
                del hooks[key]


def _is_ours(hook: Any) -> bool:
    """Tell whether a hook is `Loading`, which torch may have wrapped."""
    return isinstance(getattr(hook, "hook", hook), Loading)
