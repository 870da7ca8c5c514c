"""What `block_linear` is checked with, in Triton's interpreter and on a GPU.

Sizes are multiples of no tile. The reference is W from its definition in `zoo.bases.blocks`, in
float64, one position of a block at a time.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.bases.blocks import BlockLayout, block_layout, split
from zoo.bases.kernels.block_linear import KernelTables, block_linear, kernel_tables
from zoo.bases.kernels.tiles import Tiles, text
from zoo.bases.seeds import generator

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""How far y may be, as a share of the largest output.

The interpreter cuts bfloat16 off where a GPU rounds.
"""
F32, F16, BF16 = TOLERANCE


class Case(NamedTuple):
    """One call, on random numbers."""

    m: int
    n: int
    block: int
    ratio: float  # K / mn at most
    tokens: int = 3
    dtype: torch.dtype = F32  # of x and y
    coef_dtype: torch.dtype | None = None  # by default x's
    bias: bool = False
    strided: bool = False  # whether x is a part of a larger tensor, of two dimensions more
    tiles: Tiles | None = None

    def __str__(self) -> str:
        """Return its name, which says all but the dtype."""
        parts = [
            f"{self.m}x{self.n}",
            f"block {self.block}",
            f"ratio {self.ratio}",
            f"tokens {self.tokens}",
        ]
        parts += [f"coef {str(self.coef_dtype).removeprefix('torch.')}"] * (
            self.coef_dtype is not None
        )
        parts += ["bias"] * self.bias + ["strided"] * self.strided
        parts += ["tiles " + text(self.tiles)] if self.tiles is not None else []
        return " ".join(parts)

    @property
    def layout(self) -> BlockLayout:
        """Return where its coefficients stand."""
        return block_layout(
            self.m, self.n, self.block, int(self.m * self.n * self.ratio), generator(1)
        )


CASES = [
    # Rows with no position, with one, with one more, with all; a few in a step or many.
    Case(12, 20, 4, 0.07, bias=True),
    Case(12, 20, 4, 0.5, 1, BF16),
    Case(24, 40, 8, 0.125, dtype=BF16, bias=True),
    Case(24, 40, 8, 0.3, dtype=F16, bias=True),
    Case(48, 80, 16, 0.04, dtype=BF16, bias=True),
    Case(48, 80, 16, 0.3, 2),
    Case(48, 80, 16, 0.5, 5, F16),
    Case(48, 80, 16, 1.0, dtype=BF16, bias=True),
    Case(64, 96, 32, 0.125, dtype=F16, bias=True),
    Case(32, 64, 32, 0.6, 2),
    Case(64, 192, 64, 0.07, 1, BF16, bias=True),
    # Blocks neither square nor of powers of two; of one row, and of one column.
    Case(36, 60, 16, 0.3),
    Case(36, 60, 16, 1.0, dtype=F16),
    Case(7, 24, 16, 0.3, dtype=BF16),
    Case(24, 7, 16, 1.0),
    Case(13, 1, 16, 0.3),
    Case(1, 11, 16, 1.0, bias=True),
    Case(50, 40, 16, 0.3, dtype=BF16),
    # Tokens, around the 16 rows of a product on tensor cores and up to all.
    Case(80, 48, 16, 0.2, 1),
    Case(80, 48, 16, 0.2, 15, BF16),
    Case(80, 48, 16, 0.2, 16),
    Case(80, 48, 16, 0.2, 17, F16),
    Case(80, 48, 16, 0.2, 33, BF16, bias=True),
    Case(80, 48, 16, 0.2, 64),
    # Tiles that end within the grid, programs that share a row or have none of it left, one launch
    # and two.
    Case(320, 152, 8, 0.42, 20, bias=True, tiles=Tiles(16, 16, 4, 1, 4, 1, True)),
    Case(320, 152, 8, 0.42, 20, F16, bias=True, tiles=Tiles(32, 8, 8, 3, 4, 3, True)),
    Case(320, 152, 8, 0.42, 20, BF16, tiles=Tiles(32, 4, 8, 5, 8, 2, False)),
    Case(320, 152, 8, 0.42, 20, bias=True, tiles=Tiles(64, 32, 2, 1, 4, 1, False)),
    Case(96, 64, 16, 0.3, 4, strided=True, tiles=Tiles(16, 4, 4, 2, 4, 1, True)),
    # x that is not contiguous; coefficients of another dtype, which are rounded to x's.
    Case(64, 48, 16, 0.3, 4, BF16, F32, strided=True),
    Case(64, 48, 16, 0.3, 2, F32, F16, strided=True),
]
"""Every edge, as small as it can be: all of it takes seconds in the interpreter."""

