"""Draws of the rotation null: updates between Haar-random rotations of their rows and columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.seeds import generator, haar_matrix
from zoo.bases.seeds import shared as shared_copy
from zoo.runs.source import Update


class _Shared(NamedTuple):
    """The directions of all factors with as many rows: their basis' size, and each by it."""

    directions: int  # d
    coordinates: Mapping[int, Tensor]  # (d, r) by the place of the update


class Turns:
    """Turns updates by Q dW P, with the same Q for all with as many rows, and P for columns.

    Of factors L R only Q L is asked for. Where the columns of all L span d directions, fewer than
    there are rows, L = B C with orthonormal B (QR), and Q B is uniform among the frames of d
    directions (Mezzadri, arXiv math-ph/0609050): Q L is drawn as F C, without the rest of Q. For
    768 x 768 and 24 updates of rank 8 that takes a tenth of the time, for longer sides less.

    Args:
        updates: all that are turned together.
        seed: of all draws.
    """

    def __init__(self, updates: Sequence[Update], seed: int) -> None:
        self.updates, self.seed = updates, seed
        self._sides = [
            {n: self._shared(side, n) for n in {update.shape[side] for update in updates}}
            for side in (0, 1)
        ]

    def _shared(self, side: int, n: int) -> _Shared | None:
        """Return the directions of a side, or None where a whole rotation is needed."""
        here = {i: u for i, u in enumerate(self.updates) if u.shape[side] == n}
        if any(update.right is None for update in here.values()):
            return None
        # By what is in them, so that their order among the updates does not matter.
        here = dict(sorted(here.items(), key=lambda item: float(_factor(item[1], side).sum())))
        factors = [_factor(update, side) for update in here.values()]
        if sum(factor.shape[1] for factor in factors) >= n:
            return None
        r = torch.linalg.qr(torch.cat(factors, 1).double(), mode="r").R
        parts = r.to(factors[0]).split([factor.shape[1] for factor in factors], 1)
        return _Shared(len(r), dict(zip(here, parts, strict=True)))

    def draw(self, draw: int) -> Callable[[int], Update]:
        """Return what gives an update, by its place, in one draw."""
        turns = [
            {n: self._turn(side, n, shared, draw) for n, shared in sides.items()}
            for side, sides in enumerate(self._sides)
        ]

        def turned(i: int) -> Update:
            update = self.updates[i]
            if update.right is None:
                left, right = (turns[side][n].rotation for side, n in enumerate(update.shape))
                assert left is not None and right is not None
                return Update(left @ update.left @ right.mT)
            left, right = (
                turns[side][n].of(i, _factor(update, side)) for side, n in enumerate(update.shape)
            )
            return Update(left, right.mT)

        return turned

    def _turn(self, side: int, n: int, shared: _Shared | None, draw: int) -> "_Turn":
        like = next(u.left for u in self.updates if u.shape[side] == n)
        if shared is None:
            whole = haar_matrix(n, self.seed, "null", draw, side)  # as `zoo.spectrum.random_sides`
            return _Turn(shared_copy(whole, like.device, like.dtype), None, {})
        stream = generator(self.seed, "frame", n, draw, side)
        return _Turn(None, _frame(n, shared.directions, stream).to(like), shared.coordinates)


class _Turn(NamedTuple):
    """What turns one side of all updates in a draw: a rotation, or a frame for coordinates."""

    rotation: Tensor | None
    frame: Tensor | None
    coordinates: Mapping[int, Tensor]

    def of(self, i: int, factor: Tensor) -> Tensor:
        """Return a factor, (n, r), turned."""
        if self.frame is not None:
            return self.frame @ self.coordinates[i]
        assert self.rotation is not None
        return self.rotation @ factor


def _factor(update: Update, side: int) -> Tensor:
    """Return L, or R^T; (n, r)."""
    assert update.right is not None
    return update.right.mT if side else update.left


def _frame(n: int, count: int, stream: torch.Generator) -> Tensor:
    """Draw orthonormal columns, uniform among all such; (n, count), float64."""
    q, r = torch.linalg.qr(torch.randn(n, count, generator=stream, dtype=torch.float64))
    return q * r.diagonal().sign()
