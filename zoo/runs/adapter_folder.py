"""The folder of an adapter: its coefficients, what makes maps of them, and a card.

    adapter.safetensors   coefficients by layer, and what was trained besides
    zoo_adapter.json      the class, settings and shape of each layer's map
    README.md             what a reader wants to know

Whatever is in it is data. A class that it names is one of zoo's, or one that the user hands over.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from zoo import __version__, path_today
from zoo.errors import UserError
from zoo.files.access import read_json, write_text
from zoo.files.paths import ADAPTER
from zoo.files.plain import parse_json
from zoo.files.tensors import read_tensors, under_all_names, write_tensors
from zoo.files.trust import NOBODY, Trust, Untrusted
from zoo.layers.convert import Start
from zoo.parameterizations import LoRA, WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory, factory_class
from zoo.runs.peft.adapter import Adapter, Factors, Mapped, Update
from zoo.training.checkpoint_state import plain
from zoo.training.identity import path_of

CONFIG, CARD = "zoo_adapter.json", "README.md"
FORMAT = 1
TENSORS = (ADAPTER, "model.safetensors")
"""Names of the file with the tensors; the second is that which transformers' Trainer looks for."""
PART = ".parameterization."
"""What stands between the names of a layer and of a coefficient."""


@dataclass(frozen=True)
class Stored:
    """An adapter as it lies in a folder.

    Args:
        where: what to call it in a message.
        start: what the layers' weights began as; `update` of frozen weights.
        factories: what makes the map of a layer, by the layer's name.
        scales: s of each layer.
        shapes: (out_features, in_features) of each layer's matrix.
        coefficients: by layer and parameter.
        trained: what was trained besides, by name.
        fingerprints: hashes of the fixed parts of maps, by layer.
        base: what is known of the network: `class` and `name_or_path`.
        source: the hub's repository and commit that training began from, or nothing.
    """

    where: str
    start: Start
    factories: dict[str, ParameterizationFactory]
    scales: dict[str, float]
    shapes: dict[str, tuple[int, int]]
    coefficients: dict[str, dict[str, Tensor]]
    trained: dict[str, Tensor]
    fingerprints: dict[str, str]
    base: dict[str, str]
    source: str = ""


def spec_of(factory: ParameterizationFactory) -> dict[str, Any]:
    """Return the class and settings of a factory as plain data.

    Raises:
        UserError: if it is made by a function, or a setting is no data.
    """
    cls = factory_class(factory)
    if not (isinstance(cls, type) and issubclass(cls, WeightParameterization)):
        raise UserError(
            f"what made the maps, {factory!r}, is no class of parameterizations, and cannot be "
            "written: give zoo.adapt a class and its settings"
        )
    spec: dict[str, Any] = {"class_path": path_of(cls), "init_args": {}}
    for key, value in dict(getattr(factory, "keywords", {})).items():
        spec["init_args"][key] = plain(value)
        try:
            json.dumps(spec["init_args"][key], allow_nan=False)
        except (TypeError, ValueError):
            raise UserError(
                f"{cls.__name__}'s {key} is a {type(value).__name__}, which cannot be written: use "
                "numbers, texts, lists and classes"
            ) from None
    return spec


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
    groups: dict[str, dict[str, Any]] = {}
    for name, factory in stored.factories.items():
        spec = {**spec_of(factory), "scale": stored.scales[name]}
        group = groups.setdefault(json.dumps(spec, sort_keys=True), {**spec, "layers": {}})
        group["layers"][name] = list(stored.shapes[name])
    config = {
        "format": FORMAT,
        "zoo_version": __version__,
        "start": stored.start,
        "base": stored.base,
        "maps": list(groups.values()),
        "trained": sorted(stored.trained),
        "fingerprints": {n: f for n, f in stored.fingerprints.items() if stored.coefficients[n]},
        **({"source": stored.source} if stored.source else {}),
        **({"prefix": prefix} if prefix else {}),
    }
    if tensors_in is not None:
        tensors = {
            f"{layer}{PART}{key}": tensor
            for layer, own in stored.coefficients.items()
            for key, tensor in own.items()
        }
        write_tensors(folder / tensors_in, tensors | stored.trained)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / CARD, card)


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
    config = _Config(where, read_json(folder / CONFIG))
    if (version := config.get("format", int)) != FORMAT:
        raise UserError(f"{where} has format {version}, and this zoo reads {FORMAT}: upgrade zoo")
    if (file := _tensors_of(folder)) is None:
        raise UserError(f"{where} has no {ADAPTER}: use a whole copy")
    prefix = config.get("prefix", str, "")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in _all_of(file, where).items()}
    factories, scales, shapes = {}, {}, {}
    for entry in config.get("maps", list):
        group = _Config(where, entry)
        factory = factory_of(group.values, classes, where, trust)
        scale = group.number("scale")
        for name, shape in group.get("layers", dict).items():
            if name in factories:
                raise UserError(f"{where} is damaged: it has {name} twice; use another copy")
            if not (
                isinstance(shape, list)
                and len(shape) == 2
                and all(type(size) is int and 0 < size < 2**31 for size in shape)
            ):
                raise UserError(f"{where} is damaged: {name} has no shape; use another copy")
            factories[name], scales[name], shapes[name] = factory, scale, (shape[0], shape[1])
    coefficients: dict[str, dict[str, Tensor]] = {name: {} for name in factories}
    trained: dict[str, Tensor] = {}
    declared = set(map(str, config.get("trained", list)))
    for name, tensor in tensors.items():
        layer, part, key = name.rpartition(PART)
        if part and layer in coefficients:
            coefficients[layer][key] = tensor
        elif name in declared:
            trained[name] = tensor
        else:
            raise UserError(f"{where} holds {name}, which its {CONFIG} does not declare")
        if not tensor.isfinite().all():
            raise UserError(
                f"{where} is damaged: {name} holds NaN or infinite values; use one from before"
            )
    if lacking := sorted(declared - trained.keys()):
        raise UserError(f"{where} is damaged: it has no {lacking[0]}; use a whole copy")
    known: dict[tuple[int, tuple[int, int]], dict[str, tuple[int, ...]]] = {}
    for name, own in coefficients.items():
        alike = id(factories[name]), shapes[name]
        if alike not in known:
            known[alike] = _sizes(where, name, factories[name], shapes[name])
        _check_coefficients(where, name, factories[name], known[alike], own)
    prints = config.get("fingerprints", dict, {})
    about = {str(key): str(value) for key, value in config.get("base", dict, {}).items()}
    start = config.get("start", str)
    if start not in get_args(Start):
        raise UserError(f"{where} is damaged: start of {CONFIG}; use another copy")
    return Stored(where, start, factories, scales, shapes, coefficients, trained, prints, about)


