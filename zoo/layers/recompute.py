"""Weights that are built again in backward, in place of being saved for it.

Where W is built (`WeightParameterization.builds_weight`), the backward pass of y = x (W0 + s W)^T
needs

    dL/dx = dL/dy (W0 + s W),   dL/dW = s (dL/dy)^T x

and autograd saves x and W0 + s W for it; recomputed, it saves x alone, and W is built again from
its coefficients. No product is computed twice, and gradients are the same to the bit.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_exporting
from torch.utils.checkpoint import checkpoint

from zoo.bases.vmapped import transforming
from zoo.parameterizations import WeightParameterization


def would_save_weight(x: Tensor) -> bool:
    """Tell whether autograd would save a W of a product with x that can be built again.

    Where x needs no gradient, as that of a first layer, autograd saves no W anyway; and neither
    torch.func nor an exported program has saved tensors that could be built again.
    """
    return x.requires_grad and torch.is_grad_enabled() and not (transforming() or is_exporting())


def multiply_and_recompute(
    product: Callable[..., Tensor], x: Tensor, *parameters: Tensor, space: WeightParameterization
) -> Tensor:
    """Return `product(x, *parameters)`, of which autograd saves nothing but these arguments.

    Since the parameters are saved, autograd refuses to go back past a change of them. Where `space`
    drops numbers of x, they are the same ones again.
    """
    y: Tensor = checkpoint(
        product, x, *parameters, use_reentrant=False, preserve_rng_state=drops(space)
    )
    return y


def drops(space: WeightParameterization) -> bool:
    """Tell whether a map, or a part of it, drops numbers of the rows of x that it multiplies."""
    return any(getattr(part, "dropout", 0) for part in space.modules())
