"""The matrix of a linear layer of another library, W0 of y = x W0^T + b: how each library has it.

No library is imported here. A layer tells what it is by what it has; and a library that has to
compute something has been imported long ago, since a layer of it is there.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.plain import DTYPES, is_overridden, is_patched, path_of
from zoo.parameterizations.of_base.held import made_of


def reader(layer: nn.Module) -> Callable[[Any], Tensor] | None:
    """Return what makes the matrix of a layer, (out_features, in_features); None if nothing can.

    bitsandbytes, 4 bit     its own function, of the weight and its `quant_state`
    bitsandbytes, 8 bit     W_ij = CB_ij SCB_i / 127; or the weight itself, `has_fp16_weights`
    a layer                 its method `dequantize`, which returns the matrix
    a tensor, as torchao's  its method `dequantize`, where the layer is `nn.Linear`
    anything else           the weight, where the layer is `nn.Linear`: also one that is computed
    """
    weight: Any = stored_weight(layer)
    if getattr(weight, "quant_state", None) is not None:
        return _of_4_bits
    if getattr(weight, "has_fp16_weights", False):
        return _of_weight
    if _rows_of_8_bits(layer) is not None:
        return _of_8_bits
    if callable(getattr(layer, "dequantize", None)):
        return _of_layer
    if not isinstance(layer, nn.Linear) or is_overridden(layer) or is_patched(layer):
        return None
    weight = layer.weight
    if type(weight).dequantize is not Tensor.dequantize:
        return _of_tensor
    plain = type(weight) in (Tensor, nn.Parameter) and weight.dtype in DTYPES
    return _of_weight if plain and weight.shape == (layer.out_features, layer.in_features) else None


def stored_weight(layer: nn.Module) -> Tensor | None:
    """Return the parameter or buffer `weight`, whatever is in it; None if there is none."""
    return layer._parameters.get("weight", layer._buffers.get("weight"))


def stated_dtype(layer: nn.Module) -> torch.dtype | None:
    """Return the dtype that a layer's matrix was quantized from, or has; None if nothing tells."""
    state: Any = getattr(stored_weight(layer), "quant_state", None)
    if state is not None:
        packed = getattr(state, "packing_format_for_cpu", False)
        return state.original_dtype if packed else state.dtype  # type: ignore[no-any-return]
    if is_matrix(layer):
        return layer.weight.dtype  # type: ignore[return-value, union-attr]
    return None


def is_matrix(layer: nn.Module) -> bool:
    """Tell whether the attribute `weight` of a layer can be used as its matrix."""
    return reader(layer) in (_of_tensor, _of_weight)


@torch.no_grad()
def dequantized(layer: nn.Module, name: str, dtype: torch.dtype) -> Tensor:
    """Make the matrix of a layer, detached; (out_features, in_features).

    Args:
        layer: any linear one.
        name: of the layer, for the message.
        dtype: of the matrix.

    Raises:
        UserError: if nothing here can, or what is made has another shape.
    """
    check_reader(layer, name)
    matrix = reader(layer)(layer).detach()  # type: ignore[misc]  # it was checked
    if tuple(matrix.shape) != (layer.out_features, layer.in_features):
        raise UserError(
            f"{name}: the matrix of a {path_of(layer)} is {tuple(matrix.shape)}, and should be "
            f"{(layer.out_features, layer.in_features)}: mend its method dequantize"
        )
    stored = first_tensor(layer)
    matrix = matrix.to(dtype)
    return matrix if stored is None else made_of(matrix, stored)


def first_tensor(layer: nn.Module) -> Tensor | None:
    """Return the first tensor of a layer that is not its bias; None if it has none."""
    named = (*layer.named_parameters(), *layer.named_buffers())
    return next((tensor for name, tensor in named if name != "bias"), None)


def check_reader(layer: nn.Module, name: str) -> None:
    """Raise UserError naming a layer whose matrix nothing here can make."""
    if reader(layer) is None:
        raise UserError(
            f"{name or 'the model'} is a {path_of(layer)}, whose matrix zoo cannot read: give it a "
            "method dequantize() that returns it, or use a map and a merge that need none"
        )


def _of_4_bits(layer: Any) -> Tensor:
    unpack(layer)
    functional: Any = sys.modules["bitsandbytes.functional"]
    matrix: Tensor = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return matrix


def _rows_of_8_bits(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Return the numbers and the scales of rows, which move into the state at the first pass."""
    for owner in (stored_weight(layer), getattr(layer, "state", None)):
        numbers, scales = getattr(owner, "CB", None), getattr(owner, "SCB", None)
        if numbers is not None and scales is not None:
            return numbers, scales
    return None


def _of_8_bits(layer: Any) -> Tensor:
    numbers, scales = _rows_of_8_bits(layer)  # type: ignore[misc]  # there are some
    return numbers.float() * (scales.float() / 127).unsqueeze(1)


def _of_layer(layer: Any) -> Tensor:
    return layer.dequantize()  # type: ignore[no-any-return]


def _of_tensor(layer: Any) -> Tensor:
    return layer.weight.dequantize()  # type: ignore[no-any-return]


def _of_weight(layer: Any) -> Tensor:
    return layer.weight.data  # type: ignore[no-any-return]


# ---- What bitsandbytes does on a CPU -------------------------------------------------------------


def scales_of(layer: nn.Module) -> Any:
    """Return the scales of a 4-bit weight, which a pass on a CPU may round (`unpack`).

    Returns:
        None where there are none, or they are rounded already.
    """
    weight = stored_weight(layer)
    state: Any = getattr(weight, "quant_state", None)
    if state is None or weight.device.type != "cpu":  # type: ignore[union-attr]
        return None
    return None if getattr(state, "packing_format_for_cpu", False) else copy.copy(state)


def unpack(layer: nn.Module, scales: Any = None) -> None:
    """Have a 4-bit weight be what it was before bitsandbytes packed it for a CPU.

    It does so in eval mode, in passes without gradients. The numbers are the same then in another
    order, the scales are rounded to bfloat16, and no gradient goes through the product.

    Args:
        layer: any; left alone where nothing is packed.
        scales: as `scales_of` returned them before; without them they stay rounded.
    """
    weight: Any = stored_weight(layer)
    if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
        layer._save_to_state_dict({}, "", True)  # by which bitsandbytes unpacks it
        if scales is not None:
            weight.quant_state = vars(layer)["quant_state"] = copy.copy(scales)
