"""What a map takes with W and without, and which of the two paths pays. Pure arithmetic."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.seeds import of_device
from zoo.parameterizations.cost import Cost

PRODUCTS_UP_TO = {"cpu": 0.3, "cuda": 0.3}
"""How many times as many operations small products may have as those with W, to be faster.

By type of device. On a CPU each operation takes 2 to 4 times as long. "cuda" is a CPU's value,
unmeasured.
"""
MANY = 1 << 40
"""Rows of x, where all that is left to compare is what each row takes."""


def rows_of(x: Tensor) -> int:
    """Return how many rows x has; many, in a program that is exported for any number."""
    return MANY if torch.compiler.is_exporting() else x.shape[:-1].numel()


class TwoPaths(NamedTuple):
    """Multiply-adds of a map on both of its paths; each takes twice as many backward."""

    m: int
    n: int
    numbers: int
    """K, all coefficients."""
    each: int
    """f, what a row of x takes without W."""
    build: int
    """b, what W takes to be built."""
    both: int = 0
    """What is built on either path, and counted in b."""
    small: bool = False
    """Whether products without W are small and many, so that `PRODUCTS_UP_TO` bounds them."""

    def pay(self, rows: int, device: torch.device, update: bool = False) -> bool:
        """Say whether so many rows are multiplied without W, by what a step of training takes.

        Of R rows that is 3 (R mn + b) with W; without 3 R f, and 2 R mn beside a base. What is
        built on either path is left out.
        """
        spared = (1 if update else 3) * rows * self.m * self.n + 3 * (self.build - self.both)
        up_to = of_device(PRODUCTS_UP_TO, device) if self.small else 1
        return 3 * rows * self.each <= up_to * spared

    def keep(self, device: torch.device) -> bool:
        """Say whether W is worth keeping.

        Small products are slow, so that it is where many rows of an update would build it; others
        are as long as there are coefficients, so that it is where W has fewer numbers.
        """
        return (
            not self.pay(MANY, device, update=True) if self.small else self.each > self.m * self.n
        )

    def cost(self, rows: int, device: torch.device, update: bool) -> Cost:
        """State the cost on the path that pays.

        Read is W where it is kept, mn numbers; else the coefficients and W0.
        """
        mn = self.m * self.n
        base = mn if update else 0
        read = mn if self.keep(device) else self.numbers + base
        if self.pay(rows, device, update):
            forward, back = rows * (self.each + base), rows * (2 * self.each + base)
            return Cost(forward + self.both, back + 2 * self.both, read)
        return Cost(rows * mn + self.build, 2 * (rows * mn + self.build), read)
