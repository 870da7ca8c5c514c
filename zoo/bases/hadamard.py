"""The Walsh-Hadamard basis: entries of one size, by sequency, for any length of an axis."""

import math

import torch
from torch import Tensor

from zoo.bases.basis import Separable
from zoo.bases.seeds import cached


def _paley(n: int) -> int | None:
    """Return the least order q + 1 of Paley's factor of a matrix of n = 2^k (q + 1).

    It is 1 for n = 2^k, and None for an n of neither form.
    """
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
    """Return the least N >= n of the form 2^k or 2^k (q + 1), q a prime of the form 4 j + 3."""
    while _paley(n) is None:
        n += 1
    return n


@cached(maxsize=32)
def hadamard_matrix(n: int) -> Tensor:
    """Return a Hadamard matrix by sequency: entries +-1, first row and column 1, H H^T = n.

    It is (n, n), float64: Sylvester's construction of order 2^k, on each entry of Paley's first (J.
    Math. Phys. 12, 1933) of order q + 1. Rows are sorted by their sign changes, ties in the
    construction's order. For a power of two there are no ties, and they are the Walsh functions.
    For others the lowest 2^j (q + 1) rows span the functions of as many equal steps, and among the
    lowest q + 1 frequency means little: a Paley row that is not constant changes sign about q / 2
    times.

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
def walsh_matrix(n: int) -> Tensor:
    """Return Sylvester's Hadamard matrix over sqrt(n), n a power of two; (n, n), float64.

    It is orthogonal and symmetric, and the Kronecker product of two is the one of n1 n2.
    """
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.kron(h, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return h / math.sqrt(n)


def walsh_factors(n: int) -> list[int]:
    """Return powers of two of product n, at most 32, as even as they go, largest first; [] of 1."""
    bits = n.bit_length() - 1
    count = -(-bits // 5)
    return [1 << (bits // count + (i < bits % count)) for i in range(count)]


def walsh_transform(x: Tensor, walsh: Tensor) -> Tensor:
    """Return H x, H = `walsh_matrix(n)`, its own inverse; (n,) to (n,), n a power of two.

    It is made one of `walsh_factors` f after another, of n f multiply-adds each: on a CPU products
    with 32 x 32 matrices are faster than the additions of log2(n) passes.

    Args:
        x: (n,).
        walsh: `walsh_matrix` of the first and largest factor, in x's dtype. Those of the others are
            its corners.
    """
    for f in walsh_factors(len(x)):
        corner = walsh if f == len(walsh) else walsh[:f, :f] * math.sqrt(len(walsh) / f)
        x = (x.view(f, -1).mT @ corner).flatten()  # the first axis becomes the last one
    return x


@cached(maxsize=32)
def _padded_side(n: int) -> Tensor:
    size = hadamard_size(n)
    return hadamard_matrix(size)[:, :n] / math.sqrt(size)


class PaddedHadamard(Separable):
    """The Walsh-Hadamard transform by sequency, in zigzag order.

    384, 768, 3072 and 4096 have a matrix of their own, as in QuaRot (arXiv 2404.00456), 768 = 64 x
    12. A size that has none is padded with zeros up to `hadamard_size`, as in Fastfood (Le et al.,
    ICML 2013): the plane is then larger than the matrix, with the same energy. Not every such plane
    is that of a matrix, so that it is no basis to train in; `BlockHadamard` is.
    """

    name = "hadamard"

    def side(self, n: int, axis: int) -> Tensor:
        return _padded_side(n)

    def plane_shape(self, m: int, n: int) -> tuple[int, int]:
        return hadamard_size(m), hadamard_size(n)


def hadamard_blocks(n: int) -> list[int]:
    """Return the sizes of Hadamard matrices that fill an axis of length n, largest first.

    Each is the largest that still fits, so that it is [n] for an n that has one, and 13 = 12 + 1,
    100 = 96 + 4.
    """
    sizes = []
    while n:
        size = next(size for size in range(n, 0, -1) if _paley(size) is not None)
        sizes.append(size)
        n -= size
    return sizes


@cached(maxsize=32)
def _blocks_side(n: int) -> Tensor:
    sizes = hadamard_blocks(n)
    side = torch.block_diag(*(hadamard_matrix(size) / math.sqrt(size) for size in sizes))
    sequency = torch.cat([torch.arange(size).double() / size for size in sizes])
    return side[sequency.argsort(stable=True)]


class BlockHadamard(Separable):
    """The Walsh-Hadamard basis by sequency, orthonormal for every size.

    A size that has a Hadamard matrix has that one, as in `PaddedHadamard`. Any other is cut into
    the largest that have one (`hadamard_blocks`), each transformed by itself: coefficients then mix
    the weights of a block and no others, all of them alike. Rows of all blocks are sorted by their
    sequency per length, those of larger blocks first.
    """

    name = "block_hadamard"

    def side(self, n: int, axis: int) -> Tensor:
        return _blocks_side(n)
