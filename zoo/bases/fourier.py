"""The Fourier basis of real matrices, in pairs of real coefficients, and its twin, Hartley's."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.basis import Basis, Separable, precise
from zoo.bases.seeds import cached, shared, without_autocast


def fft_multiply_adds(n: int, transforms: int = 1) -> int:
    """Count the multiply-adds of real Fourier transforms of n numbers; a complex one is two.

    By FFTW's convention, 5/2 n log2 n operations each, two of which are a multiply-add, whatever an
    algorithm takes for this n. A transform of several axes is one of all their numbers.
    """
    return round(1.25 * n * math.log2(n) * transforms)


@cached(maxsize=8)
def _pairing(m: int, n: int) -> Tensor:
    """Return c of `Fourier`, whose plane is Re(conj(c) F); (m, n), complex128."""
    place = torch.arange(m * n).view(m, n)
    partner = (-torch.arange(m) % m)[:, None] * n + -torch.arange(n) % n
    real, imaginary = (
        (half.double() * math.sqrt(2)) for half in (place <= partner, place > partner)
    )
    real[place == partner] = 1
    return torch.complex(real, -imaginary)


class FourierPlan(NamedTuple):
    """The plan of the FFT for (m, n) matrices: what makes a plane of conjugate pairs."""

    pairing: Tensor  # (m, n), complex

    def analyze(self, weight: Tensor) -> Tensor:
        """Return the planes of (..., m, n) matrices."""
        return self.plane(torch.fft.fft2(weight, norm="ortho"))

    def plane(self, spectrum: Tensor) -> Tensor:
        """Return the plane of the DFT F."""
        c = self.pairing
        return c.real * spectrum.real + c.imag * spectrum.imag

    def synthesize(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the matrices of planes."""
        return torch.fft.ifft2(self.pairing * plane, norm="ortho").real

    def multiply_adds(self, shape: tuple[int, int]) -> int:
        """Count a complex transform of mn numbers."""
        return fft_multiply_adds(math.prod(shape), 2)


class Fourier(Basis):
    """The 2-D DFT F = `numpy.fft.fft2(W, norm="ortho")` as mn real coefficients.

    F of a real matrix is conjugate symmetric, F[-p] = conj F[p] with indices modulo the shape. Of
    the two places p and -p the first one, row by row, holds sqrt(2) Re F[p] and the other sqrt(2)
    Im F[p], p the first; a place that is its own partner holds F[p], which is real. The squares of
    a pair sum to |F[p]|^2 + |F[-p]|^2.
    """

    name = "fourier"

    def plan(self, m: int, n: int, device: torch.device, dtype: torch.dtype) -> FourierPlan:
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        return FourierPlan(shared(_pairing(m, n), device, complex_dtype))

    def forward_product(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = precise(left), precise(right)
        plan = self.plan(left.shape[0], right.shape[1], left.device, left.dtype)
        with without_autocast(left.device):
            rows, columns = (
                torch.fft.fft(factor, dim=axis, norm="ortho")
                for axis, factor in enumerate((left, right))
            )
            return plan.plane(rows @ columns)

    def order(self, m: int, n: int) -> Tensor:
        """Return all places by the wrapped frequency min(k, m - k) + min(l, n - l), ties by row."""
        return _wrapped_order(m, n)


@cached(maxsize=32)
def _wrapped_order(m: int, n: int) -> Tensor:
    k, l = torch.arange(m), torch.arange(n)  # noqa: E741
    return (
        (torch.minimum(k, m - k)[:, None] + torch.minimum(l, n - l)).flatten().argsort(stable=True)
    )


@cached(maxsize=32)
def hartley_matrix(n: int) -> Tensor:
    """Return the orthonormal Hartley functions, cas(2 pi k i / n) / sqrt(n), cas t = cos t + sin t.

    It is (n, n), float64. Rows are k = 0, 1, n - 1, 2, n - 2, ..., lowest frequency min(k, n - k)
    first: k and n - k are one cosine at two phases. Of the DFT F of x, `numpy.fft.fft(x,
    norm="ortho")`, H x is Re F - Im F at these k.
    """
    k = torch.arange(n)
    k = k[torch.minimum(k, n - k).argsort(stable=True)]
    angle = 2 * math.pi / n * (k[:, None] * torch.arange(n) % n).double()
    return (angle.cos() + angle.sin()) / math.sqrt(n)


class Hartley(Separable):
    """The separable (cas-cas) discrete Hartley transform, its own inverse but for the order.

    Bracewell, J. Opt. Soc. Am. 73(12), 1983; of two dimensions, Bracewell, Buneman, Hao and
    Villasenor, Proc. IEEE 74(9), 1986, who take one side after the other as here and then combine
    four places for the true two-dimensional transform. It has Fourier's frequencies in real numbers
    without pairs of coefficients, and one matrix a side.
    """

    name = "hartley"

    def side(self, n: int, axis: int) -> Tensor:
        return hartley_matrix(n)

    def frequency(self, n: int) -> Tensor:
        """Return 0 1 1 2 2 3 ...: two rows a frequency, but for 0 and, of even n, the highest."""
        return (torch.arange(n) + 1) // 2
