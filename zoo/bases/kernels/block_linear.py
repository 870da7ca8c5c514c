"""y = x W^T + b for a weight of `zoo.bases.blocks` that is never built, of few tokens.

Of few tokens, bandwidth is the limit.

In the transform domain a product with W is one with its coefficients. With x^ and y^ the blockwise
transforms of x (T, n) and y (T, m),

    y^[T, a, i] = sum_t sum_j x^[T, s a + t, j] coef[a, i, t, j],    y[T, i] = y^[T, a, i] left[a]

A program takes one a, some i and a stretch of j. It reads its coefficients once, in runs along j,
and makes the x^ that they meet from x, on tensor cores; sums are float32. For up to 16 tokens that
is the one launch: a counter tells the last program of an i to add up the parts, in a fixed order,
and to transform back. For more, a second launch does.

`work` counts bytes and multiply-adds. A 4096 x 4096 weight in bfloat16, in blocks of 16, with
`default_tiles`:

                          1 token                    16 tokens
                          dense   mn / 2   mn / 8    dense   mn / 2   mn / 8
    device memory, MB      33.6     16.8      4.2     33.8     17.0      4.5
    loads and stores, MB   33.6     17.9      5.3     33.8     34.7     22.2
    products, M             268      143       42      268      269      169

Most loads are of x, from the cache; products are with padding and transforms. On chip, cosines and
x^ are rounded to x's dtype, where a dense layer rounds W: in bfloat16 y is off by 0.0029 of its
norm, and by 0.0023 from a W that was rounded once. float32 is multiplied as three tf32 products.

Unmeasured: there was no GPU at hand. Tests check it against W in Triton's interpreter, and compile
it for compute capability 9.0: 78 to 153 registers and no spills in bfloat16. `bash results/gpu.sh
--only kernels,blocks` checks and measures it, on a GPU. A launch from Python takes longer than the
product: a decoder should capture it in a CUDA graph.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo.bases.blocks import BlockLayout, block_tables
from zoo.bases.kernels import MAX_BLOCK, MAX_TOKENS, block_device
from zoo.bases.kernels.tiles import H100, Device, Tiles, default_tiles, padded

_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class KernelTables(NamedTuple):
    """What a layer keeps for its kernel.

    Calls must follow each other on one stream, because of `counters`.
    """

    left: Tensor  # (u, p) float32: cosines of the row of each a that has coefficients
    right: Tensor  # (L, q), in x's dtype: of the column at each step of the walk
    counters: Tensor  # (I,) int32, zero between calls: programs that are done


def kernel_tables(
    layout: BlockLayout, device: torch.device | str, dtype: torch.dtype
) -> KernelTables:
    """Make the tables of a layout, for x of this dtype."""
    tables = block_tables(layout, torch.device(device), torch.float32)
    counters = torch.zeros(layout.grid[0], dtype=torch.int32, device=device)
    return KernelTables(tables.left.contiguous(), tables.right.to(dtype).contiguous(), counters)


def _compiled() -> bool:
    """Say False in the interpreter, which cannot multiply bfloat16.

    Operands, rounded to it, are then float32.
    """
    return isinstance(block_device.product, triton.JITFunction)


def constants(
    layout: list[int],
    tables: KernelTables,
    tokens: int,
    tiles: Tiles,
    dtype: torch.dtype,
    bias: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return compile-time arguments: those of both kernels, and those of the product alone."""
    p, q, down, across, r, e, step = layout
    used, height = len(tables.left), max(16, padded(p))
    both = {
        "I": down,
        "P": p,
        "USED": used,
        "BA": max(16, padded(used)),
        "BP": height,
        "ROWS": 4096 // height,
        "SPLITS": tiles.splits,
        "BIAS": bias,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32",
    }
    return both, {
        "J": across,
        "Q": q,
        "R": r,
        "E": e,
        "WIDTH": r + (e > 0),
        "STEP": step,
        "WALK": len(tables.right),
        "TX": padded(tokens),
        "BT": max(16, padded(tokens)),
        "BI": tiles.rows,
        "BJ": tiles.depth,
        "BU": tiles.positions,
        "BQ": padded(q),
        "PACK": max(1, 16 // tiles.positions),
        "FUSED": tiles.fused,
        "STAGES": tiles.stages,
        "STEPS": triton.cdiv(across, tiles.depth * tiles.splits),
        "DOT": _DTYPES[dtype] if _compiled() else tl.float32,
    }


Launch = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]
"""A kernel, its grid, its arguments, and those at compile time."""


