"""What `zoo_adapter.json` says of an adapter, written and read: what makes its maps, and of what.

    {"format": 1, "zoo_version": ..., "start": "update",
     "base": {"class": ..., "name_or_path": ...}, "source": ..., "data": ..., "metrics": {name: x},
     "maps": [{"class_path": ..., "init_args": {...}, "scale": s, "layers": {name: [m, n]}}],
     "trained": [names], "fingerprints": {name: hash}, "prefix": ...}

It may be anyone's. A class that it names is one of zoo's, or one that the user hands over.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from zoo import __version__, path_today
from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.files.entries import Entries
from zoo.files.trust import NOBODY, Trust, Untrusted
from zoo.layers.convert import Start
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory, factory_class
from zoo.training.checkpoint_state import plain
from zoo.training.identity import path_of

CONFIG = "zoo_adapter.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class About:
    """Where an adapter comes from and what it reached, as its card has it.

    Args:
        base: what is known of the network: `class` and `name_or_path`.
        source: the hub's repository and commit that training began from, or nothing.
        data: what it was trained on, or nothing.
        metrics: what it reached, by name.
    """

    base: dict[str, str]
    source: str = ""
    data: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What makes an adapter's maps, and where it comes from.

    Args:
        start: what the layers' weights began as; `update` of frozen weights.
        factories: what makes the map of a layer, by the layer's name.
        scales: s of each layer.
        shapes: (out_features, in_features) of each layer's matrix.
        fingerprints: hashes of the fixed parts of maps, by layer.
        about: for the card.
    """

    start: Start
    factories: dict[str, ParameterizationFactory]
    scales: dict[str, float]
    shapes: dict[str, tuple[int, int]]
    fingerprints: dict[str, str]
    about: About


# ---- Written -------------------------------------------------------------------------------------


def written(settings: Settings, trained: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return settings as plain data.

    Args:
        settings: of the adapter.
        trained: names of what was trained besides.
        prefix: what the names of the network's tensors begin with in the file.

    Raises:
        UserError: if a map cannot be written (`spec_of`).
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, factory in settings.factories.items():
        spec = {**spec_of(factory), "scale": settings.scales[name]}
        group = groups.setdefault(json.dumps(spec, sort_keys=True), {**spec, "layers": {}})
        group["layers"][name] = list(settings.shapes[name])
    about = settings.about
    known = {"source": about.source, "data": about.data, "metrics": about.metrics, "prefix": prefix}
    return {
        "format": FORMAT,
        "zoo_version": __version__,
        "start": settings.start,
        "base": about.base,
        "maps": list(groups.values()),
        "trained": list(trained),
        "fingerprints": settings.fingerprints,
        **{key: value for key, value in known.items() if value},
    }


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


# ---- Read again ----------------------------------------------------------------------------------


def read_settings(
    folder: Path,
    classes: Sequence[type[WeightParameterization]],
    where: str,
    trust: Trust = NOBODY,
) -> tuple[Settings, set[str], str]:
    """Read the settings of an adapter.

    Args:
        folder: with the file.
        classes: of the user's own, which it may name.
        where: what to call the adapter.
        trust: which classes besides zoo's own and these it may name.

    Returns:
        The settings, names of what was trained besides, and what names of tensors begin with.

    Raises:
        UserError: if they are damaged, of a later version of zoo's, or name a class that was not
            handed over; nothing was imported then.
    """
    config = Entries(where, CONFIG, read_json(folder / CONFIG))
    if (version := config.get("format", int)) != FORMAT:
        raise UserError(f"{where} has format {version}, and this zoo reads {FORMAT}: upgrade zoo")
    factories, scales, shapes = {}, {}, {}
    for entry in config.get("maps", list):
        group = Entries(where, CONFIG, entry)
        factory = factory_of(group.values, classes, where, trust)
        scale = group.number("scale")
        for name, shape in group.get("layers", dict).items():
            if name in factories:
                raise UserError(f"{where} is damaged: it has {name} twice; use another copy")
            factories[name], scales[name], shapes[name] = factory, scale, group.shape(name, shape)
    prints = config.get("fingerprints", dict, {})
    if not all(isinstance(text, str) and len(text) <= 1000 for text in prints.values()):
        raise config.damaged("fingerprints")
    start = config.get("start", str)
    if start not in get_args(Start):
        raise config.damaged("start")
    settings = Settings(
        start=start,
        factories=factories,
        scales=scales,
        shapes=shapes,
        fingerprints=prints,
        about=_about(config),
    )
    declared = set(map(str, config.get("trained", list)))
    return settings, declared, config.get("prefix", str, "")


def _about(config: Entries) -> About:
    """Return where an adapter comes from; folders of before say less."""
    metrics = config.get("metrics", dict, {})
    if not all(type(x) is float or type(x) is int and abs(x) < 2**53 for x in metrics.values()):
        raise config.damaged("metrics")
    return About(
        base={str(key): str(value) for key, value in config.get("base", dict, {}).items()},
        source=config.get("source", str, ""),
        data=config.get("data", str, ""),
        metrics=metrics,
    )


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
