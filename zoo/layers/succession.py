"""What a layer that comes in the place of another one takes over, and what of it cannot go on."""

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from zoo.layers.plain import GEOMETRY

OF_A_MODULE = set(vars(nn.Module()))
HOOKS = {name for name in OF_A_MODULE if "hook" in name}
LOADS = "_load_state_dict_pre_hooks"
"""The hooks that a layer runs itself, as it loads its own tensors."""
KINDS = ("_parameters", "_buffers", "_modules")


def held_besides(
    model: nn.Module, layers: Collection[nn.Module]
) -> Iterator[tuple[nn.Module, str]]:
    """Find layers in attributes that are no modules, with the names of the attributes.

    Such are lists, dictionaries, bound methods and compiled functions: there a layer stays when its
    names in the model go to another one.
    """
    wanted = set(layers)
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in OF_A_MODULE:
                yield from (
                    (layer, f"{name}.{key}".lstrip("."))
                    for layer in _inside(value)
                    if layer in wanted and layer is not module
                )


def _inside(value: Any, depth: int = 4) -> Iterator[nn.Module]:
    """Find the modules in a value that is no tensor."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, list | tuple | set | frozenset | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _inside(part, depth - 1)
    elif depth and callable(value):
        for name in ("__self__", "_torchdynamo_orig_callable"):
            yield from _inside(getattr(value, name, None), depth - 1)


def geometry_of(layer: nn.Module) -> dict[str, Any]:
    """Return by name the attributes that say what a layer is besides its tensors."""
    own = getattr(type(layer), "geometry", ())
    names = next((names for cls, names in GEOMETRY.items() if isinstance(layer, cls)), own)
    return {name: vars(layer)[name] for name in names if name in vars(layer)}


def conflicts(old: nn.Module, new: nn.Module) -> list[str]:
    """Name what was set on a layer and means something else in its successor."""
    theirs = {*vars(new), *dir(type(new))}.union(*(vars(new)[kind] for kind in KINDS))
    return [name for name, _ in _set_on(old) if name in theirs]


def take_place(old: nn.Module, new: nn.Module, besides: Collection[str] = ()) -> None:
    """Hand on what a layer has besides its weight and bias: hooks, and what was set on it.

    The handles of hooks stay good.

    Args:
        old: the layer that goes.
        new: the layer that comes, with no attribute that stands in `conflicts`.
        besides: names of what is left behind.
    """
    hand_on_hooks(old, new)
    for name, kind in _set_on(old):
        if name in besides:
            continue
        if kind is None:
            vars(new)[name] = vars(old)[name]
        else:
            vars(new)[kind][name] = vars(old)[kind][name]
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set
    new.training = old.training


def hand_on_hooks(old: nn.Module, new: nn.Module, but: str | None = None) -> None:
    """Hand on the hooks of a layer, all kinds or all but one."""
    for name in HOOKS - {but}:
        vars(new)[name] = vars(old)[name]
    hooks: dict[int, Any] = vars(new)[LOADS]
    for key, hook in hooks.items():
        if hook.with_module:  # it has a weak reference to the layer that goes
            hooks[key] = type(hook)(hook.hook, new)


def _set_on(layer: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Name what was set on a layer, each with its place in `KINDS`, or None for an attribute."""
    usual = OF_A_MODULE | {"in_features", "out_features"} | geometry_of(layer).keys()
    yield from ((name, None) for name in vars(layer) if name not in usual)
    yield from (
        (name, kind)
        for kind in KINDS
        for name in vars(layer)[kind]
        if name not in ("weight", "bias")
    )
