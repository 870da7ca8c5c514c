"""Orthonormal transforms of real (m, n) matrices and the order of their coefficients, low frequency to high.

A transform keeps the sum of squares, so its squared coefficients say where the energy of W is. Any
size will do; a transform that exists for some sizes only says what it does with the others. Pure
functions of torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.bases.seeds import cached, dct_matrix, haar_matrix, shared, without_autocast
from zoo.bases.selection import zigzag_order
from zoo.bases.transforms import (
    Sides,
    cosine_plan,
    dct2,
    fft_pays,
    idct2_packed,
    packed_places,
    packed_shape,
    rotate,
    unrotate,
)


def _precise(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


class Transform(ABC):
    """A linear map of real (m, n) matrices to planes of (M, N) real coefficients that keeps the sum of squares.

    Computed in float32, or wider where the weight is, under autocast too.
    """

    name: str

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        """(M, N), the shape of the plane of an (m, n) matrix: (m, n) itself, but where sizes are padded."""
        return m, n

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The plane of a matrix; (m, n) to (M, N)."""

    @abstractmethod
    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        """`forward(left @ right)` of (m, r) and (r, n) factors, for r below m and n at a fraction of its price."""

    @abstractmethod
    def inverse(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """The adjoint, so that `inverse(forward(W), W.shape)` is W; (M, N) to `shape`.

        Raises:
            ValueError: for a plane that is not of `plane_shape(*shape)`.
        """

    @abstractmethod
    def order(self, m: int, n: int) -> Tensor:
        """All places of the plane, lowest frequency first, a constant in front; (MN,), flat, int64."""

    def rotates(self, m: int, n: int) -> bool:
        """Whether S = L W R^T with orthogonal L and R, so that Haar-random singular vectors stay Haar-random."""
        return False

    def _check(self, plane: Tensor, shape: tuple[int, int]) -> None:
        if tuple(plane.shape) != self.plane_shape(*shape):
            raise ValueError(
                f"a {self.name} plane of {tuple(shape)} must be {self.plane_shape(*shape)}, got {tuple(plane.shape)}"
            )


class Separable(Transform):
    """S = L W R^T, one matrix a side.

    A subclass gives `side`, and `frequency` where rows are not evenly spaced.
    """

    @abstractmethod
    def side(self, n: int) -> Tensor:
        """The matrix of an axis of length n, orthonormal columns, low frequencies on top; (N, n), N >= n, float64.

        It must be cached: copies in other dtypes live as long as it does.
        """

    def frequency(self, n: int) -> Tensor:
        """The frequency of each row of `side(n)`, ascending from 0; (N,), int64."""
        return torch.arange(len(self.side(n)))

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return len(self.side(m)), len(self.side(n))

    def _sides(self, m: int, n: int, like: Tensor) -> Sides:
        left, right = (shared(self.side(size), like.device, like.dtype) for size in (m, n))
        return Sides(left, right)

    def forward(self, weight: Tensor) -> Tensor:
        weight = _precise(weight)
        return rotate(weight, self._sides(weight.shape[0], weight.shape[1], weight))

    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = _precise(left), _precise(right)
        sides = self._sides(left.shape[0], right.shape[1], left)
        with without_autocast(left.device):
            return (sides.left @ left) @ (right @ sides.right.mT)

    def inverse(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        self._check(plane, shape)
        plane = _precise(plane)
        return unrotate(plane, self._sides(*shape, plane))

    def order(self, m: int, n: int) -> Tensor:
        """By the sum of both sides' frequencies, ties in zigzag order."""
        return _separable_order(self, m, n)

    def rotates(self, m: int, n: int) -> bool:
        return self.plane_shape(m, n) == (m, n)


@cached(maxsize=32)
def _separable_order(transform: Separable, m: int, n: int) -> Tensor:
    zigzag = zigzag_order(*transform.plane_shape(m, n))
    total = (transform.frequency(m)[:, None] + transform.frequency(n)).flatten()
    return zigzag[total[zigzag].argsort(stable=True)]


class Cosine(Separable):
    """The DCT-II, `scipy.fft.dctn(W, norm="ortho")`, in zigzag order (ITU-T T.81)."""

    name = "dct"

    def side(self, n: int) -> Tensor:
        return dct_matrix(n)

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return m, n

    def forward(self, weight: Tensor) -> Tensor:
        return dct2(weight)

    def inverse(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        if not fft_pays(*shape, plane.device):
            return super().inverse(plane, shape)
        self._check(plane, shape)
        plane = _precise(plane)
        packed = plane.new_zeros(packed_shape(*shape))
        packed.view(-1)[packed_places(*shape).to(plane.device)] = plane
        return idct2_packed(packed, shape, cosine_plan(*shape, plane.device, plane.dtype))


@cached(maxsize=8)
def _pairing(m: int, n: int) -> Tensor:
    """c of `Fourier`: the plane is Re(conj(c) F); (m, n), complex128."""
    place = torch.arange(m * n).view(m, n)
    partner = (-torch.arange(m) % m)[:, None] * n + -torch.arange(n) % n
    real, imaginary = (
        (half.double() * math.sqrt(2)) for half in (place <= partner, place > partner)
    )
    real[place == partner] = 1
    return torch.complex(real, -imaginary)


class Fourier(Transform):
    """The 2-D DFT F = `numpy.fft.fft2(W, norm="ortho")` as mn real coefficients.

    F of a real matrix is conjugate symmetric, F[-p] = conj F[p] with indices modulo the shape. Of
    the two places p and -p the first one, row by row, holds sqrt(2) Re F[p] and the other sqrt(2)
    Im F[p], p the first; a place that is its own partner holds F[p], which is real. The squares of
    a pair sum to |F[p]|^2 + |F[-p]|^2.
    """

    name = "fourier"

    def forward(self, weight: Tensor) -> Tensor:
        weight = _precise(weight)
        return self._plane(torch.fft.fft2(weight, norm="ortho"))

    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = _precise(left), _precise(right)
        with without_autocast(left.device):
            return self._plane(
                torch.fft.fft(left, dim=0, norm="ortho") @ torch.fft.fft(right, dim=1, norm="ortho")
            )

    def _plane(self, spectrum: Tensor) -> Tensor:
        c = shared(_pairing(*spectrum.shape), spectrum.device, spectrum.dtype)
        return c.real * spectrum.real + c.imag * spectrum.imag

    def inverse(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        self._check(plane, shape)
        plane = _precise(plane)
        dtype = torch.complex128 if plane.dtype == torch.float64 else torch.complex64
        return torch.fft.ifft2(
            shared(_pairing(*shape), plane.device, dtype) * plane, norm="ortho"
        ).real

    def order(self, m: int, n: int) -> Tensor:
        """By the wrapped frequency 2 min(k, m - k) + 2 min(l, n - l), ties row by row."""
        return _wrapped_order(m, n)


@cached(maxsize=32)
def _wrapped_order(m: int, n: int) -> Tensor:
    k, l = torch.arange(m), torch.arange(n)  # noqa: E741
    return (
        (torch.minimum(k, m - k)[:, None] + torch.minimum(l, n - l)).flatten().argsort(stable=True)
    )


def _paley(n: int) -> int | None:
    """The order of Paley's factor of a Hadamard matrix of n = 2^k (q + 1), the least; 1 for a power of two."""
    if n & (n - 1) == 0:
        return 1
    order = n // (n & -n) * 4
    while n % order == 0:
        if all((order - 1) % d for d in range(2, math.isqrt(order - 1) + 1)):
            return order
        order *= 2
    return None


@cached(maxsize=128)
def hadamard_size(n: int) -> int:
    """The least N >= n of the form 2^k or 2^k (q + 1), q a prime of the form 4 j + 3."""
    while _paley(n) is None:
        n += 1
    return n


@cached(maxsize=32)
def hadamard_matrix(n: int) -> Tensor:
    """A Hadamard matrix by sequency: entries +-1, first column and first row 1, H H^T = n; (n, n), float64.

    Sylvester's construction of order 2^k, on each entry of Paley's first (J. Math. Phys. 12, 1933)
    of order q + 1. Rows are sorted by their sign changes, ties in the construction's order. For a
    power of two there are no ties, and they are the Walsh functions. For others the lowest 2^j (q +
    1) rows span the functions of as many equal steps, and among the lowest q + 1 frequency means
    little: a Paley row that is not constant changes sign about q / 2 times.

    Raises:
        ValueError: for an n that is no `hadamard_size`.
    """
    order = _paley(n)
    if order is None:
        raise ValueError(f"n must be 2^k or 2^k (q + 1) with a prime q = 3 mod 4, got {n}")
    h = torch.ones(1, 1, dtype=torch.float64)
    if order > 1:
        q = order - 1
        character = -torch.ones(q, dtype=torch.float64)  # Legendre's symbol
        character[torch.arange(q) ** 2 % q] = 1
        character[0] = 0
        h = torch.eye(order, dtype=torch.float64)
        h[0, 1:] = 1
        h[1:, 0] = -1
        h[1:, 1:] += character[(torch.arange(q)[:, None] - torch.arange(q)) % q]
    for _ in range((n // order).bit_length() - 1):
        h = torch.kron(h, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    h = h * h[:, :1]
    return h[(h[:, 1:] != h[:, :-1]).sum(1).argsort(stable=True)]


@cached(maxsize=32)
def _hadamard_side(n: int) -> Tensor:
    size = hadamard_size(n)
    return hadamard_matrix(size)[:, :n] / math.sqrt(size)


class Hadamard(Separable):
    """The Walsh-Hadamard transform by sequency, in zigzag order.

    384, 768, 3072 and 4096 have a matrix of their own, as in QuaRot (arXiv 2404.00456), 768 = 64 x
    12. A size that has none is padded with zeros up to `hadamard_size`, as in Fastfood (Le et al.,
    ICML 2013): the plane is then larger than the matrix, with the same energy.
    """

    name = "hadamard"

    def side(self, n: int) -> Tensor:
        return _hadamard_side(n)

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return hadamard_size(m), hadamard_size(n)


def _haar_levels(n: int) -> list[int]:
    """How many rows each level of `haar_wavelets` has, coarse to fine, the constant first."""
    levels = []
    while n > 1:
        levels.append(n // 2)
        n -= n // 2
    return [1, *reversed(levels)]


@cached(maxsize=32)
def haar_wavelets(n: int) -> Tensor:
    """The orthonormal Haar wavelets of an axis, the constant first, then coarse to fine; (n, n), float64.

    At each level neighbours a and b with supports s and t become sqrt(s) a + sqrt(t) b, which goes
    up, and the detail sqrt(t) a - sqrt(s) b, both over sqrt(s + t); an odd last one goes up
    unchanged. For a power of two these are the coefficients of `pywt.wavedec(x, "haar")`, for
    others the unbalanced Haar wavelets of Girardi and Sweldens (J. Fourier Anal. Appl. 3(4), 1997;
    Fryzlewicz, J. Am. Stat. Assoc. 102, 2007).
    """
    rows, support = torch.eye(n, dtype=torch.float64), torch.ones(n, 1, dtype=torch.float64)
    details: list[Tensor] = []
    while len(rows) > 1:
        even = len(rows) // 2 * 2
        a, b, s, t = rows[0:even:2], rows[1:even:2], support[0:even:2], support[1:even:2]
        details.insert(0, (t.sqrt() * a - s.sqrt() * b) / (s + t).sqrt())
        rows = torch.cat([(s.sqrt() * a + t.sqrt() * b) / (s + t).sqrt(), rows[even:]])
        support = torch.cat([s + t, support[even:]])
    return torch.cat([rows, *details])


class Haar(Separable):
    """The standard (separable) Haar wavelet transform, `pywt.fswavedecn` for powers of two.

    Both sides decomposed to the end, each on its own (Stollnitz, DeRose and Salesin, IEEE CG&A
    15(3), 1995). The frequency of a row is the number of rows of coarser levels: 0 1 2 2 4 4 4 4 8
    ...
    """

    name = "haar"

    def side(self, n: int) -> Tensor:
        return haar_wavelets(n)

    def frequency(self, n: int) -> Tensor:
        levels = torch.tensor(_haar_levels(n))
        return (levels.cumsum(0) - levels).repeat_interleave(levels)

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return m, n


class Random(Separable):
    """A random orthonormal basis, for comparison: what a transform is worth is what it does better.

    Its coefficients have no frequency, and their order means nothing.
    """

    name = "random"

    def side(self, n: int) -> Tensor:
        return haar_matrix(n, 0, "transform")

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return m, n


TRANSFORMS: Mapping[str, Transform] = {
    t.name: t for t in (Cosine(), Fourier(), Hadamard(), Haar(), Random())
}


def transform(name: str) -> Transform:
    """The transform of this name.

    Raises:
        ValueError: for a name that is not in `TRANSFORMS`.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"transform must be {', '.join(TRANSFORMS)}, got {name!r}")
    return TRANSFORMS[name]
