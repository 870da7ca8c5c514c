"""Count the least that a GPU must do for y = x W^T, W = C_m^T S C_n (m, n), of K coefficients S.

    python -m zoo.bases.kernels.floors          # the tables of docs/kernels.md

A count is a `Cost`: bytes, multiply-adds and instructions, and `seconds` is the longest of the
times that an H200 takes for each, at full rate, and a start for each kernel: most kernels are
slower. Numbers are of two bytes.

Supports, by where the coefficients are: `random` in the plane; `rows`, random where each row of W
is transformed alone (RowDCT, W = S C_n); a `box` of low frequencies k1 x k2 with k1 / m = k2 / n;
and `block` (BlockDCT), of which `zoo.bases.kernels.block_linear.work` counts the kernel that there
is, with its padding. For the bytes of `random` and `rows` it makes no difference whether all rows
have as many coefficients; 4 (m + 1) of them would then be none.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

Support = Literal["random", "rows", "box", "block"]
Positions = Literal["int32", "int16", "bitmask"]

BANDWIDTH = 4.3e12
"""Bytes a second of an H200's device memory, measured."""
PRODUCTS = 790e12 / 2
"""Multiply-adds a second on its tensor cores in bfloat16, measured."""
SLOTS = 132 * 128 * 1.755e9
"""Instructions of one lane that it can issue a second.

They are processors x lanes x clock, of the data sheet.
"""
CACHE = 132 * 64 * 1.755e9
"""Bytes a second that its processors can take from the second-level cache.

They are 64 a clock each, a ceiling.
"""
LAUNCH = 2e-6
"""Seconds from the end of a kernel to the start of the next in a CUDA graph.

They are assumed, not measured.
"""
CHIP_BYTES = 227 * 1024
"""Bytes of shared memory that one program can have."""

NUMBER = 2
"""Bytes of a coefficient, a weight, a cosine and an activation."""
DECODE_SLOTS = 17
"""Issue slots to find one position's coefficient by a bitmask.

They are two tests, two masks of the word, a count of its bits at a quarter of the rate of other
integers (8), a sum, and a load at a quarter of the rate of arithmetic (4).
"""
COEFFICIENT_SLOTS, TOKEN_SLOTS = 22, 4
"""Issue slots for a coefficient at a known column, and more for each token.

They are counted as `row_product` compiles for compute capability 9.0, a load being four. There it
takes 26 for 1 token, 35 for 4 and 86 for 16.
"""
ROW_TOKENS = 16
"""The most tokens that `zoo.bases.kernels.row_linear` takes."""
ROWS_PAY_FROM = 1.2
"""How many times its kernel's floor a dense layer's must be.

It is a guess; `python -m results.gpu.thresholds` fits it.
"""
LONGEST_SIDE = 128
"""The most of either factor of a length whose transform is made on chip."""


class Cost(NamedTuple):
    """What must be done."""

    memory: float = 0  # bytes from and to device memory
    cache: float = 0  # bytes that programs load, from the second-level cache or through it
    products: float = 0  # multiply-adds that tensor cores can do
    slots: float = 0  # instructions of a lane, on all else
    launches: int = 1  # kernels one after the other

    def plus(self, other: "Cost") -> "Cost":
        """Add another cost, in as many kernels as both have together."""
        *parts, launches = (a + b for a, b in zip(self, other, strict=True))
        return Cost(parts[0], parts[1], parts[2], parts[3], int(launches))

    def times(self, count: float) -> "Cost":
        """Multiply the work by `count`, in the same kernels."""
        return Cost(
            self.memory * count,
            self.cache * count,
            self.products * count,
            self.slots * count,
            self.launches,
        )


def seconds(cost: Cost) -> float:
    """Return the least seconds of a cost.

    max(memory / BANDWIDTH, cache / CACHE, products / PRODUCTS, slots / SLOTS) + launches LAUNCH
    """
    rates = BANDWIDTH, CACHE, PRODUCTS, SLOTS
    return max(a / b for a, b in zip(cost[:4], rates, strict=True)) + cost.launches * LAUNCH


def dense(m: int, n: int, tokens: int) -> Cost:
    """Count a dense layer: 2 (mn + T (m + n)) bytes, T mn multiply-adds."""
    size = NUMBER * (m * n + tokens * (m + n))
    return Cost(size, size, tokens * m * n)


def position_bytes(m: int, n: int, k: int, positions: Positions) -> float:
    """Count the bytes of K positions.

    They are 4 K for int32 in the plane, 2 K for int16 within rows and mn / 8 for a bit each; for
    the last two 4 (m + 1) more, which say where the coefficients of each row begin.
    """
    starts = 4 * (m + 1)
    return {"int32": 4 * k, "int16": 2 * k + starts, "bitmask": m * n / 8 + starts}[positions]


