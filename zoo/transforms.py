"""Two-dimensional orthonormal transforms: S = L W R^T and its inverse W = L^T S R, L and R orthogonal.

Two ways to compute them. `rotate` multiplies by stored matrices, 2 mn (m + n) operations. For the DCT-II,
`dct2_packed` goes through a real FFT (Makhoul, IEEE TASSP 28(1), 1980) in O(mn log mn). The coefficients are then kept
in the order in which the FFT wants them, a *plane* of `packed_shape`: an axis of n coefficients becomes
n // 2 + 1 complex numbers, X_k + i X_{n-k}. Whoever scatters coefficients anyway scatters them straight to their places
in the plane, and no pass over the matrix is spent on reordering. Which way is faster depends on size and device:
`fft_pays` holds the measurement in results/transforms.csv.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases import dct_matrix

FFT_FROM = {"cpu": 160 * 160, "cuda": 1024 * 1024}
"""Fewest weights for which the FFT is used: "cpu" measured (results/transforms.csv), "cuda" a guess, unmeasured."""


def fft_pays(m: int, n: int, device: torch.device | str) -> bool:
    """Whether the FFT beats matrix products for an (m, n) DCT on this device."""
    return m * n >= FFT_FROM.get(torch.device(device).type, FFT_FROM["cuda"])


class Sides(NamedTuple):
    """The two orthogonal matrices of a separable basis, basis vectors as rows."""

    left: Tensor  # (m, m)
    right: Tensor  # (n, n)


class SomeSides(NamedTuple):
    """The same; None leaves an axis as it is."""

    left: Tensor | None
    right: Tensor | None


def rotate(weight: Tensor, sides: Sides | SomeSides) -> Tensor:
    """S = L W R^T; (m, n) to (m, n). The adjoint, and for orthogonal L and R the inverse: `unrotate`."""
    with torch.autocast(weight.device.type, enabled=False):
        weight = weight if sides.left is None else sides.left @ weight
        return weight if sides.right is None else weight @ sides.right.mT


def unrotate(plane: Tensor, sides: Sides | SomeSides) -> Tensor:
    """W = L^T S R; (m, n) to (m, n)."""
    with torch.autocast(plane.device.type, enabled=False):
        plane = plane if sides.left is None else sides.left.mT @ plane
        return plane if sides.right is None else plane @ sides.right


class CosinePlan(NamedTuple):
    """Tables for `dct2_packed` and `idct2_packed` of (m, n) matrices."""

    phase_m: Tensor  # (m // 2 + 1,) complex: turns the FFT's bins into DCT coefficients along axis 0
    phase_n: Tensor  # (n // 2 + 1,) complex: the same along axis 1
    unphase_m: Tensor  # 1 / phase_m
    unphase_n: Tensor  # 1 / phase_n
    order: Tensor  # (mn,) where the FFT's input takes each of its entries in W.flatten()
    inverse: Tensor  # (mn,) the inverse permutation


def _axis(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Phases (n // 2 + 1,), slots (n,) and input order (n,) of one axis of length n.

    With v the sequence w_0 w_2 w_4 ... w_5 w_3 w_1 run backwards in time and V = rfft(v, norm="ortho"),
    X_k + i X_{n-k} = sqrt(2) exp(i pi k / 2n) V_k; V_0, and V_{n/2} for even n, are X_0 and X_{n/2} themselves.
    """
    bins = n // 2 + 1
    k = torch.arange(n)
    phase = math.sqrt(2) * torch.exp(1j * math.pi / (2 * n) * k[:bins].double())
    phase[0] = 1
    if n % 2 == 0:
        phase[-1] = 1
    slot = torch.where(k < bins, 2 * k, 2 * (n - k) + 1)
    shuffled = torch.cat([k[::2], k[1::2].flip(0)])
    return phase, slot, shuffled[(-k) % n]


def packed_shape(m: int, n: int) -> tuple[int, int, int]:
    """The packed plane of (m, n): axis 0 as complex numbers, axis 1 as rows of real and of imaginary parts."""
    return 2 * (n // 2 + 1), m // 2 + 1, 2


@lru_cache(maxsize=64)
def packed_places(m: int, n: int) -> Tensor:
    """Where coefficient (k, l) of an (m, n) DCT lies in the flat packed plane; (m, n), int64."""
    slot_m, slot_n = _axis(m)[1], _axis(n)[1]
    return slot_n * 2 * (m // 2 + 1) + slot_m[:, None]


@lru_cache(maxsize=64)
def cosine_plan(m: int, n: int, device: torch.device, dtype: torch.dtype) -> CosinePlan:
    """The tables for (m, n) matrices of real `dtype`, shared by all who ask for the same."""
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    (phase_m, _, order_m), (phase_n, _, order_n) = _axis(m), _axis(n)
    order = (order_m[:, None] * n + order_n).flatten()
    phases = [p.to(device, complex_dtype) for p in (phase_m, phase_n, 1 / phase_m, 1 / phase_n)]
    return CosinePlan(phases[0], phases[1], phases[2], phases[3], order.to(device), torch.argsort(order).to(device))


def dct2_packed(weight: Tensor, plan: CosinePlan) -> Tensor:
    """The 2-D DCT-II of (m, n), as a packed plane: `result.flatten()[packed_places(m, n)]` is `scipy.fft.dctn`'s."""
    m, n = weight.shape
    v = weight.flatten().index_select(0, plan.order).view(m, n)
    y = torch.fft.rfft(v, norm="ortho").mul_(plan.phase_n)  # (m, bins_n) complex
    y = torch.view_as_real(y).flatten(1).t().contiguous()  # (2 bins_n, m)
    return torch.view_as_real(torch.fft.rfft(y, norm="ortho").mul_(plan.phase_m))


def idct2_packed(plane: Tensor, shape: tuple[int, int], plan: CosinePlan) -> Tensor:
    """The inverse: a packed plane, zero where no coefficient has its place, to (m, n). Overwrites `plane`."""
    m, n = shape
    y = torch.view_as_complex(plane).mul_(plan.unphase_m)  # (2 bins_n, bins_m) complex
    y = torch.fft.irfft(y, n=m, norm="ortho").view(-1, 2, m).permute(2, 0, 1).contiguous()  # (m, bins_n, 2)
    v = torch.fft.irfft(torch.view_as_complex(y).mul_(plan.unphase_n), n=n, norm="ortho")  # (m, n), in the FFT's order
    return v.flatten().index_select(0, plan.inverse).view(m, n)


def synthesize(plane: Tensor, shape: tuple[int, int], tables: SomeSides | CosinePlan) -> Tensor:
    """W from a plane laid out for these tables; to (m, n)."""
    return unrotate(plane, tables) if isinstance(tables, SomeSides) else idct2_packed(plane, shape, tables)


def analyze(weight: Tensor, tables: SomeSides | CosinePlan) -> Tensor:
    """The inverse and adjoint of `synthesize`: the plane of an (m, n) matrix, laid out for these tables."""
    return rotate(weight, tables) if isinstance(tables, SomeSides) else dct2_packed(weight, tables)


def dct2(weight: Tensor) -> Tensor:
    """The orthonormal 2-D DCT-II of an (m, n) matrix, equal to `scipy.fft.dctn(weight, norm="ortho")`; |S| = |W|."""
    m, n = weight.shape
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if fft_pays(m, n, weight.device):
        plan = cosine_plan(m, n, weight.device, weight.dtype)
        return dct2_packed(weight, plan).flatten()[packed_places(m, n).to(weight.device)]
    return rotate(weight, Sides(dct_matrix(m).to(weight), dct_matrix(n).to(weight)))
