"""Which of a network's adapters is in use: one, several by weights, one a row, or none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from zoo.api.arguments import makes_tensors, numbers_by_name, shown
from zoo.api.record import ATTRIBUTE, Record, named_tensors, record_of, update_record_of
from zoo.api.transformers import unwire
from zoo.errors import UserError
from zoo.layers.adapters import Adapters, RowByRow
from zoo.layers.convert import merge, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.layers.merge import restore
from zoo.parameterizations import WeightParameterization


@makes_tensors
def use(model: nn.Module, adapters: str | Mapping[str, float] | None) -> nn.Module:
    """Have a network use one of its adapters, several by weights, or none.

    One adapter that is named is trained from now on, and no other; of several by weights none is.
    With weights a_i the network is that with W0 + sum_i a_i dW_i, and so is all that adapters train
    besides: p0 + sum_i a_i (p_i - p0).

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2, name="fr")
        >>> net = zoo.adapt(net, zoo.DCT, ratio=0.25, name="law")
        >>> net = zoo.use(net, {"fr": 0.5, "law": 0.5})
        >>> net = zoo.use(net, "fr")

    Args:
        model: an adapted network.
        adapters: a name; weights by name; or None for the network without any.

    Raises:
        UserError: if there is no adapter of a name.
    """
    record = update_record_of(model, "use")
    if isinstance(adapters, str):
        weights = {adapters: 1.0}
    else:
        weights = {} if adapters is None else numbers_by_name("weights", adapters)
    for name in weights:
        record.named(name)
    check_free(record, "use")
    set_use(model, record, {name: a for name, a in weights.items() if a != 0})
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Have a network be what it was before it was adapted, bit for bit, within a `with`.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2)
        >>> with zoo.disabled(net):
        ...     base = net(torch.ones(8))

    Args:
        model: an adapted network.
    """
    record = update_record_of(model, "disabled")
    layers = list(zoo_layers(model).values())
    if record.disabled:  # within another `with`
        yield model
        return
    tensors = named_tensors(model, record.originals)
    # The tensors themselves stay, so that a graph from before is not broken.
    live = {name: tensor.data for name, tensor in tensors.items()}
    record.disabled = True
    try:
        for name, tensor in tensors.items():
            original = record.originals[name].to(tensor.device, tensor.dtype)
            # A pass in train mode changes running statistics, which are buffers.
            tensor.data = original if isinstance(tensor, nn.Parameter) else original.clone()
        for layer in layers:
            layer.enabled = False
        yield model
    finally:
        for layer in layers:
            layer.enabled = True
        for name, tensor in tensors.items():
            tensor.data = live[name]
        record.disabled = False


@contextmanager
def rows(model: nn.Module, names: Sequence[str | None]) -> Iterator[nn.Module]:
    """Have each row of a batch pass through an adapter of its own, within a `with`.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2, name="fr")
        >>> net = zoo.adapt(net, zoo.DCT, ratio=0.25, name="law")
        >>> with zoo.rows(net, ["fr", "law", None]):
        ...     y = net(torch.ones(3, 8))

    Args:
        model: an adapted network, whose adapters train nothing besides.
        names: of the adapter of each row, the first dimension of what every layer gets; None for a
            row without any.

    Raises:
        UserError: if there is no such adapter, or one that trains something besides, which a batch
            can have one of only; or if a layer gets another number of rows.
    """
    record = update_record_of(model, "rows")
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise UserError(
            f"rows takes a list with the name of an adapter for each row of the batch, got "
            f"{shown(names)}"
        )
    for name in names:
        if name is not None and (besides := record.named(name).trained):
            raise UserError(
                f"adapter {name!r} trains {next(iter(besides))} besides, of which rows of a batch "
                "cannot each have their own: use the adapters one after the other"
            )
    check_free(record, "rows")
    layers, route = zoo_layers(model), RowByRow(names)
    wrap(layers, record)
    record.by_rows = True
    try:
        for layer in layers.values():
            layer.route = route
        yield model
    finally:
        record.by_rows = False
        for layer in layers.values():
            layer.route = None
        arrange(layers, record)


def check_free(record: Record, what: str) -> None:
    """Refuse what cannot be done while adapters are disabled, or each is of some rows."""
    if record.disabled or record.by_rows:
        within = "disabled" if record.disabled else "rows"
        raise UserError(f"{what} is not possible within zoo.{within}: do it outside")


@makes_tensors
def remove(model: nn.Module, name: str) -> nn.Module:
    """Take an adapter from a network, which is without any then if that was in use.

    Where it was the last one, the network has plain layers again, with the weights of before.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2)
        >>> zoo.remove(net, "default")
        Linear(in_features=8, out_features=8, bias=True)

    Args:
        model: an adapted network.
        name: of the adapter.

    Returns:
        `model`; where that is a layer itself, the plain layer in its place.

    Raises:
        UserError: if there is no such adapter.
    """
    record = update_record_of(model, "remove")
    record.named(name)
    check_free(record, "remove")
    if name in record.weights:
        set_use(model, record, {})
    layers = zoo_layers(model)
    wrap(layers, record)
    left = {
        layer for key, each in record.adapters.items() if key != name for layer in each.factories
    }
    for space in {layer.parameterization for layer in layers.values()}:
        space.drop(name)  # type: ignore[operator]
    model = restore(model, [layer for layer in layers if layer not in left])
    del record.adapters[name]
    if not record.adapters:
        for key, p in model.named_parameters():
            p.requires_grad_(key in record.needed_grad)
        forget(model)
    return model