def _launches(
    x: Tensor,
    coef: Tensor,
    left: Tensor,
    right: Tensor,
    counters: Tensor,
    bias: Tensor | None,
    layout: list[int],
    tiles: list[int],
) -> tuple[Tensor, list[Launch]]:
    """Return where y will be, and what makes it."""
    tokens, down, cut = len(x), layout[2], Tiles._make(tiles)
    both, own = constants(
        layout, KernelTables(left, right, counters), tokens, cut, x.dtype, bias is not None
    )
    y = x.new_empty(tokens, down * layout[0])
    parts = x.new_empty(cut.splits, tokens, len(left), down, dtype=torch.float32)
    outputs = (left, x if bias is None else bias, y, parts)
    grid = (len(left), triton.cdiv(down, cut.rows), cut.splits)
    options = {"num_warps": cut.warps, "enable_fp_fusion": True}
    product = x, coef, right, *outputs, counters, tokens
    launches: list[Launch] = [(block_device.product, grid, product, {**both, **own, **options})]
    if not cut.fused:
        programs = (triton.cdiv(tokens * down, both["ROWS"]),)
        launches.append((block_device.finish, programs, (*outputs, tokens), {**both, **options}))
    return y, launches


@torch.library.custom_op("zoo::block_linear", mutates_args=("counters",))
def _launch(
    x: Tensor,
    coef: Tensor,
    left: Tensor,
    right: Tensor,
    counters: Tensor,
    bias: Tensor | None,
    layout: list[int],
    tiles: list[int],
) -> Tensor:
    y, launches = _launches(x, coef, left, right, counters, bias, layout, tiles)
    for kernel, grid, arguments, options in launches:
        kernel[grid](*arguments, **options)
    return y


@_launch.register_fake
def _(
    x: Tensor,
    coef: Tensor,
    left: Tensor,
    right: Tensor,
    counters: Tensor,
    bias: Tensor | None,
    layout: list[int],
    tiles: list[int],
) -> Tensor:
    return x.new_empty(len(x), layout[0] * layout[2])


