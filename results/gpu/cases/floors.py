"""The least bytes and operations of a linear layer, counted, and the least time that they take.

y = x W^T + b of T tokens, W (m, n) from K trained numbers and F frozen ones, under bfloat16
autocast: x, the numbers and their gradients in float32, y and W in bfloat16. A multiply-add is two
operations. What holds or builds W takes

                 operations          bytes
    forward      2 T mn + B          4 T n + 2 T m + 4 (K + F) + 4 mn
    both passes  6 T mn + 2 B        forward + 8 T n + 2 T m + 8 K + 4 F + 6 mn

where the terms in mn are W, written and read, read again, and its gradient, written and read; B
builds it, which counts for products of two factors alone: the transforms of the DCT are bound by
bytes that are counted already. What needs no W takes A multiply-adds a token forward, and A' in
both passes; a frozen W0 adds 2 T mn forward, and as much backward:

    forward      2 T (A + [W0] mn)   4 T n + 2 T m + 4 (K + F)
    both passes  2 T (A' + 2 [W0] mn)   forward + 8 T n + 2 T m + 8 K + 4 F

Either way's time is the longer of its operations and its bytes, at the rates that were measured; a
layer's floor is the shorter way's.
"""

from typing import NamedTuple

from results.gpu.frame.clock import Ceilings


class Counts(NamedTuple):
    """What is counted of one layer."""

    shape: tuple[int, int]  # m, n
    trained: int  # K
    frozen: int  # F
    build: int = 0  # B
    adds: tuple[int, int] | None = None  # A and A'; None where there is no way without W
    update: bool = False  # whether there is a W0


class Work(NamedTuple):
    """The bytes and operations that one way takes."""

    operations: int
    bytes: int

    def seconds(self, rates: Ceilings) -> float:
        """Return the least seconds that the work takes."""
        return max(self.operations / rates.products, self.bytes / rates.bandwidth)


def ways(layer: Counts, tokens: int, both: bool) -> list[Work]:
    """Return the work with W, and without it where that can be, of the forward or both passes."""
    (m, n), k, f = layer.shape, layer.trained, layer.frozen
    moved = 4 * tokens * n + 2 * tokens * m + 4 * (k + f)
    if both:
        moved += 8 * tokens * n + 2 * tokens * m + 8 * k + 4 * f
    passes = 3 if both else 1
    works = [
        Work(
            2 * tokens * passes * m * n + (1 + both) * layer.build,
            moved + (10 if both else 4) * m * n,
        )
    ]
    if layer.adds is not None:
        base = m * n * (1 + both) if layer.update else 0
        works.append(Work(2 * tokens * (layer.adds[both] + base), moved))
    return works


def floor(layer: Counts, tokens: int, both: bool, rates: Ceilings) -> float:
    """Return the least seconds that a layer takes."""
    return min(way.seconds(rates) for way in ways(layer, tokens, both))
