"""Two-dimensional orthonormal transforms: S = L W R^T and its inverse W = L^T S R, L and R orthogonal.

Two ways to compute them. `rotate` multiplies by stored matrices, 2 mn (m + n) operations. For the
DCT-II, `dct2_packed` goes through a real FFT (Makhoul, IEEE TASSP 28(1), 1980) in O(mn log mn). The
coefficients are then kept in the order in which the FFT wants them, a *plane* of `packed_shape`: an
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

from zoo.bases.seeds import cached, dct_matrix, of_device, without_autocast

FFT_FROM = {"cpu": 160 * 160, "cuda": 1024 * 1024}
"""Fewest weights for which the FFT is used, by type of device.

"cpu" is measured (results/transforms.csv); "cuda" is a guess, unmeasured: `python -m results.gpu.thresholds`.
"""


def fft_pays(m: int, n: int, device: torch.device | str) -> bool:
    """Whether the FFT beats matrix products for an (m, n) DCT on this device."""
    return m * n >= of_device(FFT_FROM, device)


class Sides(NamedTuple):
    """The two orthogonal matrices of a separable basis, basis vectors as rows."""

    left: Tensor  # (m, m)
    right: Tensor  # (n, n)


class SomeSides(NamedTuple):
    """The same; None leaves an axis as it is."""

    left: Tensor | None
    right: Tensor | None


def rotate(weight: Tensor, sides: Sides | SomeSides) -> Tensor:
    """S = L W R^T; (..., m, n) to (..., m, n).

    The adjoint, and for orthogonal L and R the inverse: `unrotate`.
    """
    with without_autocast(weight.device):
        weight = weight if sides.left is None else sides.left @ weight
        return weight if sides.right is None else weight @ sides.right.mT


def unrotate(plane: Tensor, sides: Sides | SomeSides) -> Tensor:
    """W = L^T S R; (..., m, n) to (..., m, n)."""
    with without_autocast(plane.device):
        plane = plane if sides.left is None else sides.left.mT @ plane
        return plane if sides.right is None else plane @ sides.right


class CosinePlan(NamedTuple):
    """Tables for `dct2_packed` and `idct2_packed` of (m, n) matrices: m + n complex numbers."""

    phase_m: (
        Tensor | None
    )  # (m // 2 + 1,) turns the FFT's bins into DCT coefficients along axis 0; None leaves it
    phase_n: Tensor  # (n // 2 + 1,) the same along axis 1
    unphase_m: Tensor | None  # 1 / phase_m
    unphase_n: Tensor  # 1 / phase_n


def _phase(n: int) -> Tensor:
    """What takes the FFT of an axis in the order of `_shuffle` to its DCT; (n // 2 + 1,), complex128.

    With v = (w_1, w_3, w_5, ..., w_4, w_2, w_0) and V = rfft(v, norm="ortho"),

        X_k + i X_{n-k} = sqrt(2) exp(-3 i pi k / 2n) V_k,     X_0 = V_0,     X_{n/2} = -V_{n/2} for
        even n:

    Makhoul's sequence backwards, which is its FFT's conjugate, and one place on, a factor exp(2 i
    pi k / n).
    """
    phase = math.sqrt(2) * torch.exp(-1.5j * math.pi / n * torch.arange(n // 2 + 1).double())
    phase[0] = 1
    if n % 2 == 0:
        phase[-1] = -1
    return phase


def _slots(n: int) -> Tensor:
    """Where the DCT coefficients of an axis stand among the reals of its n // 2 + 1 complex numbers; (n,)."""
    k = torch.arange(n)
    return torch.where(k <= n // 2, 2 * k, 2 * (n - k) + 1)


BLOCK = {"cpu": 1 << 18, "cuda": 1 << 40}
"""Numbers that are reordered at a time, by type of device.

On a CPU so many that what `flip` makes stays in the cache. "cuda" is unmeasured: all at once, since a launch takes as
long as reading some millions of numbers.
"""

BLOCKED_FROM = {"cpu": 1 << 19, "cuda": 1 << 19}
"""Fewest weights that are transposed in a pass of its own, by type of device: torch has a blocked copy for CPUs.

"cuda" is a CPU's, unmeasured.
"""


def _shuffle(w: Tensor, out: Tensor) -> Tensor:
    """The last axis in the FFT's order: the odd places, then the even ones backwards."""
    odd = w.shape[-1] // 2
    for part, to in _blocks(w, out):
        to[..., :odd] = part[..., 1::2]
        to[..., odd:] = part[..., ::2].flip(-1)
    return out


def _unshuffle(v: Tensor, out: Tensor) -> Tensor:
    """The inverse of `_shuffle`."""
    odd = v.shape[-1] // 2
    for part, to in _blocks(v, out):
        to[..., 1::2] = part[..., :odd]
        to[..., ::2] = part[..., odd:].flip(-1)
    return out


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both in pieces of `BLOCK` numbers along the first axis."""
    rows = max(1, of_device(BLOCK, a.device) * len(a) // max(1, a.numel()))
    return ((a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))


def _shuffle_transposed(y: Tensor) -> Tensor:
    """`_shuffle` of y^T; (..., m, n) to (..., n, m). May overwrite y."""
    out = y.new_empty(*y.shape[:-2], y.shape[-1], y.shape[-2])
    if math.prod(y.shape[-2:]) < of_device(BLOCKED_FROM, y.device):
        return _shuffle(y.mT, out)
    return _shuffle(_transpose(y, out), y.view_as(out))


def _unshuffle_transposed(y: Tensor) -> Tensor:
    """`_unshuffle` of y, transposed; (..., m, n) to (..., n, m). May overwrite y."""
    shape = *y.shape[:-2], y.shape[-1], y.shape[-2]
    if math.prod(y.shape[-2:]) < of_device(BLOCKED_FROM, y.device):
        return _unshuffle(y, y.new_empty(shape).mT).mT
    return _transpose(_unshuffle(y, torch.empty_like(y)), y.view(shape))


def _transpose(x: Tensor, out: Tensor) -> Tensor:
    """x^T, into `out`, matrix by matrix."""
    matrices, to = x.reshape(-1, *x.shape[-2:]), out.view(-1, *out.shape[-2:])
    for i in range(len(matrices)):
        to[i].copy_(matrices[i].t())
    return out


def packed_shape(m: int, n: int, rows_only: bool = False) -> tuple[int, ...]:
    """The packed plane of (m, n): axis 0 as complex numbers, axis 1 as rows of real and of imaginary parts.

    With `rows_only` axis 0 is left as it is, and axis 1 is complex.
    """
    return (m, n // 2 + 1, 2) if rows_only else (2 * (n // 2 + 1), m // 2 + 1, 2)


@cached(maxsize=64)
def packed_places(m: int, n: int, rows_only: bool = False) -> Tensor:
    """Where coefficient (k, l) of an (m, n) DCT lies in the flat packed plane; (m, n), int64."""
    if rows_only:
        return torch.arange(m)[:, None] * 2 * (n // 2 + 1) + _slots(n)
    return _slots(n) * 2 * (m // 2 + 1) + _slots(m)[:, None]


@cached(maxsize=64)
def cosine_plan(
    m: int, n: int, device: torch.device, dtype: torch.dtype, rows_only: bool = False
) -> CosinePlan:
    """The tables for (m, n) matrices of real `dtype`, shared by all who ask for the same."""
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    phase_m, phase_n = None if rows_only else _phase(m), _phase(n)
    inverses = None if phase_m is None else 1 / phase_m, 1 / phase_n
    tables = (
        None if p is None else p.to(device, complex_dtype) for p in (phase_m, phase_n, *inverses)
    )
    return CosinePlan(*tables)  # type: ignore[arg-type]


def dct2_packed(weight: Tensor, plan: CosinePlan) -> Tensor:
    """The 2-D DCT-II of (..., m, n), as packed planes.

    `result.flatten()[packed_places(m, n)]` of one matrix is `scipy.fft.dctn`'s, or
    `scipy.fft.dct`'s of its rows.
    """
    *batch, m, n = weight.shape
    v = _shuffle(weight, weight.new_empty(*batch, m, n))
    y = torch.view_as_real(
        torch.fft.rfft(v, norm="ortho").mul_(plan.phase_n)
    )  # (..., m, bins_n, 2)
    if plan.phase_m is None:
        return y
    y = _shuffle_transposed(y.flatten(-2))
    return torch.view_as_real(torch.fft.rfft(y, norm="ortho").mul_(plan.phase_m))


def idct2_packed(plane: Tensor, shape: tuple[int, int], plan: CosinePlan) -> Tensor:
    """The inverse: packed planes, zero where no coefficient has its place, to (..., m, n).

    Overwrites `plane`.
    """
    m, n = shape
    if plan.unphase_m is not None:
        y = torch.view_as_complex(plane).mul_(plan.unphase_m)  # (..., 2 bins_n, bins_m)
        y = torch.fft.irfft(y, n=m, norm="ortho")
        plane = _unshuffle_transposed(y).unflatten(-1, (-1, 2))  # (..., m, bins_n, 2)
    v = torch.fft.irfft(torch.view_as_complex(plane).mul_(plan.unphase_n), n=n, norm="ortho")
    return _unshuffle(v, torch.empty_like(v))


def synthesize(plane: Tensor, shape: tuple[int, int], tables: SomeSides | CosinePlan) -> Tensor:
    """W from planes laid out for these tables; to (..., m, n)."""
    return (
        unrotate(plane, tables)
        if isinstance(tables, SomeSides)
        else idct2_packed(plane, shape, tables)
    )


def analyze(weight: Tensor, tables: SomeSides | CosinePlan) -> Tensor:
    """The inverse and adjoint of `synthesize`: the planes of (..., m, n) matrices, laid out for these tables."""
    return rotate(weight, tables) if isinstance(tables, SomeSides) else dct2_packed(weight, tables)


def dct2(weight: Tensor) -> Tensor:
    """The orthonormal 2-D DCT-II of an (m, n) matrix, equal to `scipy.fft.dctn(weight, norm="ortho")`; |S| = |W|."""
    m, n = weight.shape
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if fft_pays(m, n, weight.device):
        plan = cosine_plan(m, n, weight.device, weight.dtype)
        return dct2_packed(weight, plan).flatten()[packed_places(m, n).to(weight.device)]
    return rotate(weight, Sides(dct_matrix(m).to(weight), dct_matrix(n).to(weight)))
