"""The rule of `torch.func.vmap` for an autograd Function that computes in place, where vmap cannot look."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


def one_by_one(function: type[torch.autograd.Function], info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """A Function of each member of a batch, stacked: outputs, and the place of the batch in each, as `vmap` wants it.

    Args:
        function: it stays as often differentiable as it is.
        info: has the batch's size.
        in_dims: where the batch is in each argument; None where it is not.
        args: the arguments, tensors and other things.
    """
    values, structure = tree_flatten(args)
    batched = list(zip(values, tree_leaves(in_dims), strict=True))
    found = []
    for i in range(info.batch_size):
        member = [value if dim is None else value.select(dim, i) for value, dim in batched]
        found.append(function.apply(*tree_unflatten(member, structure)))
    if isinstance(found[0], Tensor):
        return torch.stack(found), 0
    return tuple(torch.stack(outputs) for outputs in zip(*found, strict=True)), (0,) * len(found[0])
