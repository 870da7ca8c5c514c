"""Orthonormal bases of the real (m, n) matrices, in which subspaces train and analyses look.

A basis says how to compute its coefficients, fast where there is a way, and which of them is of
low frequency. It keeps the sum of squares, so that squared coefficients say where the energy of W
is, and trained ones move W as far as they move themselves. Pure functions of torch.

How it is computed for one size, on one device and in one dtype is a *plan*, a named tuple of the
tensors that it takes: a parameterization registers these as buffers, an analysis drops them. The
two plans that have sides, `Sides` and `SomeSides`, multiply by stored matrices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.bases.seeds import cached, haar_matrix, shared, without_autocast
from zoo.bases.selection import zigzag_order


def precise(weight: Tensor) -> Tensor:
    """Return a matrix in float32, or wider where it is."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


# ---- Plans ---------------------------------------------------------------------------------------


class Plan(Protocol):
    """How a basis is computed: a named tuple of tensors, some of which may be None."""

    def analyze(self, weight: Tensor) -> Tensor:
        """Return the planes of (..., m, n) matrices, laid out as `Basis.layout` says."""

    def synthesize(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the adjoint, planes to (..., m, n); `plane` may be overwritten."""

    def multiply_adds(self, shape: tuple[int, int]) -> int:
        """Count those of `analyze` or of `synthesize` of one matrix of this shape, both alike."""

    def _asdict(self) -> dict[str, Any]: ...


class Sides(NamedTuple):
    """The two orthogonal matrices of a separable basis, basis vectors as rows."""

    left: Tensor  # (m, m)
    right: Tensor  # (n, n)


class SomeSides(NamedTuple):
    """The plan of a separable basis: its sides, of which None leaves an axis as it is."""

    left: Tensor | None
    right: Tensor | None

    def analyze(self, weight: Tensor) -> Tensor:
        """Return S = L W R^T."""
        return rotate(weight, self)

    def synthesize(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return W = L^T S R."""
        return unrotate(plane, self)

    def multiply_adds(self, shape: tuple[int, int]) -> int:
        """Count mn M for a left side (M, m), and then M n N for a right one (N, n)."""
        m, n = shape
        rows = m if self.left is None else len(self.left)
        columns = 0 if self.right is None else len(self.right)
        return (0 if self.left is None else m * n * rows) + rows * n * columns


def rotate(weight: Tensor, sides: Sides | SomeSides) -> Tensor:
    """Return S = L W R^T; (..., m, n) to (..., m, n).

    The adjoint, and for orthogonal L and R the inverse, is `unrotate`.
    """
    with without_autocast(weight.device):
        weight = weight if sides.left is None else sides.left @ weight
        return weight if sides.right is None else weight @ sides.right.mT


def unrotate(plane: Tensor, sides: Sides | SomeSides) -> Tensor:
    """Return W = L^T S R; (..., m, n) to (..., m, n)."""
    with without_autocast(plane.device):
        plane = plane if sides.left is None else sides.left.mT @ plane
        return plane if sides.right is None else plane @ sides.right


def plan_of_sides(
    side: Callable[[int, int], Tensor | None],
    shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> SomeSides:
    """Return the plan of the sides that `side` gives, of a length and an axis.

    Tensors are shared by all who have the same.
    """
    sides = (side(n, axis) for axis, n in enumerate(shape))
    return SomeSides(*(None if s is None else shared(s, device, dtype) for s in sides))


# ---- Bases ---------------------------------------------------------------------------------------


class Basis(ABC):
    """An orthonormal basis: a linear map of real (m, n) matrices to planes of (M, N) coefficients.

    It keeps the sum of squares. Any size will do; a basis that exists for some sizes only says what
    it does with the others.
    """

    name: str

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def plan(self, m: int, n: int, device: torch.device, dtype: torch.dtype) -> Plan:
        """Return how to compute it for (m, n) matrices of a real dtype.

        Tensors are shared by all who ask for the same.
        """

    @abstractmethod
    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        """Return `forward(left @ right)` of (m, r) and (r, n) factors, at less work for small r."""

    @abstractmethod
    def order(self, m: int, n: int) -> Tensor:
        """Return all places of the plane, lowest frequency first; (MN,), flat, int64.

        That of a constant stands in front.
        """

    # ---- A subclass may override -----------------------------------------------------------------

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        """Return (M, N), the plane of an (m, n) matrix: (m, n) itself unless sizes are padded."""
        return m, n

    def layout(self, m: int, n: int, device: torch.device) -> tuple[Tensor | None, tuple[int, ...]]:
        """Return where a plan has each coefficient in its flat plane, (M, N), and its shape.

        None means in natural order.
        """
        return None, self.plane_shape(m, n)

    def storage_order(self, m: int, n: int) -> Tensor | None:
        """Return the rank, (M, N), by which a subspace orders its coefficients.

        None means in natural order.
        """
        return None

    def rotates(self, m: int, n: int) -> bool:
        """Say whether S = L W R^T with orthogonal L and R.

        Haar-random singular vectors then stay Haar-random.
        """
        return False

    # ---- Concrete --------------------------------------------------------------------------------

    def forward(self, weight: Tensor) -> Tensor:
        """Return the plane of a matrix; (m, n) to (M, N).

        It is computed in float32, or wider where the matrix is, under autocast too.
        """
        weight = precise(weight)
        m, n = weight.shape
        plane = self.plan(m, n, weight.device, weight.dtype).analyze(weight)
        places, _ = self.layout(m, n, weight.device)
        return plane if places is None else plane.flatten()[places.to(plane.device)]

    def inverse(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the adjoint, so that `inverse(forward(W), W.shape)` is W; (M, N) to `shape`.

        Raises:
            ValueError: for a plane that is not of `plane_shape(*shape)`.
        """
        if tuple(plane.shape) != self.plane_shape(*shape):
            raise ValueError(
                f"a {self.name} plane of {tuple(shape)} must be {self.plane_shape(*shape)}, "
                f"got {tuple(plane.shape)}"
            )
        plane = precise(plane)
        places, packed_shape = self.layout(*shape, plane.device)
        if places is not None:
            packed = plane.new_zeros(packed_shape)
            packed.view(-1)[places.to(plane.device)] = plane
            plane = packed
        return self.plan(*shape, plane.device, plane.dtype).synthesize(plane, shape)


class Separable(Basis):
    """S = L W R^T, one matrix a side.

    A subclass gives `side`, with low frequencies on top, and `frequency` where they are not evenly
    spaced.
    """

    @abstractmethod
    def side(self, n: int, axis: int) -> Tensor | None:
        """Return the matrix of axis 0 (rows of W) or 1 (columns); (N, n), N >= n, float64.

        Its columns are orthonormal, and it must be cached: copies in other dtypes live as long as
        it does. None leaves the axis as it is.
        """

    def frequency(self, n: int) -> Tensor:
        """Return the frequency of each of the n rows of a side, ascending from 0; (n,), int64."""
        return torch.arange(n)

    def sides(self, m: int, n: int, device: torch.device, dtype: torch.dtype) -> SomeSides:
        """Return both sides, shared by all who ask for the same."""
        return plan_of_sides(self.side, (m, n), device, dtype)

    def plan(self, m: int, n: int, device: torch.device, dtype: torch.dtype) -> Plan:
        return self.sides(m, n, device, dtype)

    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = precise(left), precise(right)
        sides = self.sides(left.shape[0], right.shape[1], left.device, left.dtype)
        rows, columns = sides._replace(right=None), sides._replace(left=None)
        with without_autocast(left.device):
            return rotate(left, rows) @ rotate(right, columns)

    def order(self, m: int, n: int) -> Tensor:
        """Return all places by the sum of both sides' frequencies, ties in zigzag order."""
        return _separable_order(self, *self.plane_shape(m, n))

    def rotates(self, m: int, n: int) -> bool:
        return self.plane_shape(m, n) == (m, n)


@cached(maxsize=32)
def _separable_order(basis: Separable, rows: int, columns: int) -> Tensor:
    zigzag = zigzag_order(rows, columns)
    total = (basis.frequency(rows)[:, None] + basis.frequency(columns)).flatten()
    return zigzag[total[zigzag].argsort(stable=True)]


class Random(Separable):
    """A random orthonormal basis, for comparison: what a basis is worth is what it does better.

    Its coefficients have no frequency, and their order means nothing.
    """

    name = "random"

    def side(self, n: int, axis: int) -> Tensor:
        return haar_matrix(n, 0, "transform")
