"""Rank and spectrum of a matrix: pure functions of torch, shared by callbacks and commands."""

import torch
from torch import Tensor

from zoo.bases import haar_matrix, shared
from zoo.selection import zigzag_order
from zoo.transforms import Sides, dct2, rotate


def stable_rank(weight: Tensor, tolerance: float = 1e-5, max_iterations: int = 200) -> Tensor:
    """|W|_F^2 / |W|_2^2, the squared norm in units of the largest squared singular value; between 1 and the rank.

    The spectral norm comes from power iteration on W^T W, which approaches it from below, so that a result errs
    upwards; it stops when no estimate moved by more than `tolerance`, relatively. Rudelson and Vershynin,
    J. ACM 54(4), 2007.

    Args:
        weight: (..., m, n), a matrix or a batch of them.
        tolerance: relative change of the spectral norm at which the iteration ends.
        max_iterations: at most so many products with W^T W.

    Returns:
        (...,), float32 or wider; 0 for a zero matrix.
    """
    w = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if w.shape[-1] > w.shape[-2]:
        w = w.mT
    gram = w.mT @ w  # (..., n, n): every iteration then costs n^2 instead of 2 mn
    # A fixed start with a component along everything, rather than a random one: the result is a function of W.
    start = gram @ torch.cos(torch.arange(1, w.shape[-1] + 1, device=w.device, dtype=w.dtype) ** 2)[:, None]
    v = start / start.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    norm = torch.zeros(w.shape[:-2], device=w.device, dtype=w.dtype)
    for _ in range(max_iterations):
        v = gram @ v
        new = v.norm(dim=-2).squeeze(-1)  # converges to |W|_2^2
        v = v / new[..., None, None].clamp_min(torch.finfo(w.dtype).tiny)
        if torch.all((new - norm).abs() <= tolerance * new):
            norm = new
            break
        norm = new
    return torch.where(norm > 0, w.square().sum((-2, -1)) / norm.clamp_min(torch.finfo(w.dtype).tiny), norm)


def energy_share(energy: Tensor, share: float = 0.9) -> float:
    """The least part of a list, taken from its front, that holds `share` of its sum; in (0, 1].

    Args:
        energy: (K,), not negative.
        share: of the sum, in (0, 1].
    """
    total = energy.cumsum(0, dtype=torch.float64)
    if total[-1] <= 0:
        return 0.0
    return (int((total < share * total[-1]).sum()) + 1) / len(energy)


def spectral_energy(coefficients: Tensor, low: float = 0.25) -> dict[str, float]:
    """How the energy of an (m, n) plane of coefficients is spread; all values in [0, 1].

    Returns:
        k90: share of the coefficients, largest first, that holds 90 % of the energy (SpectralLoRA,
            arXiv 2604.10649); k90_zigzag: the same, lowest frequencies first; low_frequency: the energy in the first
            `low` of the coefficients in zigzag order.
    """
    energy = coefficients.detach().float().square()
    m, n = energy.shape
    zigzag = energy.flatten()[zigzag_order(m, n).to(energy.device)]
    total = energy.sum()
    return {
        "k90": energy_share(energy.flatten().sort(descending=True).values),
        "k90_zigzag": energy_share(zigzag),
        "low_frequency": float(zigzag[: round(low * m * n)].sum() / total) if total > 0 else 0.0,
    }


def rotation_null(weight: Tensor, draws: int = 1, seed: int = 0) -> dict[str, float]:
    """`spectral_energy` of a matrix with W's singular values between Haar-random singular vectors; mean over draws.

    What W's spectrum forces by itself: a k90 below it is frequency structure, one beside it is none. Q W P with Q and P
    Haar has such singular vectors, and so has its DCT, since Haar measure does not see a fixed rotation; so the null
    is W's energy in a random separable basis, and needs no singular value decomposition.
    """
    m, n = weight.shape
    w = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    results = []
    for draw in range(draws):
        q, p = haar_matrix(m, seed, "null", draw, 0), haar_matrix(n, seed, "null", draw, 1)
        results.append(spectral_energy(rotate(w, Sides(shared(q, w.device, w.dtype), shared(p, w.device, w.dtype)))))
    return {key: sum(r[key] for r in results) / draws for key in results[0]}


def dct_energy(weight: Tensor) -> dict[str, float]:
    """`spectral_energy` of the orthonormal 2-D DCT-II of W."""
    return spectral_energy(dct2(weight.detach()))
