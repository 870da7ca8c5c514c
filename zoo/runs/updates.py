"""What a run, a peft adapter, a pair of checkpoints or a network in memory changed: dW by layer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.errors import UserError, option
from zoo.files.trust import NOBODY, Trust
from zoo.layers.convert import are_updates, zoo_layers
from zoo.pages.numbers import number_of
from zoo.parameterizations.factory import factory_class
from zoo.runs import adapter_folder, checkpoints, peft
from zoo.runs.checkpoint_runs import adapter_run, checkpoint_run
from zoo.runs.model_runs import own_updates, read_model
from zoo.runs.pairs import difference
from zoo.runs.peft import Factors
from zoo.runs.plain_checkpoints import is_zoo, state_files
from zoo.runs.source import Source, Update, What, check_size, checked, chosen, not_finite

EXPECTED = "give a run's folder, a .ckpt, an adapter.safetensors or a peft adapter's folder"


def read(
    path: str | nn.Module,
    before: str | nn.Module | None = None,
    backbone: str | None = None,
    layers: Sequence[str] | None = None,
    trust: Trust = NOBODY,
    name: str | None = None,
) -> Source:
    """Return the updates of a run or peft adapter, or what a checkpoint has more than another.

    A run with a frozen backbone has dW. One that trained the backbone in full has W minus the W
    that the same settings start from, which is the projection of W0. One from scratch has W. A
    network in memory has what its parameterized layers say: dW of those with a frozen weight.

    Args:
        path: a run's folder, a zoo checkpoint or adapter, or the folder of a peft adapter;
            with `before` also a folder with `model.safetensors` or `pytorch_model.bin`, in one file
            or several, or a file with a state dict. Or a network in memory.
        before: what training started from: a run, a folder, a file or a network, as with `path`.
            Every matrix with the same name in both is compared, as it is stored; embeddings only
            where `layers` names them.
        backbone: where a run's pretrained network is now, if it was moved.
        layers: globs of layer names (`zoo.layers.names.matches`) that choose; all of them by
            default.
        trust: whose classes a run may name.
        name: what a network in memory is called; by default its class.

    Returns:
        The updates that are not 0, float32, on the CPU; `zoo.runs.names.label` gives several
        sources names and groups that tell them apart.

    Raises:
        UserError: if there is nothing to read or no update in it, values are not finite or matrices
            beyond measure, shapes differ, or a glob matches nothing.
    """
    adapter = None
    if not isinstance(path, nn.Module):
        if not Path(path).exists():
            raise UserError(f"no file or folder {path!r}: {EXPECTED}")
        adapter = _peft_folder(Path(path))
    if before is not None:
        if adapter:
            raise UserError(
                f"{path!r} is a peft adapter, which is an update already: drop {option('before')}"
            )
        source = difference(path, before, name, backbone, layers, trust)
        return checked(source, source.conditions["before"])
    if isinstance(path, nn.Module):
        return checked(read_model(path, name, layers))
    return checked(
        _adapter(path, adapter, layers, trust) if adapter else _run(path, backbone, layers, trust)
    )


def _peft_folder(path: Path) -> Path | None:
    folder = peft.find(path)
    if folder is not None and folder == adapter_folder.find_alone(path):
        return folder
    return folder if folder is not None and checkpoints.find(folder) is None else None


# ---- Runs and adapters ---------------------------------------------------------------------------


@torch.no_grad()
def _run(path: str, backbone: str | None, layers: Sequence[str] | None, trust: Trust) -> Source:
    file = checkpoints.find(Path(path))
    if (file is None or not is_zoo(file)) and state_files(Path(path)):
        raise UserError(
            f"{path!r} is a checkpoint alone: give what it was before training as "
            f"{option('before')}"
        )
    if file is None:
        inside = next(
            (str(folder) for folder in sorted(Path(path).glob("*")) if checkpoints.find(folder)),
            None,
        )
        raise UserError(
            f"nothing to analyse in {path!r}: {f'did you mean {inside!r}?' if inside else EXPECTED}"
        )
    model = checkpoints.rebuild(file, backbone, trust=trust)
    for name, tensor in model.trained_state().items():
        if not tensor.isfinite().all():
            raise not_finite(name, repr(path))
    run, notes = checkpoint_run(path, file, model)
    there = zoo_layers(model.net)
    names = chosen(there, layers)
    what: What
    dense = any(layer.dense_phase is not None for layer in there.values())
    if dense or are_updates(there) or model.start != "project":
        what, updates = own_updates(there, names)
        notes += ["trained from scratch: W itself is analysed"] if what == "W" else []
    else:
        what, before = "dW", starting_weights(file, backbone, trust)
        notes.append("trained in full: only the layers that were targets are analysed")
        updates = {
            name: Update(there[name].effective_weight().float() - before[name])
            for name in names
            if name in before
        }
        if drawn := len(names) - len(updates):
            layers_drawn = number_of(drawn, "layer")
            notes.append(f"left out, as it started from random weights: {layers_drawn}")
    return Source(**vars(run), what=what, updates=updates, notes=notes)


@torch.no_grad()
def starting_weights(
    file: Path, backbone: str | None = None, trust: Trust = NOBODY
) -> dict[str, Tensor]:
    """Return the effective weights of a run before training, without those drawn at random.

    Only a run that started from the projection of W0 (`tuning.full`) or from W0 itself (an update)
    has such weights.

    Args:
        file: its checkpoint.
        backbone: where its pretrained network is now.
        trust: whose classes it may name.
    """
    built: list[dict[str, Tensor]] = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = checkpoints.rebuild(file, backbone, trained=False, trust=trust)
        built.append(
            {
                name: layer.effective_weight().float()
                for name, layer in zoo_layers(model.net).items()
            }
        )
    first, second = built
    return {name: weight for name, weight in first.items() if torch.equal(weight, second[name])}


def _adapter(path: str, folder: Path, layers: Sequence[str] | None, trust: Trust) -> Source:
    adapter = peft.read(folder, trust=trust)
    kind = factory_class(next(iter(adapter.updates.values())).factory()).__name__
    updates = {}
    for name in chosen(adapter.updates, layers):
        update = adapter.updates[name]
        if isinstance(update, Factors):
            updates[name] = Update(update.scale * update.B.detach(), update.A.detach())
        elif update.shape is None or update.of_base:
            lacks = "whose weights" if update.of_base else "of which"
            raise UserError(
                f"{path!r} is {adapter.config['peft_type']}, {lacks} only the backbone knows"
                f"{'' if update.of_base else ' how large a matrix is'}: make it a run with zoo "
                f"import {path}"
            )
        else:
            check_size(name, update.shape, repr(path))
            updates[name] = Update(update.matrix(update.shape))
    return Source(
        **vars(adapter_run(path, adapter.config, kind)), what="dW", updates=updates, notes=[]
    )


__all__ = ["Source", "Update", "What", "read", "starting_weights"]
