"""The cosine basis: the DCT-II of both sides of a matrix, or of its rows alone.

Two ways to compute it. `SomeSides` multiplies by stored cosines, 2 mn (m + n) operations.
`CosinePlan` goes through a real FFT (Makhoul, IEEE TASSP 28(1), 1980) in O(mn log mn). The
coefficients are then kept in the order in which the FFT wants them, a plane of `packed_shape`: an
axis of n coefficients becomes n // 2 + 1 complex numbers, X_k + i X_{n-k}. Whoever scatters
coefficients anyway scatters them straight to their places in the plane, and no pass over the matrix
is spent on reordering. Which way is faster depends on size and device: `fft_pays` holds the
measurement in results/transforms.csv.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.basis import Plan, Separable
from zoo.bases.fourier import fft_multiply_adds
from zoo.bases.seeds import cached, of_device

FFT_FROM = {"cpu": 160 * 160, "cuda": 1024 * 1024}
"""Fewest weights for which the FFT is used, by type of device.

"cpu" is measured (results/transforms.csv); "cuda" is a guess, unmeasured: `python -m
results.gpu.thresholds`.
"""


def fft_pays(m: int, n: int, device: torch.device | str) -> bool:
    """Say whether the FFT beats matrix products for an (m, n) DCT on this device."""
    return m * n >= of_device(FFT_FROM, device)


class CosinePlan(NamedTuple):
    """The plan of the FFT for (m, n) matrices: m + n complex numbers.

    A phase, (n // 2 + 1,), turns the FFT's bins into DCT coefficients along an axis; None leaves
    axis 0 as it is.
    """

    phase_m: Tensor | None
    phase_n: Tensor
    unphase_m: Tensor | None  # 1 / phase_m
    unphase_n: Tensor  # 1 / phase_n

    def analyze(self, weight: Tensor) -> Tensor:
        """Return the packed planes of (..., m, n) matrices."""
        return dct2_packed(weight, self)

    def synthesize(self, plane: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the matrices of packed planes, which are overwritten."""
        return idct2_packed(plane, shape, self)

    def multiply_adds(self, shape: tuple[int, int]) -> int:
        """Count m real transforms of n numbers, and 2 (n // 2 + 1) of m unless rows are left."""
        m, n = shape
        columns = 0 if self.phase_m is None else 2 * (n // 2 + 1)
        return fft_multiply_adds(n, m) + fft_multiply_adds(m, columns)


@cached(maxsize=32)
def dct_matrix(n: int) -> Tensor:
    """Return the orthonormal DCT-II, C[k, i] = sqrt((2 - [k = 0]) / n) cos(pi (2 i + 1) k / 2 n).

    It is (n, n), float64, and C x is `scipy.fft.dct(x, norm="ortho")`; rows are the cosines, lowest
    frequency first.
    """
    k = torch.arange(n, dtype=torch.float64)
    c = torch.cos(math.pi / (2 * n) * (2 * k + 1) * k[:, None]) * math.sqrt(2 / n)
    c[0] /= math.sqrt(2)
    return c


def _phase(n: int) -> Tensor:
    """Return what takes the FFT of an axis in the order of `_shuffle` to its DCT; (n // 2 + 1,).

    With v = (w_1, w_3, w_5, ..., w_4, w_2, w_0) and V = rfft(v, norm="ortho"),

        X_k + i X_{n-k} = sqrt(2) exp(-3 i pi k / 2n) V_k,    X_0 = V_0,
        X_{n/2} = -V_{n/2} for even n:

    Makhoul's sequence backwards, which is its FFT's conjugate, and one place on, a factor exp(2 i
    pi k / n).
    """
    phase = math.sqrt(2) * torch.exp(-1.5j * math.pi / n * torch.arange(n // 2 + 1).double())
    phase[0] = 1
    if n % 2 == 0:
        phase[-1] = -1
    return phase


def _slots(n: int) -> Tensor:
    """Return where the DCT coefficients of an axis stand among its reals, re im re im ...; (n,)."""
    k = torch.arange(n)
    return torch.where(k <= n // 2, 2 * k, 2 * (n - k) + 1)


BLOCK = {"cpu": 1 << 18, "cuda": 1 << 40}
"""Numbers that are reordered at a time, by type of device.

On a CPU so many that what `flip` makes stays in the cache. "cuda" is unmeasured: all at once, since
a launch takes as long as reading some millions of numbers.
"""

BLOCKED_FROM = {"cpu": 1 << 19, "cuda": 1 << 19}
"""Fewest weights that are transposed in a pass of its own, by type of device.

torch has a blocked copy for CPUs. "cuda" is a CPU's, unmeasured.
"""


def _shuffle(w: Tensor, out: Tensor) -> Tensor:
    """Write the last axis in the FFT's order: the odd places, then the even ones backwards."""
    odd = w.shape[-1] // 2
    for part, to in _blocks(w, out):
        to[..., :odd] = part[..., 1::2]
        to[..., odd:] = part[..., ::2].flip(-1)
    return out


def _unshuffle(v: Tensor, out: Tensor) -> Tensor:
    """Write the inverse of `_shuffle`."""
    odd = v.shape[-1] // 2
    for part, to in _blocks(v, out):
        to[..., 1::2] = part[..., :odd]
        to[..., ::2] = part[..., odd:].flip(-1)
    return out


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return both in pieces of `BLOCK` numbers along the first axis."""
    rows = max(1, of_device(BLOCK, a.device) * len(a) // max(1, a.numel()))
    return ((a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))


def _shuffle_transposed(y: Tensor) -> Tensor:
    """Return `_shuffle` of y^T; (..., m, n) to (..., n, m). May overwrite y."""
    out = y.new_empty(*y.shape[:-2], y.shape[-1], y.shape[-2])
    if math.prod(y.shape[-2:]) < of_device(BLOCKED_FROM, y.device):
        return _shuffle(y.mT, out)
    return _shuffle(_transpose(y, out), y.view_as(out))


def _unshuffle_transposed(y: Tensor) -> Tensor:
    """Return `_unshuffle` of y, transposed; (..., m, n) to (..., n, m). May overwrite y."""
    shape = *y.shape[:-2], y.shape[-1], y.shape[-2]
    if math.prod(y.shape[-2:]) < of_device(BLOCKED_FROM, y.device):
        return _unshuffle(y, y.new_empty(shape).mT).mT
    return _transpose(_unshuffle(y, torch.empty_like(y)), y.view(shape))


def _transpose(x: Tensor, out: Tensor) -> Tensor:
    """Copy x^T into `out`, matrix by matrix."""
    matrices, to = x.reshape(-1, *x.shape[-2:]), out.view(-1, *out.shape[-2:])
    for i in range(len(matrices)):
        to[i].copy_(matrices[i].t())
    return out


def packed_shape(m: int, n: int, rows_only: bool = False) -> tuple[int, ...]:
    """Return the shape of the packed plane of (m, n) matrices.

    Axis 0 is complex numbers, axis 1 rows of real and of imaginary parts.

    With `rows_only` axis 0 is left as it is, and axis 1 is complex.
    """
    return (m, n // 2 + 1, 2) if rows_only else (2 * (n // 2 + 1), m // 2 + 1, 2)


@cached(maxsize=64)
def packed_places(m: int, n: int, rows_only: bool = False) -> Tensor:
    """Return where coefficient (k, l) lies in the flat packed plane; (m, n), int64."""
    if rows_only:
        return torch.arange(m)[:, None] * 2 * (n // 2 + 1) + _slots(n)
    return _slots(n) * 2 * (m // 2 + 1) + _slots(m)[:, None]


@cached(maxsize=64)
def cosine_plan(
    m: int, n: int, device: torch.device, dtype: torch.dtype, rows_only: bool = False
) -> CosinePlan:
    """Return the tables for (m, n) matrices of real `dtype`, shared by all who ask for the same."""
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    phase_m, phase_n = None if rows_only else _phase(m), _phase(n)
    inverses = None if phase_m is None else 1 / phase_m, 1 / phase_n
    tables = (
        None if p is None else p.to(device, complex_dtype) for p in (phase_m, phase_n, *inverses)
    )
    return CosinePlan(*tables)  # type: ignore[arg-type]


def dct2_packed(weight: Tensor, plan: CosinePlan) -> Tensor:
    """Return the 2-D DCT-II of (..., m, n), as packed planes.

    `result.flatten()[packed_places(m, n)]` of one matrix is `scipy.fft.dctn`'s, or
    `scipy.fft.dct`'s of its rows.
    """
    *batch, m, n = weight.shape
    v = _shuffle(weight, weight.new_empty(*batch, m, n))
    # (..., m, bins_n, 2)
    y = torch.view_as_real(torch.fft.rfft(v, norm="ortho").mul_(plan.phase_n))
    if plan.phase_m is None:
        return y
    y = _shuffle_transposed(y.flatten(-2))
    return torch.view_as_real(torch.fft.rfft(y, norm="ortho").mul_(plan.phase_m))


def idct2_packed(plane: Tensor, shape: tuple[int, int], plan: CosinePlan) -> Tensor:
    """Return the inverse: packed planes, zero where no coefficient has its place, to (..., m, n).

    Overwrites `plane`.
    """
    m, n = shape
    if plan.unphase_m is not None:
        y = torch.view_as_complex(plane).mul_(plan.unphase_m)  # (..., 2 bins_n, bins_m)
        y = torch.fft.irfft(y, n=m, norm="ortho")
        plane = _unshuffle_transposed(y).unflatten(-1, (-1, 2))  # (..., m, bins_n, 2)
    v = torch.fft.irfft(torch.view_as_complex(plane).mul_(plan.unphase_n), n=n, norm="ortho")
    return _unshuffle(v, torch.empty_like(v))


class Cosine(Separable):
    """The DCT-II, `scipy.fft.dctn(W, norm="ortho")`, in zigzag order (ITU-T T.81)."""

    name = "dct"
    rows_only = False

    def side(self, n: int, axis: int) -> Tensor | None:
        return dct_matrix(n)

    def plan(self, m: int, n: int, device: torch.device, dtype: torch.dtype) -> Plan:
        if fft_pays(m, n, device):
            return cosine_plan(m, n, device, dtype, self.rows_only)
        return self.sides(m, n, device, dtype)

    def layout(self, m: int, n: int, device: torch.device) -> tuple[Tensor | None, tuple[int, ...]]:
        if not fft_pays(m, n, device):
            return None, (m, n)
        shape = m, n, self.rows_only
        return packed_places(*shape), packed_shape(*shape)

    def storage_order(self, m: int, n: int) -> Tensor | None:
        """Return the packed plane's order: the scatter then runs through memory in order."""
        return packed_places(m, n, False)  # the very tensor of `layout`, which is kept by arguments


class RowCosine(Cosine):
    """The DCT-II of each row, `scipy.fft.dct(W, axis=1, norm="ortho")`."""

    name = "row_dct"
    rows_only = True

    def side(self, n: int, axis: int) -> Tensor | None:
        return dct_matrix(n) if axis == 1 else None

    def storage_order(self, m: int, n: int) -> Tensor | None:
        return None
