"""What a product with a parameterized weight takes, in multiply-adds and in numbers read."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from zoo.parameterizations.base import WeightParameterization


class Cost(NamedTuple):
    """What a product of T rows of x with a weight takes.

    A multiply-add is two of the operations that torch's counter has. Matrix products count, and
    Fourier transforms (`zoo.bases.fourier.fft_multiply_adds`); passes with an operation or so a
    number do not: sums, scales, gathers, casts.
    """

    forward: int
    """Multiply-adds of y = x W^T, or of x (W0 + s W)^T in an update, with those that build W."""
    backward: int
    """Multiply-adds from dL/dy to dL/dx and to the coefficients' gradient."""
    read: int
    """Numbers that are read to make one row of y without gradients, of a weight that is kept."""

    @property
    def training(self) -> int:
        """Multiply-adds of a training step: forward and backward."""
        return self.forward + self.backward


def products_of_weight(p: "WeightParameterization") -> tuple[int, int]:
    """Count the multiply-adds of `p.weight()` and of its backward pass, as torch sees them."""
    with torch.enable_grad():
        with FlopCounterMode(display=False) as forward:
            w = p.weight()
        with FlopCounterMode(display=False) as backward:
            trained = [q for q in p.parameters() if q.requires_grad]
            torch.autograd.grad(w, trained, torch.ones_like(w), allow_unused=True)
    return forward.get_total_flops() // 2, backward.get_total_flops() // 2
