"""What factors on a grid of blocks take, with W and without. Pure arithmetic."""

from typing import NamedTuple

import torch

from zoo.parameterizations.cost import Cost


class Products(NamedTuple):
    """Multiply-adds of a map whose factors have K numbers, and take one each for a row of x.

    W takes r mn to build from them. Every product takes twice as many backward.
    """

    m: int
    n: int
    rank: int
    k: int

    @property
    def building(self) -> int:
        """Multiply-adds that build W, r mn."""
        return self.rank * self.m * self.n

    @property
    def exceed_weight(self) -> bool:
        """Whether there are more numbers than W has, so that W is worth keeping."""
        return self.k > self.m * self.n

    def pay(self, rows: int, update: bool = False) -> bool:
        """Say whether a training step takes no more without W than with it.

        That is 3 T K, and in an update 2 T mn for W0, against 3 (T mn + r mn). A program that is
        exported serves any number of rows.
        """
        spared = self.m * self.n / (3 if update else 1)  # what a row is spared without W
        if self.k <= spared:
            return True
        return not torch.compiler.is_exporting() and rows * (self.k - spared) <= self.building

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State the cost of a product on the path that pays."""
        mn = self.m * self.n
        base = mn if update else 0
        read = mn if self.exceed_weight else self.k + base
        if self.pay(rows, update):
            return Cost(rows * (self.k + base), rows * (2 * self.k + base), read)
        return Cost(rows * mn + self.building, 2 * (rows * mn + self.building), read)
