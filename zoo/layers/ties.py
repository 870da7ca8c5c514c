"""Layers with several names, and weights that several layers have."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.plain import is_conv1d
from zoo.parameterizations.factory import ParameterizationFactory


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Find every module with all the names that it goes by."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def put(model: nn.Module, names: Iterable[str], layer: nn.Module) -> nn.Module:
    """Put a layer into a model under all of its names; one without a name is the model."""
    for name in names:
        if not name:
            return layer
        model.set_submodule(name, layer)
    return model


def ties(
    model: nn.Module,
    chosen: Mapping[str, nn.Module],
    factories: Mapping[str, ParameterizationFactory],
    start: str,
) -> tuple[dict[str, str], set[str]]:
    """Find the layers that share a weight with one another, or with a module that stays as it is.

    Args:
        model: with all these layers.
        chosen: the layers that are to be swapped, by name.
        factories: of their maps.
        start: where W begins; only an `update` can leave a weight tied to what stays.

    Returns:
        By layer the first one that has its weight; and the layers whose weight is in a module that
        is not chosen too.

    Raises:
        UserError: if layers with one weight would not have one any more, or use it differently.
    """
    layers = {layer: name for name, layer in chosen.items()}
    first: dict[str, str] = {}
    seen: dict[Tensor, str] = {}
    for name, layer in chosen.items():
        weight = layer._parameters.get("weight")
        first[name] = name if weight is None else seen.setdefault(weight, name)
        if first[name] != name:
            _check_alike(name, first[name], chosen, factories)
    tied = set()
    for other, module in model.named_modules():
        for key, p in module._parameters.items():
            if p is not None and p in seen and (module not in layers or key != "weight"):
                if start != "update" or is_conv1d(type(chosen[seen[p]])):
                    raise UserError(
                        f"{seen[p]} has the weight of {other}, which stays as it is: they would "
                        f"be untied; leave {seen[p]} out of the targets"
                    )
                tied.add(seen[p])
    return first, tied


def _check_alike(
    name: str,
    first: str,
    chosen: Mapping[str, nn.Module],
    factories: Mapping[str, ParameterizationFactory],
) -> None:
    """Raise UserError if two layers with one weight cannot share a map of it."""
    pair = chosen[name], chosen[first]
    both = f"{name} and {first} have one weight, and "
    if factories[name] is not factories[first]:
        raise UserError(f"{both}would get different parameterizations: give both the same")
    if is_conv1d(type(pair[0])) != is_conv1d(type(pair[1])):
        raise UserError(f"{both}one uses it transposed: leave one of them out of the targets")
    padded = {layer.padding_idx if isinstance(layer, nn.Embedding) else None for layer in pair}
    if len(padded) > 1:
        raise UserError(
            f"{both}one of them leaves the row of padding as it is: leave one of them out of the "
            "targets"
        )
