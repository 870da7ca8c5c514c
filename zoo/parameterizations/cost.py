"""What a product with a parameterized weight takes, in multiply-adds and in numbers read."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.bases.fourier import fft_multiply_adds

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

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


def _fft(given: Sequence[int], made: Sequence[int], axes: Sequence[int], transforms: int) -> int:
    """Count the operations of Fourier transforms along some axes, of what is real if either is."""
    shape = max(given, made, key=math.prod)  # half of the bins are left out on one side
    numbers = math.prod(shape[axis] for axis in axes)
    others = math.prod(shape) // numbers if numbers else 0
    return 2 * fft_multiply_adds(numbers, transforms * others) if others else 0


class _Everything:
    """Stands for torch's tracker of modules, whose hooks autograd refuses on leaves."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def counter() -> "FlopCounterMode":
    """Return torch's counter of operations, which then counts Fourier transforms too.

    And products that are added in place, which it leaves out.
    """
    # It loads Triton where that is there, 0.17 s that every command would take to start.
    from torch.utils.flop_counter import FlopCounterMode

    aten: Any = torch.ops.aten

    def added(total: Any, left: Any, right: Any, **_: Any) -> int:
        return 2 * math.prod(left) * int(right[-1])

    def real(given: Any, axes: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return _fft(given, out_shape, axes, 1)

    def whole(given: Any, axes: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return _fft(given, out_shape, axes, 2)

    count = FlopCounterMode(
        display=False,
        custom_mapping={
            aten.baddbmm_: added,
            aten.addmm_: added,
            aten._fft_r2c: real,
            aten._fft_c2r: real,
            aten._fft_c2c: whole,
        },
    )
    count.mod_tracker = _Everything()  # type: ignore[assignment]
    return count


def counted(output: Callable[[], Tensor], inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Count the multiply-adds of a function and of its gradient to some inputs, by running both."""
    with torch.enable_grad(), counter() as count:
        y = output()
        forward = count.get_total_flops()
        if inputs and y.requires_grad:
            torch.autograd.grad(y, inputs, torch.ones_like(y), allow_unused=True)
    return forward // 2, (count.get_total_flops() - forward) // 2


def products_of_weight(p: "WeightParameterization") -> tuple[int, int]:
    """Count the multiply-adds of `p.weight()` and of its backward pass, as torch sees them.

    Of a map that knows W0, those of `p.effective(W0)`.
    """
    if p.needs_base:
        base = next(p.parameters()).new_ones(p.shape)
        return counted(partial(p.effective, base), _trained(p))
    return counted(p.weight, _trained(p))


def cost_with_weight(p: "WeightParameterization", rows: int) -> Cost:
    """Return what T rows take where W is built and multiplied: `WeightParameterization.cost`."""
    (m, n), (forward, backward) = p.shape, p.building()
    return Cost(rows * m * n + forward, 2 * rows * m * n + backward, m * n)


def cost_as_run(p: "WeightParameterization", rows: int, update: bool) -> Cost:
    """Count what T rows take where a class has a path of its own, by running it.

    Its parameters and buffers are what is read, and W0.
    """
    first = next(p.parameters())
    x = first.new_zeros(rows, p.in_features).requires_grad_()
    base = first.new_zeros(p.shape) if update else None
    y = partial(p.forward, x) if base is None else partial(p.forward_update, x, base)
    numbers = sum(t.numel() for t in (*p.parameters(), *p.buffers()))
    return Cost(*counted(y, [x, *_trained(p)]), numbers + (0 if base is None else base.numel()))


def _trained(p: "WeightParameterization") -> list[Tensor]:
    return [q for q in p.parameters() if q.requires_grad]