@makes_tensors
def merged(model: nn.Module, copy: bool = True) -> nn.Module:
    """Return the network with plain layers, whose weights are those of the adapters in use.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2)
        >>> zoo.merged(net)
        Linear(in_features=8, out_features=8, bias=True)

    Args:
        model: an adapted or parameterized network.
        copy: whether `model` stays as it is. Otherwise its layers are replaced one at a time, which
            takes the memory of one more.

    Returns:
        A new network, or `model`; where that is a layer itself, a plain one.

    Raises:
        UserError: if the weight of a layer cannot be had as plain numbers; the network is as it
            was.
    """
    record = record_of(model)
    check_free(record, "merged")
    plain = merge(model, copy)
    for key, p in plain.named_parameters():
        p.requires_grad_(key in record.needed_grad)
    forget(plain)
    return plain


# ---- What follows from a record ------------------------------------------------------------------


def set_use(model: nn.Module, record: Record, weights: Mapping[str, float]) -> None:
    """Have these adapters be in use: their maps, what they train besides, and what is trained."""
    hold(model, record)
    record.weights = dict(weights)
    layers = zoo_layers(model)
    arrange(layers, record)
    for name, tensor in named_tensors(model, record.originals).items():
        tensor.data = mixed(record, name, record.weights).to(tensor.device, tensor.dtype)
    mark_trained(model, layers, record)


def hold(model: nn.Module, record: Record) -> None:
    """Keep what the adapter in use has trained besides, before another is."""
    if (name := record.alone()) is not None:
        adapter = record.adapters[name]
        tensors = named_tensors(model, adapter.trained)
        adapter.trained = {key: tensor.data for key, tensor in tensors.items()}


def mixed(record: Record, name: str, weights: Mapping[str, float]) -> Tensor:
    """Return what a parameter is under adapters by weights: p0 + sum_i a_i (p_i - p0).

    Under one adapter alone it is that one's own tensor.
    """
    original = record.originals[name]
    parts = [
        (a, record.adapters[each].trained[name])
        for each, a in weights.items()
        if name in record.adapters[each].trained
    ]
    if len(weights) == len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    if not original.is_floating_point():
        return original.clone()
    total = original.clone()
    for a, trained in parts:
        total += a * (trained.to(total.device, total.dtype) - original)
    return total


def mark_trained(model: nn.Module, layers: Mapping[str, ZooLayer], record: Record) -> None:
    """Have the adapter in use be trained, and what it trains besides, and no other's.

    What no adapter has was frozen when the network got its first one.
    """
    name = record.alone()
    adapter = None if name is None or record.adapters[name].frozen else record.adapters[name]
    for key, layer in layers.items():
        space = layer.parameterization
        mine = adapter is not None and key in adapter.factories
        for p in space.parameters():
            p.requires_grad = mine and not isinstance(space, Adapters)
        if mine and isinstance(space, Adapters):
            for p in space.maps[name].parameters():  # type: ignore[index]
                p.requires_grad = True
    besides = adapter.trained if adapter is not None else {}
    for key, tensor in named_tensors(model, record.originals).items():
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad = key in besides


def arrange(layers: Mapping[str, ZooLayer], record: Record) -> None:
    """Have layers hold one map itself where it is alone and in use, and all of them otherwise."""
    if record.alone() is not None and len(record.adapters) == 1:
        unwrap(layers)
        return
    wrap(layers, record)
    for layer in layers.values():
        layer.parameterization.use(record.weights)  # type: ignore[operator]


def wrap(layers: Mapping[str, ZooLayer], record: Record) -> None:
    """Have every layer hold its maps by name."""
    made: dict[tuple[WeightParameterization, float], Adapters] = {}  # tied layers share one
    for name, layer in layers.items():
        space, scale = layer.parameterization, layer.scale
        if not isinstance(space, Adapters):
            (owner,) = (n for n, each in record.adapters.items() if name in each.factories)
            if (space, scale) not in made:
                made[space, scale] = Adapters({owner: space}, {owner: scale})
                made[space, scale].use(record.weights)
            layer.parameterization, layer.scale = made[space, scale], 1.0


def unwrap(layers: Mapping[str, ZooLayer]) -> None:
    """Have every layer hold its only map itself."""
    for layer in layers.values():
        space = layer.parameterization
        if isinstance(space, Adapters):
            ((name, own),) = space.maps.items()
            layer.parameterization = own  # type: ignore[assignment]  # of a ModuleDict
            layer.scale = space.scales[name]


def forget(model: nn.Module) -> None:
    """Have a network that has no adapters any more be as any other."""
    vars(model).pop(ATTRIBUTE, None)
    unwire(model)


def freeze(model: nn.Module, name: str, frozen: bool) -> None:
    """Say whether an adapter is trained when it is in use."""
    record = record_of(model)
    record.adapters[name].frozen = frozen
    mark_trained(model, zoo_layers(model), record)
