"""The Haar wavelet basis, of any size."""

import math

import torch
from torch import Tensor

from zoo.bases.basis import Separable
from zoo.bases.seeds import cached


def _haar_levels(n: int) -> list[int]:
    """Return how many rows each level of `haar_wavelets` has, the constant first."""
    levels = []
    while n > 1:
        levels.append(n // 2)
        n -= n // 2
    return [1, *reversed(levels)]


@cached(maxsize=32)
def haar_wavelets(n: int) -> Tensor:
    """Return the orthonormal Haar wavelets of an axis; (n, n), float64.

    The constant is first, then come wavelets from coarse to fine. At each level neighbours a and b
    with supports s and t become sqrt(s) a + sqrt(t) b, which goes up, and the detail sqrt(t) a -
    sqrt(s) b, both over sqrt(s + t); an odd last one goes up unchanged. For a power of two these
    are the coefficients of `pywt.wavedec(x, "haar")`, for others the unbalanced Haar wavelets of
    Girardi and Sweldens (J. Fourier Anal. Appl. 3(4), 1997; Fryzlewicz, J. Am. Stat. Assoc. 102,
    2007).
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

    def side(self, n: int, axis: int) -> Tensor:
        return haar_wavelets(n)

    def frequency(self, n: int) -> Tensor:
        levels = torch.tensor(_haar_levels(n))
        return (levels.cumsum(0) - levels).repeat_interleave(levels)


def haar_step(x: Tensor, dim: int) -> Tensor:
    """Return one level of Haar's wavelets along an axis, orthonormal: averages, then details.

    Neighbours a and b become (a + b) / sqrt(2) and (a - b) / sqrt(2); an odd last one is kept, and
    stands behind the averages.
    """
    x = x.movedim(dim, -1)
    a, b, last = x[..., 0 : x.shape[-1] - 1 : 2], x[..., 1::2], x[..., x.shape[-1] // 2 * 2 :]
    root = math.sqrt(0.5)
    return torch.cat([(a + b) * root, last, (a - b) * root], -1).movedim(-1, dim)


def haar_unstep(y: Tensor, dim: int) -> Tensor:
    """Return the adjoint of `haar_step`, which is its inverse."""
    y = y.movedim(dim, -1)
    pairs = y.shape[-1] // 2
    low, last, high = y.split([pairs, y.shape[-1] % 2, pairs], -1)
    both = torch.stack([low + high, low - high], -1).flatten(-2) * math.sqrt(0.5)
    return torch.cat([both, last], -1).movedim(-1, dim)