def _all_of(file: Path, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file; those that `zoo export` wrote once for several names too."""
    tensors, about = read_tensors(file)
    try:
        return under_all_names(tensors, parse_json(about.get("zoo", "{}")).get("shared", {}))
    except (ValueError, AttributeError):
        raise UserError(f"{where} is damaged: what its tensors share; use another copy") from None


class _Config:
    """A mapping out of a file, whose entries are asked for by type."""

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where} is damaged: {CONFIG} has another form; use another copy")
        self.where, self.values = where, values

    def get(self, key: str, wanted: type, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if type(value) is not wanted:
            raise UserError(f"{self.where} is damaged: {key} of {CONFIG}; use another copy")
        return value

    def number(self, key: str) -> float:
        value: Any = self.values.get(key)
        if type(value) not in (int, float) or not math.isfinite(value) or value == 0:
            raise UserError(f"{self.where} is damaged: {key} of {CONFIG}; use another copy")
        return float(value)


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


def factory_of(
    spec: Mapping[str, Any],
    classes: Sequence[type[WeightParameterization]],
    where: str,
    trust: Trust = NOBODY,
) -> ParameterizationFactory:
    """Return what makes a map, from what a file says of it.

    Raises:
        UserError: if it names a class that is not zoo's own and was not handed over, or gives it
            other than its arguments.
    """
    path, arguments = spec.get("class_path"), spec.get("init_args", {})
    if not isinstance(path, str) or not isinstance(arguments, dict):
        raise UserError(f"{where} is damaged: it names no class; use another copy")
    cls = _class_of(path_today(path), classes, where, trust)
    plain_ones = {key: value for key, value in arguments.items() if not _has_class(value)}
    trust.check_arguments(cls, plain_ones, where)
    made = {key: _value(value, classes, where, trust) for key, value in arguments.items()}
    return functools.partial(cls, **made) if made else cls


def _class_of(
    path: str, classes: Sequence[type[WeightParameterization]], where: str, trust: Trust
) -> type[WeightParameterization]:
    name = path.rpartition(".")[2]
    for cls in classes:
        if path == path_of(cls):
            return cls
    named = [cls for cls in classes if cls.__name__ == name]  # it was another module's then
    if len(named) == 1 and not path.startswith("zoo."):
        return named[0]
    try:
        return trust.find(path, WeightParameterization, where)
    except Untrusted:
        if trust is not NOBODY:
            raise
        raise UserError(
            f"{where} names {path}, which is not zoo's own, and nothing of it was imported: if you "
            f"trust it, hand it over as classes=[{name}]"
        ) from None


def _has_class(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "class_path" in value or any(map(_has_class, value.values()))
    return isinstance(value, list) and any(map(_has_class, value))


def _value(
    value: Any, classes: Sequence[type[WeightParameterization]], where: str, trust: Trust
) -> Any:
    if isinstance(value, Mapping):
        if "class_path" in value:
            return factory_of(value, classes, where, trust)
        return {key: _value(each, classes, where, trust) for key, each in value.items()}
    if isinstance(value, list):
        return [_value(each, classes, where, trust) for each in value]
    return value


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
    name = stored.base.get("class", "")
    config = {
        "peft_type": "of zoo's",
        "task_type": next((t for end, t in TASKS.items() if name.endswith(end)), name),
        "base_model_name_or_path": stored.base.get("name_or_path"),
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
