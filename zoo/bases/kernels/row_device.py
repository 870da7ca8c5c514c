# ruff: noqa: ANN001, ANN201, E741
# mypy: ignore-errors
"""What runs on the GPU: the cosine transform of x, and the product with rows of coefficients.

`zoo.bases.kernels.row_linear` calls it and says what the tables are. Pointers have no types in this
language, and capitals are compile-time constants, so that the usual checks are off.
"""

import triton
import triton.language as tl


@triton.jit
def added(a, b):
    """Add; unlike `tl.sum`, it is interpreted by whoever interprets a kernel that uses it."""
    return a + b


@triton.jit
def cosine_transform(
    x_ptr,
    first_ptr,
    twiddle_ptr,
    last_ptr,
    hat_ptr,
    N: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    PA: tl.constexpr,
    PB: tl.constexpr,
    WIDTH: tl.constexpr,
    TX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute x^ (n, TX) of x (T, n), WIDTH of the B columns of a token a program.

    N = A B, and PA and PB are powers of two.
    """
    token = tl.program_id(0)
    a, b, d = tl.arange(0, PA), tl.arange(0, PB), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    j = a[:, None] + A * b[None, :]
    mask = (a < A)[:, None] & (b < B)[None, :]
    source = tl.where(2 * j < N, 2 * j, 2 * N - 1 - 2 * j)
    x = tl.load(x_ptr + token * N + source, mask=mask, other=0.0).to(tl.float32)
    mask, table = (b < B)[:, None] & (d < B)[None, :], first_ptr + b[:, None] * B + d[None, :]
    real = tl.dot(x, tl.load(table, mask=mask, other=0.0), input_precision=PRECISION)
    imaginary = tl.dot(x, tl.load(table + B * B, mask=mask, other=0.0), input_precision=PRECISION)
    out, place = (a < A)[:, None] & (d < B)[None, :], a[:, None] * B + d[None, :]
    c = tl.load(twiddle_ptr + place, mask=out, other=0.0)
    s = tl.load(twiddle_ptr + N + place, mask=out, other=0.0)
    mask, table = (a < A)[:, None] & (a < A)[None, :], last_ptr + a[:, None] * A + a[None, :]
    left = tl.load(table, mask=mask, other=0.0)
    hat = tl.dot(left, c * real - s * imaginary, input_precision=PRECISION)
    left = tl.load(table + A * A, mask=mask, other=0.0)
    hat -= tl.dot(left, s * real + c * imaginary, input_precision=PRECISION)
    hat = tl.where(place == 0, hat * 0.7071067811865476, hat)
    tl.store(hat_ptr + place * TX + token, hat.to(hat_ptr.dtype.element_ty), mask=out)


@triton.jit
def row_product(
    hat_ptr,
    coef_ptr,
    column_ptr,
    start_ptr,
    bias_ptr,
    y_ptr,
    m,
    tokens,
    TX: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    LONGEST: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Compute y (T, m) of x^ (n, TX): ROWS rows of coefficients a program, DEPTH at a time.

    Sums are in float32. LONGEST is of all rows: the interpreter takes no bound that a program has
    loaded.
    """
    dtype = hat_ptr.dtype.element_ty
    i, t, k = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, TX), tl.arange(0, DEPTH)
    start = tl.load(start_ptr + i, mask=i < m, other=0)
    count = tl.load(start_ptr + i + 1, mask=i < m, other=0) - start
    sums = tl.full((ROWS, DEPTH, TX), 0.0, tl.float32)
    for first in range(0, LONGEST, DEPTH):
        mask = (first + k)[None, :] < count[:, None]
        place = start[:, None] + (first + k)[None, :]
        column = tl.load(column_ptr + place, mask=mask, other=0).to(tl.int32)
        coef = tl.load(coef_ptr + place, mask=mask, other=0.0).to(dtype).to(tl.float32)
        x = tl.load(
            hat_ptr + (column * TX)[:, :, None] + t[None, None, :], mask=mask[:, :, None], other=0.0
        )
        sums += coef[:, :, None] * x.to(tl.float32)
    y = tl.reduce(sums, 1, added)
    mask = (i < m)[:, None] & (t < tokens)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + i, mask=i < m, other=0.0).to(tl.float32)[:, None]
    tl.store(y_ptr + i[:, None] + (t * m)[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)
