"""Weights in blocks, each the inverse DCT of its own few coefficients. Pure functions of torch.

W (m, n) lies in I x J blocks of p x q. Block (i, j) is W_ij = C_p^T S_ij C_q, with C the cosines
(`dct_matrix`) and S_ij zero but at k of its pq positions, the same for all blocks: K = k I J
coefficients, and no index is stored.

The positions are a random circulant. With k = p r + e, row rows[a] of a block has r positions, and
one more if a < e:

    columns[(s a + t) mod q],  t < r;  t = r for the extra one;   s = max(1, q // p)

for random permutations `rows` of range(p) and `columns` of range(q), so that rows and columns are
evenly filled. The coefficients are one flat vector, first (p, I, r, J) [a, i, t, j], then the extra
ones, (e, I, J) [a, i, j].

`build` makes W in two products, at most 2 (p + q) operations a weight; `zoo.bases.block_products`
multiplies without W.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.cosine import dct_matrix
from zoo.bases.seeds import without_autocast
from zoo.bases.selection import mask_norm


class BlockLayout(NamedTuple):
    """Where the coefficients of an (I p, J q) weight stand."""

    p: int  # rows of a block
    q: int  # columns of a block
    grid: tuple[int, int]  # I, J: how many blocks down and across
    r: int  # positions in every row of a block
    e: int  # rows with one more
    step: int  # s, from window to window
    rows: Tensor  # (p,) int64: row of the block of each a
    columns: Tensor  # (L,) int64: column of the block at each step of the walk, wrapping round

    @property
    def k(self) -> int:
        """Positions of a block."""
        return self.p * self.r + self.e

    @property
    def coefficients(self) -> int:
        """K = k I J, coefficients in all."""
        return self.k * self.grid[0] * self.grid[1]

    @property
    def terms(self) -> list[tuple[int, int]]:
        """Each t, and how many rows have a position there: p for t < r, and e for t = r."""
        return [(t, self.p) for t in range(self.r)] + ([(self.r, self.e)] if self.e else [])


def largest_divisor(n: int, most: int) -> int:
    """Return the largest divisor of n that is at most `most`."""
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)


def block_layout(
    m: int, n: int, block: int, budget: int, generator: torch.Generator
) -> BlockLayout:
    """Lay out an (m, n) weight with at most `budget` coefficients, as many in every block.

    Args:
        m: rows.
        n: columns.
        block: largest height and width of a block; p and q are the largest divisors of m and n up
            to it.
        budget: K at most.
        generator: draws the two permutations.

    Raises:
        ValueError: for a block below 1, or a budget below one coefficient a block.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    p, q = largest_divisor(m, block), largest_divisor(n, block)
    grid = (m // p, n // q)
    k = budget // (grid[0] * grid[1])
    if k < 1:
        raise ValueError(
            f"{budget} coefficients leave none for some of the {grid[0] * grid[1]} blocks of "
            f"{p} x {q}: "
            f"give a ratio of at least {math.ceil(1e6 / (p * q)) / 1e6:g}, or a larger block"
        )
    step = max(1, q // p)
    rows, columns = torch.randperm(p, generator=generator), torch.randperm(q, generator=generator)
    walk = torch.arange(step * (p - 1) + k // p + 1)
    return BlockLayout(p, q, grid, k // p, k % p, step, rows, columns[walk % q])


def block_positions(layout: BlockLayout) -> Tensor:
    """Return the positions within a block, main ones [a, t] and then the extra ones [a].

    They are (k, 2), rows and columns.
    """
    a, t = torch.arange(layout.p), torch.arange(layout.r)
    main = torch.stack(
        torch.broadcast_tensors(layout.rows[:, None], layout.columns[layout.step * a[:, None] + t]),
        -1,
    )
    few = a[: layout.e]
    extra = torch.stack([layout.rows[few], layout.columns[layout.step * few + layout.r]], -1)
    return torch.cat([main.flatten(0, 1), extra])


def block_support(layout: BlockLayout) -> Tensor:
    """Return the flat position in the (m, n) plane of every coefficient; (K,), int64."""
    p, q, (down, across), r, e = layout[:5]
    rows, columns = block_positions(layout).unbind(-1)
    i, j = torch.arange(down) * p, torch.arange(across) * q
    n = across * q
    main, extra = (x.split([p * r, e]) for x in (rows, columns))
    at = (main[0].view(p, 1, r, 1) + i[:, None, None]) * n + extra[0].view(p, 1, r, 1) + j
    more = (main[1][:, None, None] + i[:, None]) * n + extra[1][:, None, None] + j
    return torch.cat([at.flatten(), more.flatten()])


class BlockTables(NamedTuple):
    """The cosines that a layout needs; u rows of a block have positions (all p, or e if r = 0)."""

    left: Tensor  # (u, p): of the row of each a
    right: Tensor  # (L, q): of the column at each step of the walk
    windows: Tensor  # (u, w, q): right[s a + t], w = r, or r + 1 if there are extra ones


def block_tables(layout: BlockLayout, device: torch.device, dtype: torch.dtype) -> BlockTables:
    """Build the tables of a layout."""
    terms, s = layout.terms, layout.step
    used = terms[0][1]
    left = dct_matrix(layout.p)[layout.rows[:used]]
    right = dct_matrix(layout.q)[layout.columns[: max(t + s * (rows - 1) + 1 for t, rows in terms)]]
    places = s * torch.arange(used)[:, None] + torch.arange(len(terms))
    windows = right[places.clamp(max=len(right) - 1)]  # past the end there are zeros to multiply
    return BlockTables(*(table.to(device, dtype) for table in (left, right, windows)))


def block_lr_mult(layout: BlockLayout) -> float:
    """Return sqrt(mn) / |M|_2, M the (m, n) matrix that is 1 where there is a coefficient.

    It is sqrt(pq) / |mask of a block|_2.
    """
    rows, columns = block_positions(layout).unbind(-1)
    return math.sqrt(layout.p * layout.q) / mask_norm(rows * layout.q + columns, layout.p, layout.q)


def split(coef: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """Views of the main coefficients, (..., p, I, r, J), and of the extra ones, (..., e, I, J)."""
    (down, across), p, r, e = layout.grid, layout.p, layout.r, layout.e
    main, extra = coef.split([p * r * down * across, e * down * across], -1)
    return main.unflatten(-1, (p, down, r, across)), extra.unflatten(-1, (e, down, across))


# ---- W, and its adjoint --------------------------------------------------------------------------


def build(coef: Tensor, layout: BlockLayout, tables: BlockTables) -> Tensor:
    """W from its coefficients; (..., K) to (..., m, n), in the tables' dtype.

    Several of one layout but for `rows` and `columns` may have tables of their own, stacked.
    """
    (down, across), (u, w) = layout.grid, tables.windows.shape[-3:-1]
    with without_autocast(coef.device):
        main, extra = split(coef.to(tables.left.dtype), layout)
        rows = main.new_zeros(*coef.shape[:-1], u, down, across, w)
        rows[..., : layout.r] = main[..., :u, :, :, :].transpose(-1, -2)
        if layout.e:
            rows[..., : layout.e, :, :, -1] = extra
        half = (
            torch.matmul(rows.flatten(-3, -2), tables.windows)
            .unflatten(-2, (down, across))
            .flatten(-2)
        )
        return torch.matmul(tables.left.mT.unsqueeze(-3), half.transpose(-3, -2)).flatten(-3, -2)


def unbuild(weight: Tensor, layout: BlockLayout, tables: BlockTables) -> Tensor:
    """Return the adjoint of `build`, its inverse on its range; (..., m, n) to (..., K).

    It is in the tables' dtype.
    """
    (down, across), q = layout.grid, layout.q
    with without_autocast(weight.device):
        blocks = weight.to(tables.left.dtype).unflatten(-2, (down, layout.p))
        half = torch.matmul(tables.left.unsqueeze(-3), blocks).transpose(-3, -2)  # (..., u, I, n)
        rows = torch.matmul(half.reshape(*half.shape[:-2], down * across, q), tables.windows.mT)
        rows = rows.unflatten(-2, (down, across))  # (..., u, I, J, w)
        main = rows[..., : layout.r].transpose(-1, -2).flatten(-4)
        return torch.cat([main, rows[..., : layout.e, :, :, -1].flatten(-3)], -1)


def rotate_blocks(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Every (p, q) block X of an (m, n) matrix as L X R^T; L (p, p), R (q, q)."""
    half = torch.matmul(left, matrix.reshape(-1, len(left), matrix.shape[1]))
    return (half.view(-1, len(right)) @ right.mT).view(matrix.shape)
