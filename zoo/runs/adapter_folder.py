"""The folder of an adapter: its coefficients, what makes maps of them, and a card.

    adapter.safetensors   coefficients by layer, and what was trained besides
    zoo_adapter.json      class, settings and shape of each map (`zoo.runs.adapter_config`)
    README.md             what a reader wants to know

Whatever is in it is data. A class that it names is one of zoo's, or one that the user hands over.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.files.access import write_text
from zoo.files.paths import ADAPTER
from zoo.files.plain import parse_json
from zoo.files.tensors import read_tensors, under_all_names, write_tensors
from zoo.files.trust import NOBODY, Trust
from zoo.layers.plain import DTYPES
from zoo.parameterizations import LoRA, WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory, factory_class
from zoo.runs.adapter_config import CONFIG, Settings, read_settings, written
from zoo.runs.peft.adapter import Adapter, Factors, Mapped, Update

CARD = "README.md"
TENSORS = (ADAPTER, "model.safetensors")
"""Names of the file with the tensors; the second is that which transformers' Trainer looks for."""
MARK = "zoo_fingerprint"
"""The name of `mark_of` in a checkpoint of transformers' Trainer, which reads no other file."""
PART = ".parameterization."
"""What stands between the names of a layer and of a coefficient."""


@dataclass(frozen=True, kw_only=True)
class Stored(Settings):
    """An adapter as it lies in a folder.

    Args:
        where: what to call it in a message.
        coefficients: by layer and parameter.
        trained: what was trained besides, by name.
    """

    where: str
    coefficients: dict[str, dict[str, Tensor]]
    trained: dict[str, Tensor]


def write(
    folder: Path,
    stored: Stored,
    card: str,
    prefix: str = "",
    tensors_in: str | None = ADAPTER,
) -> None:
    """Write an adapter into a folder.

    Args:
        folder: which is there.
        stored: the adapter.
        card: the text of its README.md.
        prefix: what the names of the network's tensors begin with in the file.
        tensors_in: the name of the file with the tensors; None if it is there already.
    """
    config = written(stored, sorted(stored.trained), prefix)
    if tensors_in is not None:
        tensors = {
            f"{layer}{PART}{key}": tensor
            for layer, own in stored.coefficients.items()
            for key, tensor in own.items()
        }
        if tensors_in == TENSORS[1]:
            tensors[MARK] = mark_of(stored.fingerprints)
        write_tensors(folder / tensors_in, tensors | stored.trained)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / CARD, card)


def mark_of(fingerprints: Mapping[str, str]) -> Tensor:
    """Return the hash of maps' hashes as a tensor, which whoever loads a state dict can compare."""
    text = json.dumps(fingerprints, sort_keys=True)
    return torch.frombuffer(bytearray(sha256(text.encode()).digest()), dtype=torch.uint8)


# ---- Read again ----------------------------------------------------------------------------------


def find(path: Path) -> Path | None:
    """Return the folder of an adapter that a path stands for: itself, or that of its files."""
    folder = path.parent if path.is_file() and path.name in (CONFIG, *TENSORS) else path
    return folder if (folder / CONFIG).is_file() else None


def find_alone(path: Path) -> Path | None:
    """Return the folder of an adapter of no task, which a command reads by this module.

    One that `zoo export` wrote has its task in the same file, and is a run to every command.
    """
    folder = find(path)
    file = None if folder is None else _tensors_of(folder)
    return None if file is None or "zoo" in read_tensors(file, ())[1] else folder


def _tensors_of(folder: Path) -> Path | None:
    return next((folder / name for name in TENSORS if (folder / name).is_file()), None)


