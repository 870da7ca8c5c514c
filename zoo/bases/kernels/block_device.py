# ruff: noqa: ANN001, ANN201, E741
# mypy: ignore-errors
"""What runs on the GPU for `zoo.bases.kernels.block_linear`: a product, and the transform back.

An argument B. is a length padded to a power of two; `block_linear.constants` names the others.
Pointers have no types in this language, and capitals are compile-time constants, so that the usual
checks are off.
"""

import triton
import triton.language as tl


@triton.jit
def transform_back(
    left_ptr,
    bias_ptr,
    y_ptr,
    part_ptr,
    token,
    i,
    tokens,
    I: tl.constexpr,
    P: tl.constexpr,
    USED: tl.constexpr,
    BA: tl.constexpr,
    BP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute y of ROWS pairs (token, i) from the parts of y^, (SPLITS, tokens, USED, I)."""
    a, p = tl.arange(0, BA), tl.arange(0, BP)
    left_mask = (a < USED)[:, None] & (p < P)[None, :]
    left = tl.load(left_ptr + (a * P)[:, None] + p[None, :], mask=left_mask, other=0.0)
    live = ((token < tokens) & (i < I))[:, None]
    total = tl.full((ROWS, BA), 0.0, tl.float32)
    for split in tl.range(0, SPLITS, num_stages=1):
        place = ((split * tokens + token) * (USED * I) + i)[:, None] + (a * I)[None, :]
        # Past the first-level cache, which does not see what other processors write.
        total += tl.load(
            part_ptr + place, mask=live & (a < USED)[None, :], other=0.0, cache_modifier=".cg"
        )
    y = tl.dot(total, left, input_precision=PRECISION)
    column, mask = (i * P)[:, None] + p[None, :], live & (p < P)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + (token * (I * P))[:, None] + column, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    left_ptr,
    bias_ptr,
    y_ptr,
    part_ptr,
    tokens,
    I: tl.constexpr,
    P: tl.constexpr,
    USED: tl.constexpr,
    BA: tl.constexpr,
    BP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute y from all parts."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    transform_back(
        left_ptr,
        bias_ptr,
        y_ptr,
        part_ptr,
        row // I,
        row % I,
        tokens,
        I,
        P,
        USED,
        BA,
        BP,
        ROWS,
        SPLITS,
        BIAS,
        PRECISION,
    )


@triton.jit
def product(
    x_ptr,
    coef_ptr,
    right_ptr,
    left_ptr,
    bias_ptr,
    y_ptr,
    part_ptr,
    counter_ptr,
    tokens,
    I: tl.constexpr,
    P: tl.constexpr,
    USED: tl.constexpr,
    BA: tl.constexpr,
    BP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    J: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    WALK: tl.constexpr,
    TX: tl.constexpr,
    BT: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    BU: tl.constexpr,
    BQ: tl.constexpr,
    PACK: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
    FUSED: tl.constexpr,
    DOT: tl.constexpr,
):
    """Compute the parts of y^, (SPLITS, tokens, USED, I); and y from them, if FUSED.

    PACK blocks of x side by side are one row of the product that makes x^, with a block-diagonal
    matrix of cosines, so that few positions fill the 16 columns that tensor cores work on.
    """
    a, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dtype = x_ptr.dtype.element_ty
    JO: tl.constexpr = BJ // PACK
    K: tl.constexpr = BU * BJ
    i, k = tile * BI + tl.arange(0, BI), tl.arange(0, K)
    x_row, x_column, c_column = (
        tl.arange(0, TX * JO),
        tl.arange(0, PACK * BQ),
        tl.arange(0, PACK * BU),
    )
    inside = x_column % BQ
    x_block = ((x_row % JO) * PACK)[:, None] + (x_column // BQ)[None, :]
    x_place = ((x_row // JO) * (J * Q))[:, None] + x_block * Q + inside[None, :]
    x_mask = (x_row // JO < tokens)[:, None] & (inside < Q)[None, :]
    same_block = (x_column // BQ)[:, None] == (c_column // BU)[None, :]
    width = R + (a < E).to(tl.int32)  # positions in this row of a block
    sums = tl.full((BT, BI), 0.0, tl.float32)
    for first in tl.static_range(0, WIDTH, BU):
        c_t = first + c_column % BU
        c_mask = (
            same_block & (inside < Q)[:, None] & ((c_t < width) & (STEP * a + c_t < WALK))[None, :]
        )
        c_place = inside[:, None] + ((STEP * a + c_t) * Q)[None, :]
        cosines = tl.load(right_ptr + c_place, mask=c_mask, other=0.0).to(DOT)
        t, j = first + k // BJ, k % BJ
        place = ((a * I + i) * (R * J))[:, None] + (t * J + j)[None, :]
        if first + BU > R:  # at t = R, the extra ones
            place = tl.where(
                (t == R)[None, :], ((P * R + a) * (I * J) + i * J)[:, None] + j[None, :], place
            )
        mask = (i < I)[:, None] & (t < width)[None, :]
        for step in tl.range(0, STEPS, num_stages=STAGES):
            start = (split * STEPS + step) * BJ
            coef = tl.load(
                coef_ptr + place + start, mask=mask & (start + j < J)[None, :], other=0.0
            )
            x = tl.load(x_ptr + x_place + start * Q, mask=x_mask & (start + x_block < J), other=0.0)
            hat = tl.dot(x.to(DOT), cosines, input_precision=PRECISION).to(dtype)
            hat = tl.permute(tl.reshape(hat, (TX, JO, PACK, BU)), (0, 3, 1, 2))
            # Tokens are repeated up to the 16 that tensor cores need; nothing is stored of the
            # copies.
            hat = tl.reshape(
                tl.broadcast_to(tl.reshape(hat, (1, TX, K)), (BT // TX, TX, K)), (BT, K)
            )
            sums = tl.dot(
                hat.to(DOT), tl.trans(coef.to(dtype).to(DOT)), sums, input_precision=PRECISION
            )
    row = tl.arange(0, BT)
    part = ((split * tokens + row) * (USED * I) + a * I)[:, None] + i[None, :]
    tl.store(part_ptr + part, sums, mask=(row < tokens)[:, None] & (i < I)[None, :])
    if FUSED:
        tl.debug_barrier()  # all threads have stored before one says so
        if tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel") == USED * SPLITS - 1:
            tl.store(counter_ptr + tile, 0)
            for begin in tl.range(0, TX * BI, ROWS, num_stages=1):
                pair = begin + tl.arange(0, ROWS)
                transform_back(
                    left_ptr,
                    bias_ptr,
                    y_ptr,
                    part_ptr,
                    pair // BI,
                    tile * BI + pair % BI,
                    tokens,
                    I,
                    P,
                    USED,
                    BA,
                    BP,
                    ROWS,
                    SPLITS,
                    BIAS,
                    PRECISION,
                )