def best_positions(m: int, n: int, k: int) -> Positions:
    """Choose what takes the fewest bytes: a bitmask from about K = mn / 16 on, int16 below."""
    kinds: tuple[Positions, ...] = ("bitmask", "int16", "int32")
    return min(kinds, key=lambda kind: position_bytes(m, n, k, kind))


def box(m: int, n: int, k: int) -> tuple[int, int]:
    """Return k1 and k2 of the box of about K coefficients that has the matrix's proportions."""
    share = math.sqrt(k / (m * n))
    return max(1, round(m * share)), max(1, round(n * share))


def coefficient_bytes(m: int, n: int, k: int, support: Support) -> float:
    """Count the bytes of all coefficients, with their positions where a support is random."""
    scattered = support in ("random", "rows")
    return NUMBER * k + (position_bytes(m, n, k, best_positions(m, n, k)) if scattered else 0)


# ---- W, built on chip ----------------------------------------------------------------------------


def tile(m: int, n: int, k: int, support: Support, p: int = 64, q: int = 64) -> Cost:
    """Count what a p x q tile of W needs, from coefficients and cosines alone.

    Each support reads something, which is so many bytes and takes so many multiply-adds:

        random  all of S, p + q columns of cosines  bytes(S) + 2 (m p + n q)  K p + p n q
        rows    p rows of S, q columns of cosines   bytes(S) p / m + 2 n q    K p q / m
        box     all of S, parts of p + q columns    2 (K + k1 p + k2 q)       K p + p k2 q, or
                                                                              K q + p k1 q
        block   its coefficients, tables of 16      2 K p q / mn              p q (16 + 16)

    Multiply-adds with S are counted where it has a coefficient, fewer than tensor cores can do:
    they need the zeros.
    """
    size = coefficient_bytes(m, n, k, support)
    if support == "random":
        return Cost(
            cache=size + NUMBER * (m * p + n * q),
            products=min(k * p + p * n * q, k * q + p * m * q),
        )
    if support == "rows":
        return Cost(cache=size * p / m + NUMBER * n * q, products=k * p * q / m)
    if support == "box":
        k1, k2 = box(m, n, k)
        return Cost(
            cache=size + NUMBER * (k1 * p + k2 * q),
            products=min(k * p + p * k2 * q, k * q + p * k1 * q),
        )
    return Cost(cache=size * p * q / (m * n), products=p * q * 32)


def every_tile(
    m: int, n: int, k: int, tokens: int, support: Support, p: int = 64, q: int = 64
) -> Cost:
    """Count y with each tile of W built once on chip from all that it needs: mn / pq of `tile`.

    Tiles are built once for any number of tokens, which is a favour: a product of many builds a
    tile again for every few hundred of them.
    """
    once = Cost(
        memory=coefficient_bytes(m, n, k, support) + NUMBER * tokens * (m + n),
        products=tokens * m * n,
    )
    return tile(m, n, k, support, p, q).times(m * n / (p * q)).plus(once)._replace(launches=1)


