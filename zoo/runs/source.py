"""What a run changed: matrices by layer, as they are or as factors, and what it must be."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from zoo.errors import UserError, option
from zoo.layers.names import matches, summary
from zoo.pages.numbers import number_of
from zoo.runs.run import Run

What = Literal["dW", "W"]
LARGEST = 2**31
"""The most entries that a matrix may have."""
SMALLEST_NORM, LARGEST_NORM = 1e-18, 1e18
"""Bounds of a matrix' norm, so that float32 has its square."""


@dataclass(frozen=True, eq=False)
class Update:
    """A matrix: dW = L R, or dW as it is.

    Args:
        left: L, (m, r); or dW, (m, n).
        right: R, (r, n); or None.
    """

    left: Tensor
    right: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        last = self.left if self.right is None else self.right
        return self.left.shape[0], last.shape[1]

    def matrix(self) -> Tensor:
        """Return dW; (m, n), float32."""
        return self.left.float() if self.right is None else self.left.float() @ self.right.float()

    def norm(self) -> float:
        """Return |dW|_F; of factors by |L R|^2 = <L^T L, R R^T>, so that no product is built."""
        left = self.left.double()
        if self.right is None:
            return left.norm().item()
        right = self.right.double()
        return ((left.mT @ left) * (right @ right.mT)).sum().clamp_min(0).sqrt().item()

    def singular_values(self) -> Tensor:
        """Return all singular values that may differ from 0, descending.

        There are min(m, n) of them, or min(m, r, n) of factors, in float64. With L = Q S and
        R^T = P T (QR), those of L R are those of S T^T, which has r columns. Computed once.
        """
        return self._singular_values

    @cached_property
    def _singular_values(self) -> Tensor:
        if self.right is None:
            return torch.linalg.svdvals(self.left.double())
        s = torch.linalg.qr(self.left.double(), mode="r").R
        t = torch.linalg.qr(self.right.double().mT, mode="r").R
        return torch.linalg.svdvals(s @ t.mT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(Run):
    """A run, or a network in memory, and its updates.

    Args:
        what: the updates are dW; or there is no weight that training started from, and they are W
            itself.
        updates: by layer.
        notes: what a reader of the results must know.
    """

    what: What = "dW"
    updates: dict[str, Update]
    notes: list[str] = field(default_factory=list)


# ---- What every source is held against -----------------------------------------------------------


def checked(source: Source, before: str | None = None) -> Source:
    """Return a source without the layers that did not change.

    Args:
        source: as it was read.
        before: what its updates are the difference to, if they are one.

    Raises:
        UserError: if no layer changed, numbers are not finite, or a matrix is beyond measure.
    """
    where = repr(source.path) if before is None else f"{source.path!r} or {before!r}"
    norms: dict[str, float] = {}
    for name, update in source.updates.items():
        check_size(name, update.shape, where)
        if not all(side is None or side.isfinite().all() for side in (update.left, update.right)):
            raise not_finite(name, where)
        norms[name] = update.norm()
        if norms[name] and not SMALLEST_NORM < norms[name] < LARGEST_NORM:
            raise UserError(
                f"{name} has a norm of {norms[name]:.1e} in {where}: use another checkpoint"
            )
    changed = {name: update for name, update in source.updates.items() if norms[name] > 0}
    if not changed and before is not None:
        raise UserError(
            f"{source.path!r} and {before!r} are equal, nothing changed: give another "
            f"{option('before')}"
        )
    if not changed:
        raise UserError(
            f"{source.path!r} has no update to analyse: {source.what} is 0, so it was not trained"
        )
    left_out = len(source.updates) - len(changed)
    note = [f"left out, unchanged: {number_of(left_out, 'layer')}"] if left_out else []
    return dataclasses.replace(source, updates=changed, notes=[*source.notes, *note])


def check_size(name: str, shape: tuple[int, int], where: str) -> None:
    """Raise UserError for a matrix that is too large to be looked into."""
    m, n = shape
    if m * n > LARGEST:
        raise UserError(
            f"{name} is {m:,} x {n:,} in {where}, too large to look into: choose others with "
            f"{option('layers')}"
        )


def not_finite(name: str, where: str) -> UserError:
    """Make the error for a tensor with numbers that are not finite."""
    return UserError(
        f"{name} holds NaN or infinite values in {where}: use a checkpoint from before that"
    )


def chosen(names: Iterable[str], layers: Sequence[str] | None) -> list[str]:
    """Return the names that match one of some globs; all of them without globs.

    Raises:
        UserError: naming a glob that matches nothing.
    """
    names = list(names)
    for pattern in layers or ():
        if not any(matches(name, pattern) for name in names):
            raise UserError(
                f"{option('layers')}: {pattern!r} matches no layer; there are: {summary(names)}"
            )
    return [
        name for name in names if not layers or any(matches(name, pattern) for pattern in layers)
    ]
