"""Rank and spectrum of a matrix: pure functions of torch, shared by callbacks and commands."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from zoo.bases import transform
from zoo.bases.basis import Sides, rotate
from zoo.bases.seeds import haar_matrix, shared
from zoo.bases.selection import zigzag_order

SHARES = (0.5, 0.9, 0.99)
"""Parts of the energy whose cost in coefficients is measured: k50, k90 and k99."""
LOW = (0.1, 0.25, 0.5)
"""Parts of the coefficients, lowest frequencies first, whose energy is measured: low_10, ..."""
GAUSSIAN = {"k50": 0.1240, "k90": 0.4446, "k99": 0.7347}
"""Shares of a large matrix of independent normal entries, in any orthonormal basis.

The share P(|x| > t) of its coefficients, where t phi(t) + Q(t) is half of 0.5, 0.9 or 0.99.
"""

# ---- Rank ----------------------------------------------------------------------------------------


def stable_rank(weight: Tensor, tolerance: float = 1e-5, max_iterations: int = 200) -> Tensor:
    """Return |W|_F^2 / |W|_2^2, the squared norm in units of the largest squared singular value.

    It lies between 1 and the rank.     The spectral norm comes from power iteration on W^T W, which
    approaches it from below, so that a result errs upwards; it stops when no estimate moved by more
    than `tolerance`, relatively. Rudelson and Vershynin, J. ACM 54(4), 2007.

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
    # A fixed start with a component along everything, rather than a random one: the result is a
    # function of W.
    start = (
        gram
        @ torch.cos(torch.arange(1, w.shape[-1] + 1, device=w.device, dtype=w.dtype) ** 2)[:, None]
    )
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
    return torch.where(
        norm > 0, w.square().sum((-2, -1)) / norm.clamp_min(torch.finfo(w.dtype).tiny), norm
    )


def effective_rank(singular_values: Tensor) -> float:
    """Return exp(H(p)) with p_i = s_i / sum s and H the entropy in nats.

    It lies between 1 and the rank, and is 0 for a zero matrix. Roy and Vetterli, "The effective
    rank", EUSIPCO 2007.

    Args:
        singular_values: (k,), in any order.
    """
    s = singular_values.detach().double()
    if not s.any():
        return 0.0
    p = s / s.sum()
    return float(torch.special.entr(p).sum().exp())


def numerical_rank(singular_values: Tensor, shape: tuple[int, int]) -> int:
    """Count singular values above max(m, n) eps s_1, float32's eps, as numpy's `matrix_rank`.

    Args:
        singular_values: (k,), in any order.
        shape: of the matrix that has them.
    """
    s = singular_values.detach()
    return int((s > max(shape) * torch.finfo(torch.float32).eps * s.max()).sum())


def ranks(singular_values: Tensor, shape: tuple[int, int]) -> dict[str, float]:
    """Return `stable_rank`, `effective_rank` and `numerical_rank` of an (m, n) matrix.

    It is that with these singular values, (k,).
    """
    s = singular_values.detach().double()
    return {
        "stable_rank": float(s.square().sum() / s.max() ** 2) if s.any() else 0.0,
        "effective_rank": effective_rank(s),
        "numerical_rank": numerical_rank(s, shape),
    }


# ---- Energy --------------------------------------------------------------------------------------


class Running:
    """Energies in a given order, by how many of the first hold how much.

    Args:
        energy: (K,), not negative.
    """

    def __init__(self, energy: Tensor) -> None:
        self.size = len(energy)
        self._sums = energy.cumsum(0, dtype=torch.float64).cpu().numpy()
        self.total = float(self._sums[-1])

    def held(self, counts: np.ndarray) -> np.ndarray:
        """Return the sums of the first so many, each at least 1; (c,) int to (c,) float64."""
        return self._sums[counts - 1]

    def count(self, share: float) -> int:
        """Return how many of the first hold `share`, in (0, 1], of the sum; 0 if that is 0."""
        return _first_at(self._sums, share * self.total) + 1 if self.total > 0 else 0


