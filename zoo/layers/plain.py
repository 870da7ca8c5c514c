"""Plain layers: which ones are plain, and the matrix that each multiplies by.

A layer is plain where it computes its output from its parameters `weight` and `bias` and from
nothing else, as its class in torch does:

    linear     y = x W^T + b       `nn.Linear`; transformers' `Conv1D`, which keeps W transposed
    conv       y = x * W + b       `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`; W as a matrix has a row
                                   for each output channel, (out, in / groups x kernel)
    embedding  y = W[i]            `nn.Embedding`; (num_embeddings, embedding_dim)

Subclasses that leave the forward pass alone are plain too.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["linear", "conv", "embedding"]

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FORWARDS = {"transformers.models.falcon.modeling_falcon.FalconLinear"}
"""Classes with a forward pass of their own that is the same function: x W^T, and then + b."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CALLS = ("__call__", "_call_impl")
GEOMETRY: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    **dict.fromkeys(
        CONV,
        (
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "dilation",
            "transposed",
            "output_padding",
            "groups",
            "padding_mode",
            "_reversed_padding_repeated_twice",
        ),
    ),
    nn.Embedding: (
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    ),
}
"""Attributes that torch's constructors set: what a layer is, besides its tensors."""


def is_conv1d(cls: type[nn.Module]) -> bool:
    """Tell whether this is transformers' `Conv1D`, y = x W + b with W of shape (in, out)."""
    return cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")


def is_linear(module: nn.Module) -> bool:
    """Tell whether this is torch's linear layer, a subclass of it, or `Conv1D`."""
    return isinstance(module, nn.Linear) or is_conv1d(type(module))


def plain_kind(module: nn.Module) -> Kind | None:
    """Return what kind of torch's layers this is one of, plain or not; None for all others."""
    if is_linear(module):
        return "linear"
    if isinstance(module, CONV):
        return "conv"
    return "embedding" if isinstance(module, nn.Embedding) else None


def torch_class(layer: nn.Module) -> type[Any]:
    """Return the class of torch that a layer of some kind is of, or below."""
    return next((cls for cls in GEOMETRY if isinstance(layer, cls)), nn.Linear)


def dense_weight(layer: nn.Module) -> Tensor:
    """Return W of a plain layer as a matrix, (m, n): a view, where memory allows one."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.mT if is_conv1d(type(layer)) else weight.flatten(1)


def path_of(layer: nn.Module) -> str:
    """Return the path of a layer's class."""
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def why_not_plain(layer: nn.Module) -> str | None:
    """Say why a layer of some kind is no function of its weight and bias alone, as torch's is.

    Returns:
        What the layer is, as "a Scaled, with a forward pass of its own"; None for a plain one.
    """
    cls, weight = type(layer), layer._parameters.get("weight")
    if is_overridden(layer) and path_of(layer) not in FORWARDS:
        return f"a {path_of(layer)}, with a forward pass of its own"
    if is_patched(layer):
        return f"a {cls.__name__} whose forward pass was replaced"
    if weight is None:
        return f"a {cls.__name__} whose weight is computed in each forward pass"
    if not isinstance(layer, nn.Embedding) and "bias" not in layer._parameters:
        return f"a {cls.__name__} whose bias is computed in each forward pass"
    if type(weight) is not nn.Parameter or weight.dtype not in DTYPES:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f"a {cls.__name__} whose weight is a {type(weight).__name__} of {dtype}"
    if tuple(weight.shape) != _stated_shape(layer, weight):
        return f"a {cls.__name__} whose weight is packed"
    if isinstance(layer, nn.Embedding):
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(layer, name):
                return f"a {cls.__name__} with {name}, which an embedding of a map cannot have"
    return None


def is_overridden(layer: nn.Module) -> bool:
    """Tell whether a class below one of torch's has a forward pass of its own."""
    mine, theirs = type(layer), torch_class(layer)
    if is_conv1d(mine):
        return False
    names = ("forward", "_conv_forward") if theirs in CONV else ("forward",)
    return any(getattr(mine, name) is not getattr(theirs, name) for name in names)


def is_patched(layer: nn.Module) -> bool:
    """Tell whether the forward pass of this one layer, or the way it is called, was replaced."""
    names = ("forward", "_conv_forward")
    return any(name in vars(layer) for name in names) or any(
        getattr(type(layer), name) is not getattr(nn.Module, name) for name in CALLS
    )


def _stated_shape(layer: nn.Module, weight: Tensor) -> tuple[int, ...]:
    """Return the shape that a weight has by the other attributes of its layer."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, CONV):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return tuple(weight.shape)


def linear_product(cls: type[nn.Module], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b as a plain linear layer of a class computes it, to the bit."""
    if f"{cls.__module__}.{cls.__qualname__}" in FORWARDS:
        y = x @ weight.mT
        return y if bias is None else y + bias
    if is_conv1d(cls) and bias is not None:
        rows = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight.mT)
        return rows.view(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def make_plain(
    cls: type[nn.Module],
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    geometry: dict[str, Any],
) -> nn.Module:
    """Make a plain layer of parameters that are there, without drawing others first.

    Args:
        cls: what the layer is: a class of torch's, one below it, or Conv1D.
        weight: as the layer keeps it.
        bias: None where there is none.
        geometry: the attributes in `GEOMETRY`.
    """
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    vars(layer).update(geometry)
    layer.weight = weight
    if not issubclass(cls, nn.Embedding):
        layer.register_parameter("bias", bias)
    return layer