def strip_rows(n: int) -> int:
    """Return how many rows of T = C_m^T S, 2 n bytes each, one program can hold, a power of two.

    It is CHIP_BYTES / 2n, rounded down.
    """
    return 1 << (max(1, CHIP_BYTES // (NUMBER * n)).bit_length() - 1)


def strips(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y with p rows of T = C_m^T S kept on chip at a time, of a random support.

    S and C_n are read m / p times: bytes(S) m / p + 2 mn n / p of the cache, K m + m n n
    multiply-adds.
    """
    p = strip_rows(n)
    size = coefficient_bytes(m, n, k, "random")
    work = k * m + m * n * n + tokens * m * n
    return Cost(size + NUMBER * tokens * (m + n), m / p * (size + NUMBER * n * n), work)


def partial_transform(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y with T = S C_n written to memory once and read once, of a random support.

    That is as many bytes as W itself, twice: bytes(S) + 4 mn. Transforms are made by a fast
    algorithm, `transform_products` each.
    """
    size = coefficient_bytes(m, n, k, "random") + 2 * NUMBER * m * n + NUMBER * tokens * (m + n)
    work = m * transform_products(n) + n * transform_products(m) + tokens * m * n
    return Cost(size, size, work, launches=2)


def row_strips(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y with rows of W = S C_n kept on chip at a time.

    Each is made of its own coefficients alone, so that S is read once: bytes(S), m transforms of
    length n, and the slots that `row_product` takes for no token.
    """
    size = coefficient_bytes(m, n, k, "rows") + NUMBER * tokens * (m + n)
    scatter = min(DECODE_SLOTS * m * n, COEFFICIENT_SLOTS * k)
    return Cost(size, size, m * transform_products(n) + tokens * m * n, scatter)


# ---- W never built -------------------------------------------------------------------------------


def two_factors(n: int) -> tuple[int, int] | None:
    """Find a b = n, a <= b <= LONGEST_SIDE, a as large as can be; None if there are none."""
    found = [
        (a, n // a) for a in range(1, math.isqrt(n) + 1) if n % a == 0 and n // a <= LONGEST_SIDE
    ]
    return found[-1] if found else None


def transform_products(n: int) -> float:
    """Count the multiply-adds of a DCT of length n = a b in two stages of tables, 2 n (a + b).

    `row_linear` does it so: a Fourier transform of b real numbers, a times, and the real part of
    one of a complex numbers, b times. Where n has no two such factors it counts as if it were a
    square, 4 n sqrt(n).
    """
    a, b = two_factors(n) or (math.sqrt(n), math.sqrt(n))
    return 2 * n * (a + b)


def row_product(
    m: int, n: int, k: int, tokens: int, positions: Positions, transforms: int = 1
) -> Cost:
    """Count y = S x^ by the rows of a scattered S, with transforms on chip, a kernel each.

    It takes 2 K + `position_bytes` + 2 T (m + n) bytes; x^ and y^, written and read, besides. By
    int16 columns a coefficient takes COEFFICIENT_SLOTS + T TOKEN_SLOTS. By a bitmask S is made
    dense on chip, for tensor cores: mn DECODE_SLOTS, and T mn multiply-adds.

    Args:
        m: rows of W.
        n: columns of W.
        k: coefficients K.
        tokens: T.
        positions: how they are stored.
        transforms: 1, of x alone; or 2, of x and y.
    """
    lengths = (n, m)[:transforms]
    between = 2 * NUMBER * tokens * sum(lengths)
    size = NUMBER * k + position_bytes(m, n, k, positions) + NUMBER * tokens * (m + n) + between
    work = tokens * sum(map(transform_products, lengths))
    if positions == "bitmask":
        return Cost(size, size, work + tokens * m * n, DECODE_SLOTS * m * n, 1 + transforms)
    slots = k * (COEFFICIENT_SLOTS + TOKEN_SLOTS * tokens)
    return Cost(size, size, work, slots, 1 + transforms)


@lru_cache(maxsize=1024)
def rows_pay(m: int, n: int, k: int, tokens: int) -> bool:
    """Say whether `row_linear` takes it, and should beat a dense layer by `ROWS_PAY_FROM`.

    Both are taken at their floors.
    """
    if not 1 <= tokens <= ROW_TOKENS or two_factors(n) is None or k >= 2**31:
        return False
    return seconds(dense(m, n, tokens)) > ROWS_PAY_FROM * seconds(
        row_product(m, n, k, tokens, "int16")
    )


def box_product(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y = ((x C_n'^T) S^T) C_m', dense products with the first k2 and k1 rows of cosines.

    It takes 2 (k2 n + k1 k2 + k1 m) bytes, and T / 2 times as many multiply-adds; x^ and y^
    besides. As K / mn = r, it is 2 sqrt(r) + r of a dense layer where m = n: below one for r <
    0.17.
    """
    k1, k2 = box(m, n, k)
    work = k2 * n + k1 * k2 + k1 * m
    size = NUMBER * (work + tokens * (m + n + 2 * (k1 + k2)))
    return Cost(size, size, tokens * work, launches=3)


def box_transformed(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y = C_m'^T (S (C_n' x)) with transforms on chip in place of the tables.

    It takes 2 (k1 k2 + T (m + n)) bytes; x^ and y^ besides.
    """
    k1, k2 = box(m, n, k)
    size = NUMBER * (k1 * k2 + tokens * (m + n + 2 * (k1 + k2)))
    return Cost(
        size, size, tokens * (k1 * k2 + transform_products(n) + transform_products(m)), launches=3
    )


def block_product(m: int, n: int, k: int, tokens: int) -> Cost:
    """Count y by coefficients of blocks of 16, without positions.

    It takes 2 (K + T (m + n)) bytes, T (K + 16 (m + n)) multiply-adds.
    """
    size = NUMBER * (k + tokens * (m + n))
    return Cost(size, size, tokens * (k + 16 * (m + n)))


if __name__ == "__main__":
    from zoo.bases.kernels.floor_tables import main

    main()
