"""Give a network adapters, or weights that are parameterized from scratch."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from torch import nn

from zoo.api.arguments import check_network, makes_tensors, shown
from zoo.api.record import ATTRIBUTE, Adapter, Record, find_record, named_tensors
from zoo.api.say import say
from zoo.api.scales import scale_rule
from zoo.api.summary import summary
from zoo.api.switching import check_free, set_use, wrap
from zoo.api.targets import Patterns, find_targets, find_tensors, running_statistics
from zoo.api.transformers import trained_by_default, wire
from zoo.errors import UserError, did_you_mean
from zoo.layers.batched import build_together
from zoo.layers.convert import zoo_layers
from zoo.layers.factories import Start
from zoo.layers.layer import ZooLayer
from zoo.layers.swap import make_map, swap, swappable
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory, factory_class

DEFAULT = "default"
"""The name of an adapter that got none."""
Scratch = Literal["random", "project"]
"""Where the weights of a network from scratch begin."""


@makes_tensors
def adapt(
    model: nn.Module,
    cls: ParameterizationFactory,
    *,
    targets: Patterns = "all",
    name: str = DEFAULT,
    train: Patterns | None = None,
    exclude: Patterns = (),
    scale: float = 1.0,
    alpha: float | None = None,
    rslora: bool = False,
    recompute: bool = False,
    **settings: Any,
) -> nn.Module:
    """Give layers of a network trained updates of their weights, and freeze all else.

    The network is changed in place. The update is 0 at the start, so that outputs are what they
    were. Called again with another `name` it gives one more adapter, which is in use from then on.

        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
        >>> net = zoo.adapt(net, zoo.DCT, ratio=0.25, targets="0", train="1")
        >>> list(zoo.trainable(net))
        ['0.parameterization.coef', '1.weight', '1.bias']

    Args:
        model: any network of torch's, such as one of transformers'.
        cls: the parameterization of each update: a class of zoo's or of your own, or a
            `functools.partial` of one.
        targets: the layers that get an update: a preset (`query_value`, `attention`, `mlp` or
            `all`), a glob of layer names such as `blocks.*` or `q_proj`, a compiled regular
            expression of whole names, or a list of such. `all` of a network whose architecture has
            no presets is every linear and convolutional layer, without the output head.
        name: of the adapter: letters, digits, `-` and `_`.
        train: modules or parameters that are trained as they are, by name, glob or regular
            expression: `["classifier", "*LayerNorm"]`. By default the head of a transformer that
            classifies, and nothing of any other network.
        exclude: what is left out of the targets.
        scale: s of y = x (W0 + s W)^T + b; or
        alpha: s = alpha / r, with the rank r that each layer's map has.
        rslora: s = alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).
        recompute: build every W again in backward rather than keep it.
        settings: of the class, such as `ratio` or `rank`.

    Returns:
        `model`; where that is a layer itself, the adapted layer in its place.

    Raises:
        UserError: if no layer matches, the name is taken, the class has no such setting or cannot
            have a layer's shape. The network is then as it was.
    """
    check_network(model)
    factory = bound(cls, settings)
    of_layer = scale_rule(scale, alpha, rslora)
    besides = find_tensors(model, trained_by_default(model) if train is None else train)
    chosen = find_targets(model, targets, exclude, besides)
    model = add(model, name, dict.fromkeys(chosen, factory), of_layer, besides, "update", recompute)
    say(f"{name}: {described(factory)}, {summary(model).line()}")
    return model


@makes_tensors
def parameterize(
    model: nn.Module,
    cls: ParameterizationFactory,
    *,
    targets: Patterns,
    exclude: Patterns = (),
    start: Scratch = "random",
    recompute: bool = False,
    **settings: Any,
) -> nn.Module:
    """Have weights of layers live in a parameterization, from scratch; all else trains as before.

        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
        >>> net = zoo.parameterize(net, zoo.DCT, ratio=0.25, targets="0")
        >>> list(zoo.trainable(net))
        ['0.bias', '0.parameterization.coef', '1.weight', '1.bias']

    Args:
        model: any network of torch's; it is changed in place.
        cls: the parameterization, as in `zoo.adapt`.
        targets: the layers, as in `zoo.adapt`.
        exclude: what is left out of the targets.
        start: `random`, with the root-mean-square of the weight that was there; or `project`, as
            near to that weight as the parameterization allows.
        recompute: build every W again in backward rather than keep it.
        settings: of the class.

    Returns:
        `model`; where that is a layer itself, the layer in its place.

    Raises:
        UserError: as `zoo.adapt`; and if the network is adapted already.
    """
    check_network(model)
    factory = bound(cls, settings)
    if start not in get_args(Scratch):
        raise UserError(f"start must be {' or '.join(get_args(Scratch))}, got {shown(start)}")
    chosen = dict.fromkeys(find_targets(model, targets, exclude), factory)
    model = add(model, DEFAULT, chosen, lambda _: 1.0, (), start, recompute)
    build_together(model)
    say(f"{described(factory)}, {summary(model).line()}")
    return model


# ---- What the settings mean ----------------------------------------------------------------------


def bound(cls: ParameterizationFactory, settings: Mapping[str, Any]) -> ParameterizationFactory:
    """Return a class with its settings, held against its signature.

    Raises:
        UserError: if it is no parameterization, or has no such setting.
    """
    made = factory_class(cls)
    if not callable(cls) or (
        isinstance(made, type) and not issubclass(made, WeightParameterization)
    ):
        raise UserError(f"{cls!r} is no parameterization: give a class such as zoo.DCT")
    if isinstance(cls, WeightParameterization):
        raise UserError(
            f"{type(cls).__name__} is one map, and every layer needs its own: give the class"
        )
    settings = {key: plain_number(value) for key, value in settings.items()}
    known = list(inspect.signature(made).parameters.values())
    is_open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known)
    names = [p.name for p in known[2:]]
    for key in settings:
        if key not in names and not is_open:
            there = f"it has {', '.join(names)}" if names else "it has none"
            raise UserError(
                f"{made.__name__} has no setting {key!r}{did_you_mean(key, names, there)}"
            )
    return functools.partial(cls, **settings) if settings else cls


def plain_number(value: Any) -> Any:
    """Return a number of numpy's or torch's as Python's own, which a file can have."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def described(factory: ParameterizationFactory) -> str:
    """Return a class and its settings, as they were given."""
    settings = ", ".join(f"{k}={v}" for k, v in getattr(factory, "keywords", {}).items())
    return f"{getattr(factory_class(factory), '__name__', factory)}({settings})"


