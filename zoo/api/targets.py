"""Which layers of a network are meant: presets, globs and regular expressions."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, get_args

from torch import nn

from zoo.api.arguments import shown
from zoo.errors import UserError, did_you_mean
from zoo.layers.convert import zoo_layers
from zoo.layers.names import matches, summary
from zoo.layers.presets import PRESETS, Preset
from zoo.layers.swap import Swappable, swappable

Pattern = str | re.Pattern[str]
"""A preset's name, a glob of layer names, or a compiled regular expression of whole names."""
Patterns = Pattern | Sequence[Pattern]


def find_targets(
    model: nn.Module,
    targets: Patterns,
    exclude: Patterns = (),
    besides: Collection[str] = (),
) -> list[str]:
    """Return the names of the layers that are meant, in the network's order.

    A preset of an architecture that zoo does not know is refused but for `all`, which is then every
    linear and convolutional layer, without the one that makes the network's output. A glob
    (`zoo.layers.names.matches`) or a regular expression takes linear layers and convolutions, and
    an embedding where it matches none of these.

    Args:
        model: the network.
        targets: what is meant, or a list of such.
        exclude: what is left out of it, likewise.
        besides: names of parameters that are trained as they are, which `all` leaves out.

    Raises:
        UserError: if a pattern matches nothing, or nothing is left.
    """
    layers = swappable(model)
    if not layers:
        raise UserError(
            f"{type(model).__name__} has no layer that could be adapted: linear, convolutional or "
            "embedding; give a network that has"
        )
    chosen: dict[str, None] = {}
    for pattern in _listed(targets, "targets"):
        found = _matched(model, layers, pattern, "targets")
        if pattern == "all":
            found = [name for name in found if f"{name}.weight" not in besides]
        chosen |= dict.fromkeys(found)
    for pattern in _listed(exclude, "exclude"):
        for name in _matched(model, layers, pattern, "exclude"):
            chosen.pop(name, None)
    if not targets:
        raise UserError("targets names no layer: give 'all', or names of layers")
    if not chosen:
        raise UserError("exclude leaves no layer of the targets: give a narrower one")
    return [name for name in layers if name in chosen]


def find_tensors(
    model: nn.Module, patterns: Patterns, argument: str = "train", coefficients: bool = False
) -> list[str]:
    """Return the names of the parameters of modules that patterns match, or that they match alone.

    What a module keeps besides, as running statistics, comes with it. Of a tensor that has several
    names it is the first, whichever of them a pattern matches.

    Args:
        model: the network.
        patterns: as for `find_targets`, without presets.
        argument: what to call them in a message.
        coefficients: whether parameters of maps are among them.

    Raises:
        UserError: if a pattern matches nothing that has a parameter.
    """
    maps = () if coefficients else tuple(f"{name}.parameterization" for name in zoo_layers(model))
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    modules = [name for name in modules if not name.startswith(maps)]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = [*parameters, *persistent_buffers(model)]
    state = [name for name in state if not name.startswith(maps)]
    first: dict[int, str] = {}
    for name, p in parameters.items():
        first.setdefault(id(p), name)
    found: dict[str, None] = {}
    for pattern in _listed(patterns, argument):
        inside = tuple(f"{name}." for name in modules if is_match(name, pattern))
        own = [name for name in state if name.startswith(inside) or is_match(name, pattern)]
        if not own:
            ends = dict.fromkeys(name.rpartition(".")[2] for name in (*modules, *state))
            words = [end for end in ends if not end.isdigit()]
            near = did_you_mean(_text(pattern), words, f"there are {', '.join(words[:12])}", 3)
            raise UserError(
                f"{argument}: {shown(_text(pattern))} matches no module or parameter{near}"
            )
        names = (first[id(parameters[n])] if n in parameters else n for n in own)
        found |= dict.fromkeys(names)
    return list(found)


def running_statistics(model: nn.Module) -> list[str]:
    """Return the names of statistics that a pass in train mode changes, whatever is frozen."""
    modules = dict(model.named_modules())
    return [
        name
        for name in persistent_buffers(model)
        if getattr(modules[name.rpartition(".")[0]], "track_running_stats", False)
    ]


def persistent_buffers(model: nn.Module) -> list[str]:
    """Return the names of the buffers that are in the state dict."""
    return [
        f"{owner}.{name}".lstrip(".")
        for owner, module in model.named_modules()
        for name in module._buffers
        if name not in module._non_persistent_buffers_set and module._buffers[name] is not None
    ]


def is_match(name: str, pattern: Pattern) -> bool:
    """Tell whether a glob matches a name, or a regular expression the whole of it."""
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return matches(name, pattern)


def _matched(
    model: nn.Module, layers: Mapping[str, Swappable], pattern: Pattern, argument: str
) -> list[str]:
    """Return the names of the layers that one pattern of an argument means.

    Raises:
        UserError: if there are none.
    """
    globs: Iterable[Pattern] = [pattern]
    if pattern in get_args(Preset) and not any(is_match(name, pattern) for name in layers):
        architecture = getattr(getattr(model, "config", None), "model_type", None)
        if architecture in PRESETS:
            presets = PRESETS[architecture]
            both = (*presets["attention"], *presets["mlp"])
            globs = both if pattern == "all" else presets[str(pattern)]
        elif pattern == "all":
            head = getattr(model, "get_output_embeddings", lambda: None)()
            return [
                name
                for name, layer in layers.items()
                if layer.kind != "embedding" and layer.module is not head
            ]
        else:
            raise UserError(
                f"{argument} {pattern!r} is unknown for a {architecture or type(model).__name__}: "
                f"name layers, or give 'all'; there are {summary(layers)}"
            )
    found = [name for name in layers if any(is_match(name, glob) for glob in globs)]
    # `blocks.*` means the weights that multiply; who wants the embedding names it.
    plain = [name for name in found if layers[name].kind != "embedding"]
    if not found:
        near = did_you_mean(_text(pattern), _words(layers), f"there are {summary(layers)}", 3)
        raise UserError(f"{argument}: {shown(_text(pattern))} matches no layer{near}")
    return plain or found


def _listed(patterns: Patterns, argument: str) -> list[Pattern]:
    """Return a list of one or several patterns.

    Raises:
        UserError: for anything that is no pattern.
    """
    alone = isinstance(patterns, str | bytes | re.Pattern) or not isinstance(patterns, Iterable)
    several: list[Any] = [patterns] if alone else list(patterns)  # type: ignore[arg-type]
    for each in several:
        text = each.pattern if isinstance(each, re.Pattern) else each
        if not isinstance(text, str) or each == "":
            raise UserError(
                f"{argument}: {shown(each)} names no layers: give a preset, a glob such as "
                "'blocks.*', a compiled regular expression, or a list of these"
            )
    return several


def _words(names: Iterable[str]) -> list[str]:
    """Return names of layers and the ends of them, which a typing error may be near to."""
    return list(dict.fromkeys(word for name in names for word in (name, name.rpartition(".")[2])))


def _text(pattern: Pattern) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
