"""Which K of the mn coefficients of an (m, n) matrix are trained. Pure functions of torch.

A selection is an order over all mn positions, cut after K: exactly K positions, whatever the order.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.bases.seeds import cached

Selection = Literal["random", "zigzag", "lowpass"]


FEW = 16
"""A support of at most 1/FEW of the positions is drawn without an order of all of them."""
LARGEST = (2**32 - 1) // 20
"""Positions from which on torch shuffles in another way."""


@cached(maxsize=2)  # layers of one shape are made one after the other, each first without a name
@torch.inference_mode(False)  # a later layer may train with it
def random_support(m: int, n: int, k: int, seed: int) -> Tensor:
    """Draw K of mn positions, all subsets equally likely; (k,), flat, ascending.

    They are the first K of `torch.randperm(mn)`, which shuffles from the front (Fisher and Yates):
    step i exchanges r_i and r_j, j = i + x_i mod (mn - i), of 32-bit random numbers x_i. Few of
    many need the first K steps alone, which move what no later one looks at, but for those of equal
    j and of j < K.

    Args:
        m: rows.
        n: columns.
        k: K.
        seed: of the draw, in [0, 2^64).
    """
    if torch.get_default_device().type == "meta":
        return torch.empty(k, dtype=torch.int64)
    size = m * n
    if k * FEW > size or size >= LARGEST:
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randperm(size, generator=generator)[:k].sort().values
    # torch gives no 32-bit numbers; numpy has the same Mersenne twister, begun alike.
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    drawn = twister.randint(0, 2**32, k, dtype=np.uint32).astype(np.int64)
    step = np.arange(k)
    chosen = step + drawn % (size - step)
    ordered = np.sort(chosen)
    looked_at = np.zeros(size, dtype=bool)
    looked_at[:k] = True
    looked_at[ordered[1:][ordered[1:] == ordered[:-1]]] = True
    steps = np.flatnonzero(looked_at[chosen])
    moved: dict[int, int] = {}
    found = []
    for i, j in zip(steps.tolist(), chosen[steps].tolist(), strict=True):
        found.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    chosen[steps] = found
    return torch.from_numpy(np.sort(chosen))


@cached(maxsize=32)
def zigzag_order(m: int, n: int) -> Tensor:
    """Return all positions by anti-diagonal i + j, alternately up and down; (mn,), flat.

    It is JPEG's order (ITU-T T.81, figure 5).

    For rectangles the same walk, clipped to the matrix: (0,0) (0,1) (1,0) (2,0) (1,1) (0,2) ...
    """
    i, j = torch.arange(m)[:, None], torch.arange(n)
    diagonal = i + j
    along = torch.where(diagonal % 2 == 1, i, j)  # odd diagonals run down, even ones up
    return (diagonal * (m + n) + along).flatten().argsort()


@cached(maxsize=32)
def lowpass_order(m: int, n: int) -> Tensor:
    """Return all positions by the smallest box at the origin that holds them; (mn,), flat.

    Boxes have the matrix's own proportions.

    Sorted by max((i + 1) / m, (j + 1) / n), ties row by row.
    """
    i, j = torch.arange(1, m + 1)[:, None], torch.arange(1, n + 1)
    return torch.maximum(i * n, j * m).flatten().argsort(stable=True)


def select(selection: Selection, m: int, n: int, k: int, seed: int) -> Tensor:
    """Return the support of K coefficients; (k,), flat positions, ascending. Nobody may write it.

    Raises:
        ValueError: for a selection that does not exist.
    """
    if selection == "random":
        return random_support(m, n, k, seed)
    if selection == "zigzag":
        return zigzag_order(m, n)[:k].sort().values
    if selection == "lowpass":
        return lowpass_order(m, n)[:k].sort().values
    raise ValueError(f"selection must be random, zigzag or lowpass, got {selection!r}")


def mask_norm(support: Tensor, m: int, n: int) -> float:
    """Return |M|_2, M the (m, n) matrix that is 1 on a support and 0 elsewhere.

    It is found by power iteration, to 1e-6 and less. Its singular vectors are not negative (Perron
    and Frobenius), so that the iteration starts well from all ones.

    Args:
        support: (K,), flat positions, K at least 1.
        m: rows.
        n: columns.
    """
    rows, columns = support // n, support % n
    v, norm = torch.ones(n, dtype=torch.float64), 0.0
    for _ in range(1000):
        u = v.new_zeros(m).index_add_(0, rows, v[columns])
        last, norm = norm, (u.norm() / v.norm()).item()
        v = v.new_zeros(n).index_add_(0, columns, u[rows] / u.norm())
        if norm - last < 1e-9 * norm:
            break
    return norm