class LargestFirst:
    """What `Running` says of energies in descending order, without sorting them.

    They are counted and summed in bins, each of the numbers that share a float's exponent and first
    nine bits, and so lie within 0.2 % of each other, but for subnormal ones. `count` sorts the one
    bin that it ends in, and is exact; `held` takes the numbers of a bin for equal, which errs by
    less than 0.05 % of that bin's sum.

    Args:
        energy: (K,), not negative, float32, on the CPU.
    """

    def __init__(self, energy: Tensor) -> None:
        self.size, self._energy = len(energy), energy
        self._bins = (energy.view(torch.int32) >> 14) & 0x1FFFF  # a NaN may have a sign
        # Of the largest bin on, up to each.
        self._sums = self._bins.bincount(energy.double()).flip(0).cumsum(0).numpy()
        self.total = float(self._sums[-1])

    @cached_property
    def _counts(self) -> np.ndarray:
        return self._bins.bincount().flip(0).cumsum(0).numpy()

    def held(self, counts: np.ndarray) -> np.ndarray:
        """Return the sums of so many of the largest, each at least 1; (c,) int to (c,) float64."""
        return np.interp(counts, np.append(0, self._counts), np.append(0.0, self._sums))

    def count(self, share: float) -> int:
        """Return how many of the largest hold `share`, in (0, 1], of the sum; 0 if that is 0."""
        if self.total <= 0:
            return 0
        wanted = share * self.total
        end = _first_at(self._sums, wanted)
        last = len(self._sums) - 1 - end
        bins, held = self._bins.numpy(), self._sums[end - 1] if end else 0.0
        inside = np.sort(self._energy.numpy()[bins == last])[::-1]
        sums = inside.cumsum(dtype=np.float64) + held
        return int(np.count_nonzero(bins > last)) + _first_at(sums, wanted) + 1


class InOrder:
    """What `Running` says of energies in an order, without putting all of them into it.

    They are summed in a hundred parts, and of a part that a count ends in, they are looked up.

    Args:
        energy: (K,), not negative, on the CPU.
        order: (K,) all places; what follows from it alone is kept as long as it lives.
    """

    def __init__(self, energy: Tensor, order: Tensor) -> None:
        self.size, self._energy, self._order = len(order), energy, order
        self._edges = np.rint(np.arange(101) * self.size / 100).astype(np.int64)
        sums = self._parts().bincount(energy.double(), minlength=100).cumsum(0)
        self._sums = np.append(0.0, sums.numpy())
        self.total = float(self._sums[-1])

    def _parts(self) -> Tensor:
        """Return the part that each place is in; (K,)."""
        if self._order not in _parts_of:
            parts = torch.empty(self.size, dtype=torch.uint8)
            parts[self._order] = torch.arange(100, dtype=torch.uint8).repeat_interleave(
                torch.from_numpy(np.diff(self._edges))
            )
            _parts_of[self._order] = parts
        return _parts_of[self._order]

    def _first(self, start: int, end: int) -> np.ndarray:
        """Return the running sums of what lies between two counts."""
        between = self._energy.index_select(0, self._order[start:end])
        return between.cumsum(0, dtype=torch.float64).numpy()

    def held(self, counts: np.ndarray) -> np.ndarray:
        """Return the sums of the first so many, each at least 1; (c,) int to (c,) float64."""
        parts = np.searchsorted(self._edges, counts, side="right") - 1
        found = self._sums[parts]
        for i in np.flatnonzero(self._edges[parts] != counts):
            found[i] += self._first(self._edges[parts[i]], counts[i])[-1]
        return found

    def count(self, share: float) -> int:
        """Return how many of the first hold `share`, in (0, 1], of the sum; 0 if that is 0."""
        if self.total <= 0:
            return 0
        wanted = share * self.total
        part = _first_at(self._sums[1:], wanted)
        start, end = self._edges[part : part + 2]
        sums = self._first(start, end) + self._sums[part]
        return int(start) + _first_at(sums, wanted) + 1


_parts_of = WeakTensorKeyDictionary()
"""Of an order, as long as it lives."""


def _first_at(sums: np.ndarray, wanted: float) -> int:
    """Return the place of the first of ascending sums that is at least `wanted`, or the last."""
    return min(int(np.searchsorted(sums, wanted)), len(sums) - 1)