def check_name(name: str) -> None:
    """Refuse a name of an adapter that a state dict could not have.

    Raises:
        UserError: for other signs than letters, digits, `-` and `_`, and for what every module of
            torch's has under this name, as `train`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise UserError(
            f"an adapter's name has letters, digits, '-' and '_', got {shown(name)}: give another"
        )
    if hasattr(nn.ModuleDict(), name):
        raise UserError(
            f"an adapter cannot be called {name!r}, which every module of torch's has for "
            f"something else: give another name, as {name}_1"
        )


# ---- Into the network ----------------------------------------------------------------------------


def add(
    model: nn.Module,
    name: str,
    factories: Mapping[str, ParameterizationFactory],
    scale: Callable[[WeightParameterization], float],
    besides: Iterable[str],
    start: Start,
    recompute: bool = False,
) -> nn.Module:
    """Give a network an adapter, and use it; whatever is wrong is found before anything changes.

    Args:
        model: the network.
        name: of the adapter.
        factories: what makes the map of each layer, by the layer's name.
        scale: finds s of a layer's map.
        besides: names of parameters and buffers that are trained as they are.
        start: `update` of frozen weights; anything else is from scratch.
        recompute: build every W again in backward.

    Raises:
        UserError: if the name is taken, or a map cannot be made.
    """
    check_name(name)
    record = find_record(model)
    if record is None and zoo_layers(model):
        raise UserError(
            "the network has parameterized layers that zoo.adapt did not make: give one without"
        )
    if record is not None:
        check_free(record, "one more adapter")
        if record.start != "update" or start != "update":
            raise UserError(
                "the network has parameterized weights already, and takes them from scratch once"
            )
        if name in record.adapters:
            raise UserError(
                f"the network has an adapter {name!r} already: give another name, or "
                f"zoo.remove(model, {name!r})"
            )
    besides = list(besides)
    if inside := next((n for n in besides if n.removesuffix(".weight") in factories), None):
        raise UserError(
            f"{inside} would be trained as it is, and get an update: leave it out of one of them"
        )
    there = zoo_layers(model)
    maps = tuple(f"{layer}.parameterization." for layer in there)
    if inside := next((n for n in besides if n.startswith(maps)), None):
        raise UserError(f"{inside} is of another adapter: leave it out of what is trained")
    first = sharing(model, factories)
    made = {
        layer: make_map(layer, there[layer], factory, scale)
        for layer, factory in factories.items()
        if first.get(layer) == layer
    }
    new = {layer: factory for layer, factory in factories.items() if layer not in there}
    grads = frozenset(key for key, p in model.named_parameters() if p.requires_grad)
    model = swap(model, new, start=start, scale=scale, recompute=recompute)
    record = record or Record(start=start, needed_grad=grads)
    layers = zoo_layers(model)
    scales = {layer: layers[layer].scale for layer in new}
    scales |= {layer: made[other][1] for layer, other in first.items() if other in made}
    record.adapters[name] = adapter = Adapter(new, {})
    vars(model)[ATTRIBUTE] = record
    if made:
        wrap(layers, record)
    for layer, (space, _) in made.items():
        layers[layer].parameterization.add(name, space, scales[layer])  # type: ignore[operator]
    adapter.factories, adapter.scales = dict(factories), scales
    if start != "update":
        record.weights = {name: 1.0}
        wire(model)
        return model
    for p in model.parameters():
        p.requires_grad_(False)  # of these `set_use` lets those train that are to
    tensors = named_tensors(model, [*dict.fromkeys([*besides, *running_statistics(model)])])
    adapter.trained = {
        key: record.originals.get(key, t).detach().clone() for key, t in tensors.items()
    }
    record.originals = {
        **{key: t.detach().clone() for key, t in tensors.items()},
        **record.originals,
    }
    set_use(model, record, {name: 1.0})
    wire(model)
    return model


def sharing(model: nn.Module, factories: Mapping[str, ParameterizationFactory]) -> dict[str, str]:
    """Return by parameterized layer the first one that has the same maps; most have their own.

    Raises:
        UserError: if layers that have one weight would not get one map between them, as they do in
            a network without adapters.
    """
    layers = {name: each.module for name, each in swappable(model).items()}
    first: dict[str, str] = {}
    owners: dict[nn.Module, str] = {}
    ends: dict[nn.Parameter, str] = {}
    for name, layer in layers.items():
        space = layer.parameterization if isinstance(layer, ZooLayer) else None
        if space is not None:
            first[name] = owners.setdefault(space, name)  # type: ignore[arg-type]
            if factories.get(name) is not factories.get(first[name]):
                raise UserError(
                    f"{name} and {first[name]} share their maps, and would get different ones: "
                    "give both the same"
                )
        weight = layer._parameters.get("weight")
        if weight is not None and name in factories:
            other = ends.setdefault(weight, name)
            if first.get(name) != first.get(other):
                raise UserError(
                    f"{other} and {name} have one weight and no map that they share: leave one of "
                    "them out of the targets"
                )
    return first
