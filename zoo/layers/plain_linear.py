"""Plain linear layers: which ones are plain, and what of one its successor takes over.

A layer is plain where it computes y = x W^T + b from its parameters `weight` and `bias` and from
nothing else: `nn.Linear` itself, a subclass that leaves its forward pass alone, and transformers'
`Conv1D`, which keeps W transposed.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

FORWARDS = {"transformers.models.falcon.modeling_falcon.FalconLinear"}
"""Classes with a forward pass of their own that is the same function."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OF_A_MODULE = set(vars(nn.Module()))
HOOKS = {name for name in OF_A_MODULE if "hook" in name}
CALLS = ("__call__", "_call_impl")
KINDS = ("_parameters", "_buffers", "_modules")


def is_conv1d(cls: type[nn.Module]) -> bool:
    """Tell whether this is transformers' `Conv1D`, y = x W + b with W of shape (in, out)."""
    return cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")


def is_linear(module: nn.Module) -> bool:
    """Tell whether `convert` swaps this layer, or refuses it by name (`why_not_plain`)."""
    return isinstance(module, nn.Linear) or is_conv1d(type(module))


def dense_weight(layer: nn.Module) -> Tensor:
    """Return a view of W of a linear layer or Conv1D, (out_features, in_features)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.mT if is_conv1d(type(layer)) else weight


def why_not_plain(layer: nn.Module) -> str | None:
    """Say why a layer is no function of its weight and bias alone; None for a plain one."""
    cls, weight = type(layer), layer._parameters.get("weight")
    path = f"{cls.__module__}.{cls.__qualname__}"
    if (
        isinstance(layer, nn.Linear)
        and cls.forward is not nn.Linear.forward
        and path not in FORWARDS
    ):
        return f"a {path}, with a forward pass of its own"
    if "forward" in vars(layer) or any(
        getattr(cls, name) is not getattr(nn.Module, name) for name in CALLS
    ):
        return f"a {cls.__name__} whose forward pass was replaced"
    if weight is None:
        return f"a {cls.__name__} whose weight is computed in each forward pass"
    if "bias" not in layer._parameters:
        return f"a {cls.__name__} whose bias is computed in each forward pass"
    if type(weight) is not nn.Parameter or weight.dtype not in DTYPES:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"a {cls.__name__} whose weight is a {type(weight).__name__} of {dtype}"
    if isinstance(layer, nn.Linear) and tuple(weight.shape) != (
        layer.out_features,
        layer.in_features,
    ):
        return f"a {cls.__name__} whose weight is packed"
    return None


def make_plain(cls: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Make a plain layer that trains copies of a weight and a bias, without drawing others first.

    Args:
        cls: what the layer is, `nn.Linear`, a subclass of it or Conv1D.
        weight: W, (out_features, in_features).
        bias: (out_features,), or None; its copy gets W's dtype.
    """
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    vars(layer).update(zip(("out_features", "in_features"), weight.shape, strict=True))
    stored = weight.mT if is_conv1d(cls) else weight
    layer.weight = nn.Parameter(stored.detach().clone(memory_format=torch.contiguous_format))
    copied = None if bias is None else nn.Parameter(bias.detach().to(weight.dtype, copy=True))
    layer.register_parameter("bias", copied)
    return layer


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
                    if layer in wanted
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
    for name in HOOKS:
        vars(new)[name] = vars(old)[name]
    for name, kind in _set_on(old):
        if name in besides:
            continue
        if kind is None:
            vars(new)[name] = vars(old)[name]
        else:
            vars(new)[kind][name] = vars(old)[kind][name]
    hooks: dict[int, Any] = vars(new)["_load_state_dict_pre_hooks"]
    for key, hook in hooks.items():
        if hook.with_module:  # it has a weak reference to the layer that goes
            hooks[key] = type(hook)(hook.hook, new)
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set
    new.training = old.training


def _set_on(layer: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Name what was set on a layer, each with its place in `KINDS`, or None for an attribute."""
    usual = OF_A_MODULE | {"in_features", "out_features"}
    yield from ((name, None) for name in vars(layer) if name not in usual)
    yield from (
        (name, kind)
        for kind in KINDS
        for name in vars(layer)[kind]
        if name not in ("weight", "bias")
    )