def block_linear(
    x: Tensor,
    coef: Tensor,
    layout: BlockLayout,
    tables: KernelTables,
    bias: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Compute x W^T + b, `zoo.bases.blocks.build(coef, ...)` being W.

    It is for inference: there is no backward pass.

    Args:
        x: (..., n), of 1 to 64 tokens in all; float32, bfloat16 or float16.
        coef: (K,); of another dtype than x, it is rounded to x's on chip.
        layout: of the coefficients; blocks of at most 64 x 64.
        tables: `kernel_tables(layout, x.device, x.dtype)`.
        bias: (m,).
        tiles: in place of `default_tiles`.

    Returns:
        (..., m), in x's dtype.

    Raises:
        ValueError: for anything else, and where a gradient is wanted.
    """
    y = _launch(*_arguments(x, coef, layout, tables, bias, tiles))
    return y.view(*x.shape[:-1], y.shape[-1])


def prepare(
    x: Tensor,
    coef: Tensor,
    layout: BlockLayout,
    tables: KernelTables,
    bias: Tensor | None = None,
    tiles: Tiles | None = None,
) -> list[Any]:
    """Compile what `block_linear` of the same arguments launches.

    It takes about a second, and several threads may do so at a time.
    """
    launches = _launches(*_arguments(x, coef, layout, tables, bias, tiles))[1]
    return [
        kernel.warmup(*arguments, grid=grid, **options)
        for kernel, grid, arguments, options in launches
    ]


def _arguments(
    x: Tensor,
    coef: Tensor,
    layout: BlockLayout,
    tables: KernelTables,
    bias: Tensor | None,
    tiles: Tiles | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, list[int], list[int]]:
    """Check the arguments of `_launch`, and give them."""
    tokens, n = x.shape[:-1].numel(), layout.grid[1] * layout.q
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, coef, bias)):
        raise ValueError("block_linear has no backward pass: call it under torch.no_grad()")
    if not 1 <= tokens <= MAX_TOKENS or max(layout.p, layout.q) > MAX_BLOCK:
        raise ValueError(
            f"block_linear is for 1 to {MAX_TOKENS} tokens and blocks up to {MAX_BLOCK}, "
            f"got {tokens} and {layout.p} x {layout.q}"
        )
    if x.dtype not in _DTYPES or coef.dtype not in _DTYPES or tables.right.dtype != x.dtype:
        raise ValueError(
            f"unfit dtypes: x {x.dtype}, coef {coef.dtype}, tables {tables.right.dtype}"
        )
    expected = (n,), (min(layout.coefficients, 2**31 - 1),), (layout.grid[0] * layout.p,)
    shapes = x.shape[-1:], coef.shape, expected[2] if bias is None else bias.shape
    if tuple(map(tuple, shapes)) != expected:
        raise ValueError(
            f"x, coef and bias must fit the layout, {expected}, got {tuple(map(tuple, shapes))}"
        )
    tiles = tiles or default_tiles(layout, tokens, x.dtype, device_of(x))
    numbers = [layout.p, layout.q, *layout.grid, layout.r, layout.e, layout.step]
    return x.reshape(tokens, n).contiguous(), coef.contiguous(), *tables, bias, numbers, list(tiles)


def device_of(x: Tensor) -> Device:
    """Describe the device that x is on; in the interpreter, an H100."""
    if x.device.type != "cuda":
        return H100
    properties = torch.cuda.get_device_properties(x.device)
    return Device(properties.multi_processor_count, (properties.major, properties.minor))


# ---- Counted -------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What a product costs. Tables of cosines, a few KB, are left out."""

    memory: int  # bytes that device memory must hand out or take: every operand once
    moved: int  # bytes that programs load and store, from caches and memory
    useful: int  # multiply-adds of the product itself
    multiply_adds: int  # all, transforms and padding included


def work(layout: BlockLayout, tokens: int, dtype: torch.dtype, tiles: Tiles) -> Work:
    """Count what `block_linear` takes without bias, coefficients being of x's dtype."""
    (down, across), size, used = layout.grid, dtype.itemsize, layout.p if layout.r else layout.e
    m, n, coefficients = down * layout.p, across * layout.q, layout.coefficients
    height, length, back = padded(tokens), padded(layout.q), max(16, padded(layout.p))
    strips, chunks = (
        triton.cdiv(down, tiles.rows),
        triton.cdiv(layout.r + (layout.e > 0), tiles.positions),
    )
    steps = used * strips * chunks * tiles.splits * triton.cdiv(across, tiles.depth * tiles.splits)
    make_x_hat = height * tiles.depth * length * max(16, tiles.positions)
    product = max(16, height) * tiles.positions * tiles.depth * tiles.rows
    pairs = 4096 // back  # of (token, i), transformed back at once
    finishes = (
        strips * triton.cdiv(height * tiles.rows, pairs)
        if tiles.fused
        else triton.cdiv(tokens * down, pairs)
    )
    parts = 4 * tiles.splits * tokens * used * down
    return Work(
        memory=(coefficients + tokens * (m + n)) * size,
        moved=(coefficients + used * strips * chunks * tokens * n + tokens * m) * size + 2 * parts,
        useful=tokens * coefficients,
        multiply_adds=steps * (make_x_hat + product)
        + finishes * pairs * max(16, padded(used)) * back,
    )


def dense_work(m: int, n: int, tokens: int, dtype: torch.dtype) -> Work:
    """Count what a dense layer takes, its tokens padded to 16 for tensor cores.

    Each operand is moved once.
    """
    memory = (m * n + tokens * (m + n)) * dtype.itemsize
    return Work(memory, memory, tokens * m * n, max(16, padded(tokens)) * m * n)
