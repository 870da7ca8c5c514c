"""An autograd Function that `torch.func` can transform, at no cost where it does not."""

from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as transforming
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten


class Function(torch.autograd.Function):
    """A Function with `setup_context`, whose `vmap` is a loop over the batch.

    It may therefore compute in place.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Apply as torch does, but faster where no transform is active.

        torch takes 25 microseconds to look for default arguments, which are spared.
        """
        if transforming():
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:  # type: ignore[override]
        """Return the outputs for each member of a batch, stacked, and the batch's place in each."""
        values, structure = tree_flatten(args)
        batched = list(zip(values, tree_leaves(in_dims), strict=True))
        found = []
        for i in range(info.batch_size):
            member = [value if dim is None else value.select(dim, i) for value, dim in batched]
            found.append(cls.apply(*tree_unflatten(member, structure)))
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(outputs) for outputs in zip(*found, strict=True)), (0,) * len(
            found[0]
        )