def read(
    folder: Path,
    classes: Sequence[type[WeightParameterization]] = (),
    where: str = "",
    trust: Trust = NOBODY,
) -> Stored:
    """Read an adapter, and check all that can be checked without its network.

    Args:
        folder: with a `zoo_adapter.json`.
        classes: of the user's own, which it may name.
        where: what to call it.
        trust: which classes besides zoo's own and these it may name.

    Raises:
        UserError: if it is damaged, of a later version of zoo's, or names a class that was not
            handed over; nothing was imported then.
    """
    where = where or f"adapter '{folder}'"
    settings, declared, prefix = read_settings(folder, classes, where, trust)
    if (file := _tensors_of(folder)) is None:
        raise UserError(f"{where} has no {ADAPTER}: use a whole copy")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in _all_of(file, where).items()}
    tensors.pop(MARK, None)
    coefficients: dict[str, dict[str, Tensor]] = {name: {} for name in settings.factories}
    trained: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, part, key = name.rpartition(PART)
        if part and layer in coefficients:
            coefficients[layer][key] = tensor
        elif name in declared:
            trained[name] = tensor
        else:
            raise UserError(f"{where} holds {name:.200}, which its {CONFIG} does not declare")
        if tensor.dtype not in DTYPES and (tensor.is_floating_point() or tensor.is_complex()):
            raise UserError(f"{where} is damaged: {name} is {tensor.dtype}; use another copy")
        if not tensor.isfinite().all():
            raise UserError(
                f"{where} is damaged: {name} holds NaN or infinite values; use one from before"
            )
    if lacking := sorted(declared - trained.keys()):
        raise UserError(f"{where} is damaged: it has no {lacking[0]}; use a whole copy")
    known: dict[tuple[int, tuple[int, int]], dict[str, tuple[int, ...]]] = {}
    for name, own in coefficients.items():
        factory, shape = settings.factories[name], settings.shapes[name]
        if (alike := (id(factory), shape)) not in known:
            known[alike] = _sizes(where, name, factory, shape)
        _check_coefficients(where, name, factory, known[alike], own)
    return Stored(where=where, coefficients=coefficients, trained=trained, **vars(settings))


def _all_of(file: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file; those that `zoo export` wrote once for several names too."""
    tensors, about = read_tensors(file)
    try:
        return under_all_names(tensors, parse_json(about.get("zoo", "{}")).get("shared", {}))
    except (ValueError, AttributeError):
        raise UserError(f"{where} is damaged: what its tensors share; use another copy") from None


def _sizes(
    where: str, layer: str, factory: ParameterizationFactory, shape: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a map's coefficients, which is made without memory."""
    try:
        with torch.device("meta"):
            made = factory(*shape)
    except Exception as error:  # a user's own class can raise anything
        name = factory_class(factory).__name__
        raise UserError(f"{where}: {layer}: {name} cannot be made ({error})") from error
    return {key: tuple(p.shape) for key, p in made.named_parameters()}


def _check_coefficients(
    where: str,
    layer: str,
    factory: ParameterizationFactory,
    mine: Mapping[str, tuple[int, ...]],
    own: Mapping[str, Tensor],
) -> None:
    """Raise UserError if a layer's map has other coefficients than the file."""
    theirs = {key: tuple(tensor.shape) for key, tensor in own.items()}
    if mine != theirs:
        raise UserError(
            f"{where} is damaged, or of another version of {factory_class(factory).__name__}: "
            f"{layer} has {theirs or 'no coefficients'}, and needs {mine}"
        )
    if any(not tensor.is_floating_point() for tensor in own.values()):
        raise UserError(f"{where} is damaged: {layer} has whole numbers; use another copy")


# ---- As any other adapter ------------------------------------------------------------------------

TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""Ends of the names of transformers' classes, and what peft calls their task."""


def as_adapter(stored: Stored) -> Adapter:
    """Return an adapter as commands have those of peft, which they read without the network.

    Raises:
        UserError: if it is a network from scratch.
    """
    if stored.start != "update":
        raise UserError(
            f"{stored.where} is a network from scratch, which no command can make: load it in "
            "Python, zoo.load"
        )
    name = stored.about.base.get("class", "")
    config = {
        "peft_type": "of zoo's",
        "task_type": next((t for end, t in TASKS.items() if name.endswith(end)), name),
        "base_model_name_or_path": stored.about.base.get("name_or_path"),
    }
    updates: dict[str, Update] = {}
    for layer, factory in stored.factories.items():
        own, scale = stored.coefficients[layer], stored.scales[layer]
        if factory_class(factory) is LoRA:
            updates[layer] = Factors(own["lora_A"], own["lora_B"], scale)
        else:
            updates[layer] = Mapped(
                factory,
                own,
                stored.shapes[layer],
                scale=scale,
                layer=layer,
                fingerprint=stored.fingerprints.get(layer),
            )
    return Adapter(config, updates, dict(stored.trained), {})
