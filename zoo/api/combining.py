"""One adapter out of several: the sum of their updates, in coefficients of one's own choice."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.api.adapting import add, bound, check_name, described
from zoo.api.arguments import makes_tensors, numbers_by_name
from zoo.api.record import maps_of, named_tensors, update_record_of
from zoo.api.say import say
from zoo.api.switching import check_free, mixed, remove, set_use
from zoo.errors import UserError
from zoo.parameterizations import Dense, WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory, factory_class


@makes_tensors
def combine(
    model: nn.Module,
    adapters: Mapping[str, float],
    name: str,
    cls: ParameterizationFactory = Dense,
    **settings: Any,
) -> dict[str, float]:
    """Make one adapter of several, and use it: dW = sum_i a_i dW_i, as near as its class allows.

    `Dense` holds the sum as it is. `LoRA` is its truncated singular value decomposition, and an
    orthonormal subspace such as `DCT` its projection.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2, name="fr")
        >>> net = zoo.adapt(net, zoo.DCT, ratio=0.25, name="law")
        >>> zoo.combine(net, {"fr": 0.5, "law": 0.5}, "both", zoo.Dense)
        {'': 0.0}

    Args:
        model: an adapted network.
        adapters: weights a_i by name.
        name: of the new adapter.
        cls: the parameterization of its updates, as in `zoo.adapt`.
        settings: of the class.

    Returns:
        By layer, |dW - W|_F / |dW|_F; 0 where dW is 0.

    Raises:
        UserError: if there is no such adapter, they are of different layers, the name is taken, or
            the class cannot hold an update by itself. The network is then as it was.
    """
    record = update_record_of(model, "combine")
    check_free(record, "combine")
    check_name(name)
    adapters = numbers_by_name("weights", adapters)
    if not adapters:
        raise UserError("combine takes at least one adapter: give weights by name")
    parts = {key: record.named(key) for key in adapters}
    first, *others = parts
    for other in others:
        if apart := parts[first].factories.keys() ^ parts[other].factories.keys():
            raise UserError(
                f"adapters {first!r} and {other!r} are of different layers, such as "
                f"{min(apart)}: combine those of equal targets, or use them by weights"
            )
    factory = bound(cls, settings)
    before = dict(record.weights)
    layers = list(parts[first].factories)
    trained = dict.fromkeys(key for part in parts.values() for key in part.trained)
    add(model, name, dict.fromkeys(layers, factory), _whole, trained, "update")
    try:
        errors = {layer: _project(model, name, layer, adapters) for layer in layers}
    except BaseException as error:
        remove(model, name)
        set_use(model, record, before)
        if isinstance(error, NotImplementedError):
            made = getattr(factory_class(factory), "__name__", "the class")
            raise UserError(f"{made} cannot be fitted to an update: {error}") from None
        raise
    for key, tensor in named_tensors(model, trained).items():
        tensor.data.copy_(mixed(record, key, adapters))
    mean, worst = sum(errors.values()) / len(errors), max(errors, key=errors.__getitem__)
    say(
        f"{name}: {described(factory)}, relative error of dW {mean:.3g} in the mean, "
        f"{errors[worst]:.3g} at most ({worst})"
    )
    return errors


def _whole(space: WeightParameterization) -> float:
    """Return the s of a map that is an update by itself.

    Raises:
        ValueError: if it is none.
    """
    if space.needs_base:
        raise ValueError("is no update by itself: give a class such as zoo.LoRA")
    return 1.0


@torch.no_grad()
def _project(model: nn.Module, name: str, layer: str, adapters: Mapping[str, float]) -> float:
    """Fit the new map of a layer to the sum of the others; returns the relative error."""
    record = update_record_of(model, "combine")
    holder, space = maps_of(model, name)[layer]
    target: Tensor | float = 0.0
    for key, a in adapters.items():
        _, own = maps_of(model, key)[layer]
        scale = record.adapters[key].scales[layer]
        if own.needs_base:
            base = holder.base
            assert base is not None
            update = own.effective(base, scale) - base
        else:
            update = scale * own.weight()
        target = target + a * update.float()
    assert isinstance(target, Tensor)
    space.project_(target)
    size = target.norm().item()
    return (space.weight().float() - target).norm().item() / size if size else 0.0
