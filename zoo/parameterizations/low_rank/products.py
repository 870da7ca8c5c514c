"""Products with a matrix that is given by two factors, W = L R, and never built."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases.seeds import autocast_dtype


def add_product(
    x: Tensor,
    base: Tensor,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    scale: float = 1.0,
    given: Tensor | None = None,
) -> Tensor:
    """Return x W0^T + b + s (x R^T) L^T, the last product added in place of a pass of its own.

    Args:
        x: (..., n).
        base: W0, (m, n).
        bias: b, (m,), or None.
        left: L, (m, r).
        right: R, (r, n).
        scale: s.
        given: what R has in place of x, if it is not x.

    Returns:
        (..., m), in the dtype of x W0^T; the sum is made in the wider one of the two products'.
    """
    y = F.linear(x, base, bias)
    mixed = autocast_dtype(x.device) is not None
    given = x if given is None else given
    inner = F.linear(given if mixed else given.to(right.dtype), right)
    wide = torch.promote_types(y.dtype, inner.dtype)
    rows, inner = y.reshape(-1, len(left)).to(wide), inner.reshape(-1, len(right)).to(wide)
    return torch.addmm(rows, inner, left.mT, alpha=scale).to(y.dtype).view_as(y)
