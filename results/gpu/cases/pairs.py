"""Two ways of one thing, between which zoo chooses by size; `results.gpu.thresholds` times them."""

from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from results.gpu.frame.clock import Call, Ceilings

Shape = tuple[int, int]


class Pair(NamedTuple):
    """Two ways of one thing."""

    first: str
    second: str
    size: float  # of which there is a threshold
    share: str = ""
    block: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        """The names of the two calls."""
        return f"{self.first} {self.share} {self.block}" if self.block else self.first, self.second


class Case(NamedTuple):
    """Calls that are timed in turn, and what is compared of them."""

    threshold: str
    shape: Shape
    tokens: int | str
    dtype: str  # tf32: products of float32 in that precision
    launch: str  # called, or graph: replayed as one CUDA graph
    pairs: list[Pair]
    make: Callable[[], dict[str, Call]]
    floor: Callable[[Pair, Ceilings], float]  # seconds of the first way, at the least


def with_constant(
    constants: MutableMapping[str, Any], device: str, value: float, call: Call
) -> Call:
    """Return the call under another constant for the device."""

    def run() -> None:
        before = constants[device]
        constants[device] = value
        try:
            call()
        finally:
            constants[device] = before

    return run


class Inputs:
    """x and the gradient of y, and the passes of a function of x."""

    def __init__(self, shape: Shape, tokens: int, dtype: torch.dtype, device: str) -> None:
        m, n = shape
        self.x = torch.randn(tokens, n, device=device, dtype=dtype).requires_grad_()
        self.grad = torch.randn(tokens, m, device=device, dtype=dtype)
        self.mixed, self.device = dtype == torch.bfloat16, device

    def passes(self, forward: Callable[[Tensor], Tensor], module: nn.Module) -> Call:
        """Return the forward and backward pass of a function, to x and to what a module trains."""
        trained = [p for p in module.parameters() if p.requires_grad]

        def run() -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.mixed):
                y = forward(self.x)
            torch.autograd.grad(y, [self.x, *trained], self.grad)

        return run
