"""Which K of the mn coefficients of an (m, n) matrix are trained. Pure functions of torch.

A selection is an order over all mn positions, cut after K: exactly K positions, whatever the order.
"""

from typing import Literal

import torch
from torch import Tensor

from zoo.bases.seeds import cached

Selection = Literal["random", "zigzag", "lowpass"]


def random_support(m: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw K of mn positions, all subsets equally likely; (k,), flat, ascending."""
    return torch.randperm(m * n, generator=generator)[:k].sort().values


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


def select(selection: Selection, m: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return the support of K coefficients; (k,), flat positions, ascending.

    Raises:
        ValueError: for a selection that does not exist.
    """
    if selection == "random":
        return random_support(m, n, k, generator)
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