Energies = Running | LargestFirst | InOrder


def largest_first(energy: Tensor) -> Energies:
    """Return energies, (K,), in descending order."""
    if energy.device.type == "cpu" and energy.dtype == torch.float32:
        return LargestFirst(energy)
    return Running(energy.sort(descending=True).values)


def energy_share(energy: Tensor, share: float = 0.9) -> float:
    """Return the least part of a list, from its front, that holds `share` of its sum.

    It is in (0, 1], or 0 if the sum is 0.

    Args:
        energy: (K,), not negative.
        share: of the sum, in (0, 1].
    """
    return Running(energy).count(share) / len(energy)


def energy(coefficients: Tensor) -> Tensor:
    """Return the squares of a plane's coefficients as a list, float32 or wider."""
    wide = torch.promote_types(coefficients.dtype, torch.float32)
    return coefficients.detach().flatten().to(wide).square()


def spectral_energy(coefficients: Tensor, order: Tensor | None = None) -> dict[str, float]:
    """Say how the energy of an (M, N) plane of coefficients is spread.

    All values are in [0, 1], and 0 for a zero plane.

    Args:
        coefficients: of any orthonormal transform.
        order: (MN,) flat positions, lowest frequency first; by default in zigzag order, as for a
            DCT.

    Returns:
        k50, k90, k99: share of the coefficients, largest first, that holds 50, 90, 99 % of the
            energy (SpectralLoRA, arXiv 2604.10649); k50_frequency, ...: the same, lowest
            frequencies first; low_10, low_25, low_50: share of the energy in the first 10, 25, 50 %
            of the coefficients, lowest frequencies first.
    """
    squares = energy(coefficients)
    places = zigzag_order(*coefficients.shape) if order is None else order
    by_frequency = Running(squares.index_select(0, places.to(squares.device)))
    return measures(largest_first(squares), by_frequency)


def measures(magnitude: Energies, frequency: Energies) -> dict[str, float]:
    """Return `spectral_energy` of coefficients in both orders."""
    values = {f"k{share * 100:.0f}": magnitude.count(share) / magnitude.size for share in SHARES}
    values |= {
        f"k{share * 100:.0f}_frequency": frequency.count(share) / frequency.size for share in SHARES
    }
    counts = np.array([round(low * frequency.size) for low in LOW])
    with np.errstate(invalid="ignore"):  # of a plane that is not finite
        held = frequency.held(counts.clip(1)) * (counts > 0) / (frequency.total or 1.0)
    return values | {
        f"low_{low * 100:.0f}": float(part) for low, part in zip(LOW, held, strict=True)
    }


def dct_energy(weight: Tensor) -> dict[str, float]:
    """Return `spectral_energy` of the orthonormal 2-D DCT-II of W."""
    return spectral_energy(transform("dct").forward(weight.detach()))


# ---- The rotation null ---------------------------------------------------------------------------


def random_sides(m: int, n: int, draw: int, seed: int, like: Tensor) -> Sides:
    """Draw Haar-random rotations of the rows and the columns of (m, n) matrices.

    They are on the device and in the dtype of `like`, and a function of the lengths, the draw and
    the seed: all matrices with as many rows have the same for these.
    """
    q, p = haar_matrix(m, seed, "null", draw, 0), haar_matrix(n, seed, "null", draw, 1)
    return Sides(shared(q, like.device, like.dtype), shared(p, like.device, like.dtype))


def rotation_null(weight: Tensor, draws: int = 1, seed: int = 0) -> dict[str, float]:
    """Return the mean `dct_energy` of matrices with W's singular values in random directions.

    It is what W's spectrum forces by itself: a k90 below it is frequency structure, one beside it
    is none. The ranks need no null, since they depend on the singular values alone. Q W P with Q
    and P Haar has such singular vectors, and so has its DCT, since Haar measure does not see a
    fixed rotation; so the null is W's energy in a random separable basis.
    """
    w = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    results = [
        spectral_energy(rotate(w, random_sides(w.shape[0], w.shape[1], draw, seed, w)))
        for draw in range(draws)
    ]
    return {key: sum(r[key] for r in results) / draws for key in results[0]}
