"""y = x W^T + b for W = S C_n of RowDCT that is never built, of few tokens.

S is scattered, C_n the cosines of each row.

    x^ = C_n x,     y_i = sum_k c_k x^[column_k],   k from start_i to start_(i + 1)

Two launches. The first makes x^ (n, T) by a Fourier transform of n = A B numbers in two stages of
tables, a token and 16 of the B columns a program: 2 n (A + B) multiply-adds on tensor cores
(Makhoul, IEEE Trans. ASSP 28(1), 1980). With v_j = x_2j and, from the end, v_(n - 1 - j) = x_(2j +
1), j = a + A b, k = d + B e,

    x^_k = sqrt(2 / n) Re sum_a w_A^(a e) u^e  [ w_n^(a d) t^d  sum_b v_(a + A b) w_B^(b d) ],

    w_N = exp(-2 pi i / N), u = exp(-pi i / 2A), t = exp(-pi i / 2n); x^_0 over sqrt(2)

The second reads each coefficient once, with its column in 16 bits, and gathers the x^ that it meets
through the cache: 2 K + 2 K bytes of a dense layer's 2 mn, and sums in float32, outside of tensor
cores. Hence few coefficients and few tokens: `zoo.bases.kernels.floors.rows_pay` counts. x^ is
rounded to x's dtype, where a dense layer rounds W.

Unmeasured: there was no GPU at hand. Tests check it against W in Triton's interpreter, and compile
it for compute capability 9.0, without spills. A launch from Python takes longer than the product: a
decoder should capture both in a CUDA graph.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from zoo.bases.kernels import row_device
from zoo.bases.kernels.block_linear import Launch
from zoo.bases.kernels.floors import ROW_TOKENS, two_factors

ROWS = 4
"""Rows of W of a program of the product."""
WARPS, TRANSFORM_WARPS = 4, 8
"""Warps of a program of the product, and of the transform."""


class RowTables(NamedTuple):
    """What a layer keeps for its kernel."""

    starts: Tensor  # (m + 1,) int32: where the coefficients of each row begin
    columns: Tensor  # (K,) int16
    first: Tensor  # (2, B, B) float32: real and imaginary part of w_B^(b d), [b, d]
    twiddle: Tensor  # (2, A, B): of sqrt(2 / n) w_n^(a d) t^d, [a, d]
    last: Tensor  # (2, A, A): of w_A^(a e) u^e, [e, a]
    longest: int  # coefficients of the row that has most


@lru_cache(maxsize=32)
def _cosine_tables(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Make `first`, `twiddle` and `last` of a length."""
    a, b = two_factors(n) or (1, n)
    i, k = (torch.arange(size, dtype=torch.float64) for size in (a, b))
    angles = (
        2 * torch.pi / b * (torch.outer(k, k) % b),
        2 * torch.pi / n * torch.outer(i, k) + torch.pi / (2 * n) * k,
        2 * torch.pi / a * (torch.outer(i, i) % a) + torch.pi / (2 * a) * i[:, None],
    )
    tables = [torch.stack([angle.cos(), -angle.sin()]) for angle in angles]
    tables[1] *= (2 / n) ** 0.5
    first, twiddle, last = (table.to(device, torch.float32) for table in tables)
    return first, twiddle, last


def row_tables(support: Tensor, m: int, n: int, device: torch.device | str) -> RowTables:
    """Make the tables of coefficients at flat positions of the (m, n) plane, ascending; (K,)."""
    assert two_factors(n) is not None
    starts = torch.searchsorted(support, torch.arange(m + 1, device=support.device) * n)
    places = starts.to(device, torch.int32), (support % n).to(device, torch.int16)
    return RowTables(*places, *_cosine_tables(n, torch.device(device)), int(starts.diff().max()))


def _power(n: int) -> int:
    """Return the least power of two from n on."""
    return 1 << max(n - 1, 0).bit_length()


