"""How fast a layer could be: what it computes and moves, and how fast this machine does.

A linear layer y = x W^T + b with T inputs (tokens), W (m, n), takes 2 T m n operations forward and
twice as many backward, and moves at least its inputs, outputs, their gradients and its K
coefficients. With the machine's rates, measured in the same run,

    floor = max(6 T m n / (operations per second of a matrix product),
                bytes / (bytes per second of a copy))

is the least time of a dense layer's forward and backward pass. A path that never builds W may be
below it.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from zoo.studies.bench.timing import Call, alternate

LIMIT = 12
"""A case is left out whose dense forward and backward pass takes so many times a row's seconds."""


class Case(NamedTuple):
    """What layers are compared on."""

    precision: str
    shape: tuple[int, int]
    tokens: int

    def __str__(self) -> str:
        m, n = self.shape
        return f"{m} x {n}, {self.tokens} tokens, {self.precision}"


class Rates:
    """What the machine can do at best, measured when first asked for or told to.

    Args:
        device: the machine's part that is asked.
        clock: seconds since some start.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.device = device
        self.clock = clock
        self.best: dict[str, float] = {}
        self.copy = lru_cache(maxsize=None)(self._copy)

    def _best(self, call: Call) -> float:
        (times,) = alternate(
            {"": call}, 0.2, least=3, device=self.device, clock=self.clock
        ).values()
        return min(times)

    def operations(self, precision: str) -> float:
        """Return the operations per second of the best square matrix product so far, 2 n^3 each."""
        if precision not in self.best:
            self.again(precision)
        return self.best[precision]

    def again(self, precision: str) -> None:
        """Measure products anew and keep the better rate: machines have slow minutes."""
        rate = self._products(torch.float32 if precision == "float32" else torch.bfloat16)
        self.best[precision] = max(rate, self.best.get(precision, 0.0))

    def _products(self, dtype: torch.dtype) -> float:
        sizes = (4096, 8192) if self.device.type == "cuda" else (1024, 2048)
        rates = []
        for n in sizes:
            a = torch.randn(n, n, device=self.device).to(dtype)
            rates.append(2 * n**3 / self._best(lambda a=a: a @ a))  # type: ignore[misc]
        return max(rates)

    def bytes(self, count: float) -> float:
        """Measure bytes per second, read and written, of a copy of about so many.

        Small ones stay in the cache.
        """
        return self.copy(min(max(int(math.log2(max(count, 1))), 20), 30))

    def _copy(self, power: int) -> float:
        a = torch.zeros(2 ** (power - 1), dtype=torch.uint8, device=self.device)
        b = torch.zeros_like(a)
        return 2**power / self._best(lambda: b.copy_(a))


def floor(layer: nn.Module, case: Case, rates: Rates) -> dict[str, float]:
    """Bound the time of a pass by what a dense one computes, and by what this layer must move.

        operations = 6 T m n
        bytes = 4 T (2 n + n) + 2 e T m + 12 K + 8 F

    x is read in both passes and its gradient written; y is written and its gradient read, e bytes
    each; K trained numbers are read twice and their gradients written, F frozen ones read twice.
    """
    m, n = case.shape
    element = 4 if case.precision == "float32" else 2
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in layer.parameters()) - trained
    count = operations(case)
    moved = case.tokens * (12 * n + 2 * element * m) + 12 * trained + 8 * frozen
    arithmetic, memory = count / rates.operations(case.precision), moved / rates.bytes(moved)
    return {
        "operations": count,
        "bytes": moved,
        "arithmetic_ms": 1e3 * arithmetic,
        "memory_ms": 1e3 * memory,
        "ms": 1e3 * max(arithmetic, memory),
    }


def operations(case: Case) -> int:
    """Count the operations of a dense forward and backward pass, 6 T m n."""
    return 6 * case.tokens * math.prod(case.shape)


def too_long(case: Case, seconds: float, rates: Rates) -> str | None:
    """Return a line that says so, if a dense pass would take far longer than a row may."""
    least = operations(case) / rates.operations(case.precision)
    if least <= LIMIT * seconds:
        return None
    enough = math.ceil(least / LIMIT * 10) / 10
    return f"{case}: a dense pass takes at least {least:.1f} s; --seconds {enough:g} measures it"