LARGE = [
    Case(m, n, block, ratio, tokens, BF16)
    for m, n in ((4096, 4096), (11008, 4096), (2048, 2048))
    for ratio, block in ((0.5, 16), (0.125, 32))
    for tokens in (1, 16, 17, 64)
] + [Case(4096, 4096, 64, 0.6, 16, BF16, bias=True)]
"""Calls of a language model's sizes, for a GPU alone."""


def reference(layout: BlockLayout, coef: Tensor) -> Tensor:
    """Build W (m, n) in float64 from the definition of the layout and of the cosines alone."""
    (down, across), p, q, r = layout.grid, layout.p, layout.q, layout.r
    main, extra = split(coef.double(), layout)
    s = coef.new_zeros(down, across, p, q, dtype=torch.float64)
    for a, row in enumerate(layout.rows.tolist()):
        for t in range(r + (a < layout.e)):
            column = int(layout.columns[(layout.step * a + t) % q])
            s[:, :, row, column] = main[a, :, t] if t < r else extra[a]
    blocks = cosines(p, coef.device).T @ s @ cosines(q, coef.device)
    return blocks.transpose(1, 2).reshape(down * p, across * q)


def cosines(n: int, device: torch.device) -> Tensor:
    """Return C_kx = sqrt((1 + [k > 0]) / n) cos(pi (2 x + 1) k / 2 n), in float64."""
    x = torch.arange(n, device=device, dtype=torch.float64)
    k = x[:, None]
    return torch.sqrt((1 + (k > 0).double()) / n) * torch.cos(math.pi * (2 * x + 1) * k / (2 * n))


class Arguments(NamedTuple):
    """The arguments of `block_linear`."""

    x: Tensor
    coef: Tensor
    layout: BlockLayout
    tables: KernelTables
    bias: Tensor | None
    tiles: Tiles | None


def arguments(case: Case, device: torch.device | str) -> Arguments:
    """Draw the arguments of a case, always the same ones."""
    random, layout = torch.Generator(device).manual_seed(0), case.layout

    def draw(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(*shape, generator=random, device=device).to(dtype)

    coef = draw(layout.coefficients, dtype=case.coef_dtype or case.dtype)
    x = draw(2, case.tokens // 2 + 1, case.n)[:, :-1] if case.strided else draw(case.tokens, case.n)
    bias = draw(case.m) if case.bias else None
    return Arguments(x, coef, layout, kernel_tables(layout, device, case.dtype), bias, case.tiles)


@torch.no_grad()
def error(case: Case, device: torch.device | str, calls: int = 2) -> tuple[float, float]:
    """Say how far y is from the reference and how far it may be, as shares of the largest output.

    It is infinitely far where its shape or dtype is wrong, where a later call gives other bits,
    or where a counter is left.
    """
    given = arguments(case, device)
    y, *later = (block_linear(*given) for _ in range(calls))
    whole = y.dtype == case.dtype and y.shape == (*given.x.shape[:-1], case.m)
    if not whole or not all(torch.equal(y, each) for each in later) or given.tables.counters.any():
        return math.inf, TOLERANCE[case.dtype]
    return distance(y, expected(given.x, given.coef, given.layout, given.bias)), TOLERANCE[
        case.dtype
    ]


def expected(x: Tensor, coef: Tensor, layout: BlockLayout, bias: Tensor | None) -> Tensor:
    """Compute x W^T + b in float64, of coefficients rounded to x's dtype."""
    y = x.double() @ reference(layout, coef.to(x.dtype)).T
    return y if bias is None else y + bias.double()


def distance(y: Tensor, wanted: Tensor) -> float:
    """Return the largest difference as a share of the largest value; NaN if there is one in y."""
    return ((y.double() - wanted).abs().max() / wanted.abs().max()).item()