def transform_constants(a: int, b: int, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return compile-time arguments of the transform of length a b.

    Tiles are as narrow as tensor cores can be, to be many programs.
    """
    return {
        "N": a * b,
        "A": a,
        "B": b,
        "PA": max(16, _power(a)),
        "PB": max(16, _power(b)),
        "WIDTH": 16,
        "TX": _power(tokens),
        "PRECISION": "tf32" if dtype == torch.bfloat16 else "tf32x3",
    }


def product_constants(tokens: int, longest: int, bias: bool) -> dict[str, Any]:
    """Return compile-time arguments of the product.

    It is no deeper than a row is long, and of 4096 products at a time in all.
    """
    depth = min(256, 4096 // (ROWS * _power(tokens)), max(16, _power(longest)))
    steps = triton.cdiv(longest, depth)
    return {
        "TX": _power(tokens),
        "ROWS": ROWS,
        "DEPTH": depth,
        "LONGEST": depth * steps,
        "BIAS": bias,
    }


def _launches(
    x: Tensor,
    coef: Tensor,
    starts: Tensor,
    columns: Tensor,
    first: Tensor,
    twiddle: Tensor,
    last: Tensor,
    longest: int,
    bias: Tensor | None,
) -> tuple[Tensor, list[Launch]]:
    """Return where y will be, and what makes it."""
    (tokens, n), m, (a, b) = x.shape, len(starts) - 1, twiddle.shape[1:]
    padded = _power(tokens)
    # Copies of no token are multiplied too: by zero, not by whatever was there, which may overflow.
    hat, y = (x.new_empty if padded == tokens else x.new_zeros)(n, padded), x.new_empty(tokens, m)
    transform = transform_constants(a, b, tokens, x.dtype)
    product = product_constants(tokens, longest, bias is not None)
    inputs = hat, coef, columns, starts, x if bias is None else bias, y, m, tokens
    tables, grid = (x, first, twiddle, last, hat), (tokens, triton.cdiv(b, transform["WIDTH"]))
    return y, [
        (row_device.cosine_transform, grid, tables, {**transform, "num_warps": TRANSFORM_WARPS}),
        (row_device.row_product, (triton.cdiv(m, ROWS),), inputs, {**product, "num_warps": WARPS}),
    ]


@torch.library.custom_op("zoo::row_linear", mutates_args=())
def _launch(
    x: Tensor,
    coef: Tensor,
    starts: Tensor,
    columns: Tensor,
    first: Tensor,
    twiddle: Tensor,
    last: Tensor,
    longest: int,
    bias: Tensor | None,
) -> Tensor:
    y, launches = _launches(x, coef, starts, columns, first, twiddle, last, longest, bias)
    for kernel, grid, arguments, options in launches:
        kernel[grid](*arguments, **options)
    return y


@_launch.register_fake
def _(
    x: Tensor,
    coef: Tensor,
    starts: Tensor,
    columns: Tensor,
    first: Tensor,
    twiddle: Tensor,
    last: Tensor,
    longest: int,
    bias: Tensor | None,
) -> Tensor:
    return x.new_empty(len(x), len(starts) - 1)


def row_linear(x: Tensor, coef: Tensor, tables: RowTables, bias: Tensor | None = None) -> Tensor:
    """Compute x W^T + b, for inference: there is no backward pass.

    Args:
        x: (..., n), of 1 to 16 tokens in all; float32, bfloat16 or float16.
        coef: (K,), row by row; of another dtype than x, it is rounded to x's on chip.
        tables: `row_tables(support, m, n, x.device)`.
        bias: (m,).

    Returns:
        (..., m), in x's dtype.

    Raises:
        ValueError: for anything else, and where a gradient is wanted.
    """
    y = _launch(*_arguments(x, coef, tables, bias))
    return y.view(*x.shape[:-1], y.shape[-1])


def prepare(x: Tensor, coef: Tensor, tables: RowTables, bias: Tensor | None = None) -> list[Any]:
    """Compile what `row_linear` of the same arguments launches.

    It takes about a second, and several threads may do so at a time.
    """
    launches = _launches(*_arguments(x, coef, tables, bias))[1]
    return [
        kernel.warmup(*arguments, grid=grid, **options)
        for kernel, grid, arguments, options in launches
    ]


def _arguments(
    x: Tensor, coef: Tensor, tables: RowTables, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, Tensor | None]:
    """Check the arguments of `_launch`, and give them."""
    tokens, n, m = x.shape[:-1].numel(), tables.twiddle[0].numel(), len(tables.starts) - 1
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, coef, bias)):
        raise ValueError("row_linear has no backward pass: call it under torch.no_grad()")
    if not 1 <= tokens <= ROW_TOKENS:
        raise ValueError(f"row_linear is for 1 to {ROW_TOKENS} tokens, got {tokens}")
    if x.dtype not in dtypes or coef.dtype not in dtypes:
        raise ValueError(f"unfit dtypes: x {x.dtype}, coef {coef.dtype}")
    shapes = tuple(x.shape[-1:]), tuple(coef.shape), (m,) if bias is None else tuple(bias.shape)
    expected = (n,), (len(tables.columns),), (m,)
    if shapes != expected:
        raise ValueError(f"x, coef and bias must fit the tables, {expected}, got {shapes}")
    return x.reshape(tokens, n).contiguous(), coef.contiguous(), *tables, bias
