"""What `row_linear` is checked with, in Triton's interpreter and on a GPU.

The reference is W = S C_n from the definition of the cosines, in float64.
"""

import math
from typing import NamedTuple

import torch

from zoo.bases.kernels.cases import BF16, F16, F32, TOLERANCE, cosines, distance
from zoo.bases.kernels.row_linear import RowTables, row_linear, row_tables


class Case(NamedTuple):
    """One call, on random numbers."""

    m: int
    n: int
    ratio: float  # K / mn, about
    tokens: int = 3
    dtype: torch.dtype = F32  # of x and y
    coef_dtype: torch.dtype | None = None  # by default x's
    bias: bool = False
    strided: bool = False  # whether x is a part of a larger tensor, of two dimensions more

    def __str__(self) -> str:
        """Return its name, which says all but the dtype."""
        parts = [f"{self.m}x{self.n}", f"ratio {self.ratio}", f"tokens {self.tokens}"]
        parts += [f"coef {str(self.coef_dtype).removeprefix('torch.')}"] * (
            self.coef_dtype is not None
        )
        return " ".join(parts + ["bias"] * self.bias + ["strided"] * self.strided)

    def support(self, device: torch.device | str) -> torch.Tensor:
        """Return where its coefficients stand, ascending.

        They are drawn one by one, since to shuffle 45 million takes seconds.
        """
        random = torch.Generator(device).manual_seed(1)
        return (
            (torch.rand(self.m * self.n, generator=random, device=device) < self.ratio)
            .nonzero()
            .flatten()
        )


CASES = [
    # Primes; one row, one column; rows with no coefficient, with all; rows of many steps; lengths
    # of two factors.
    Case(13, 127, 0.3, 1),
    Case(7, 12, 0.4, 3, BF16, bias=True),
    Case(1, 9, 0.5, 5, F16, bias=True),
    Case(5, 1, 1.0, 2),
    Case(17, 18, 0.1, 16, bias=True),
    Case(3, 132, 1.0, 7, BF16, bias=True),
    Case(10, 2, 0.3, 9, F16),
    Case(4, 86, 0.6, 4, BF16, bias=True),
    Case(2, 600, 0.9, 1, F16),
    Case(6, 256, 0.1, 16, BF16),
    # x that is not contiguous; coefficients of another dtype, which are rounded to x's.
    Case(8, 24, 0.4, 4, BF16, F32, strided=True),
    Case(8, 24, 0.4, 2, F32, F16, strided=True),
]
"""Every edge, as small as it can be: all of it takes seconds in the interpreter."""

LARGE = [
    Case(m, n, ratio, tokens, dtype)
    for m, n, dtype in (
        (4096, 4096, BF16),
        (4096, 11008, BF16),
        (11008, 4096, F32),
        (2048, 2048, F16),
    )
    for ratio in (0.125, 0.05)
    for tokens in (1, 4, 16)
]
"""Calls of a language model's sizes, for a GPU alone."""


class Arguments(NamedTuple):
    """The arguments of `row_linear`."""

    x: torch.Tensor
    coef: torch.Tensor
    tables: RowTables
    bias: torch.Tensor | None


def arguments(case: Case, device: torch.device | str) -> Arguments:
    """Draw the arguments of a case, always the same ones."""
    random, support = torch.Generator(device).manual_seed(0), case.support(device)

    def draw(*shape: int, dtype: torch.dtype = case.dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device).to(dtype)

    coef = draw(len(support), dtype=case.coef_dtype or case.dtype)
    x = draw(2, case.tokens // 2 + 1, case.n)[:, :-1] if case.strided else draw(case.tokens, case.n)
    return Arguments(
        x, coef, row_tables(support, case.m, case.n, device), draw(case.m) if case.bias else None
    )


@torch.no_grad()
def error(case: Case, device: torch.device | str, calls: int = 2) -> tuple[float, float]:
    """Say how far y is from the reference and how far it may be, as shares of the largest output.

    It is infinitely far where its shape or dtype is wrong, or a later call gives other bits.
    """
    m, n = case.m, case.n
    x, coef, _, bias = given = arguments(case, device)
    y, *later = (row_linear(*given) for _ in range(calls))
    if (
        y.dtype != case.dtype
        or y.shape != (*x.shape[:-1], m)
        or not all(torch.equal(y, each) for each in later)
    ):
        return math.inf, TOLERANCE[case.dtype]
    plane = coef.new_zeros(m * n, dtype=torch.float64)
    plane[case.support(device)] = coef.to(case.dtype).double()
    wanted = x.double() @ (plane.view(m, n) @ cosines(n, plane.device)).T
    return distance(y, wanted if bias is None else wanted + bias.double()), TOLERANCE[case.dtype]
