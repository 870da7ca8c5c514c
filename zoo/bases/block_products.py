"""y = x W^T for a W of `zoo.bases.blocks` that is never built. Pure functions of torch.

With x^ and y^ the blockwise transforms of x (T, n) and y (T, m), S[a, :, t] the (I, J) coefficients
of one position,

    y^[a] = sum_t x^[s a + t] S[a, :, t]^T,    x^[l] (T, J), y^[a] (T, I)

K multiply-adds a row of x in place of mn. The positions are a circulant, so that what all a need of
x^ at one t is a slice of x^, and what one a needs are neighbours in it: both are views, and nothing
is gathered.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zoo.bases.blocks import BlockLayout, split
from zoo.bases.seeds import of_device
from zoo.bases.vmapped import Function

CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 1 << 40}
"""Of x, worked on together, by type of device.

On a CPU as much as stays in its caches, where a factor of 2 either way changes little. "cuda" is
unmeasured: all.
"""
ONE_BY_ONE_ABOVE = {"cpu": 64, "cuda": math.inf}
"""Most tokens in half precision for which all positions of a row are multiplied as one.

By type of device. CPUs copy overlapping windows of half precision first, which few tokens bear.
"cuda" is unmeasured: never t by t.
"""


class Costs(NamedTuple):
    """Times of a layer without W and with it, a dense layer's being 1 (`product_pays`)."""

    small: float  # a: how much slower arithmetic gets with the smallness s of its matrices
    passes: float  # b: over x^ and y^, in blocks
    ends: float  # c: over x and y
    built: float  # d: with W built, for many tokens
    few: float  # e: the tokens that building W takes as long as


COSTS = {
    "cpu": {2: Costs(20, 2.5, 60, 1.1, 200), 4: Costs(6, 4, 0, 1.1, 200)},
    "cuda": {2: Costs(20, 2.5, 60, 1.1, 200), 4: Costs(6, 4, 0, 1.1, 200)},
}
"""By type of device and bytes of a number, 2 or more.

"cpu" is fitted to forward and backward (results/block_products.csv); "cuda" is a CPU's, unmeasured.
"""


def product_pays(
    layout: BlockLayout, dtype: torch.dtype, device: torch.device | str, tokens: int | None = None
) -> bool:
    """Say whether `BlockProduct` should beat a product with W built, in training.

    Estimated times are compared, a dense layer's being 1:

        (1 + a s) K / mn + b s + c (1/m + 1/n) < d + e / T,    s = 1/I + 1/J

    The first term is arithmetic, slower as the matrices (J, I) get smaller; the others, passes over
    x^ and y^. To the right is what it takes with W, which must be built, for few tokens T (None:
    many) as for many. `COSTS` holds a to e.
    """
    a, b, c, d, e = of_device(COSTS, device)[2 if dtype.itemsize == 2 else 4]
    (down, across), p, q = layout.grid, layout.p, layout.q
    s = 1 / down + 1 / across
    time = (1 + a * s) * layout.k / (p * q) + b * s + c * (1 / (down * p) + 1 / (across * q))
    return time < d + (e / tokens if tokens else 0)


class BlockProduct(Function):
    """(x, c, b) -> x W^T + b.

    Bilinear in x and c, so that its derivatives are products of its own kind.

    x is (T, n), c (K,), b (m,) or None, all of one dtype, as the tables; x and c are kept for
    backward.
    """

    @staticmethod
    def forward(
        x: Tensor,
        coef: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        layout: BlockLayout,
    ) -> Tensor:
        return _product(x, coef, bias, left, right, layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, coef, _, left, right, ctx.layout = inputs
        ctx.save_for_backward(x, coef, left, right)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, coef, left, right = ctx.saved_tensors
        to_x, to_coef = BlockAdjoints.apply(grad, x, coef, left, right, ctx.layout)
        return to_x, to_coef, grad.sum(0) if ctx.needs_input_grad[2] else None, None, None, None

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, x: Tensor, *others: Any) -> tuple[Any, Any]:
        if in_dims[0] is None or any(dim is not None for dim in tree_leaves(in_dims[1:])):
            return super().vmap(info, in_dims, x, *others)
        x = x.movedim(in_dims[0], 0)  # (B, T, n), with one W for all
        return BlockProduct.apply(x.flatten(0, 1), *others).unflatten(0, x.shape[:2]), 0


class BlockAdjoints(Function):
    """(g, x, c) -> (g W, the coefficients of g^T x): what a product hands back to x and to c."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, coef: Tensor, left: Tensor, right: Tensor, layout: BlockLayout
    ) -> tuple[Tensor, Tensor]:
        return _adjoints(grad, x, coef, left, right, layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.layout = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(
        ctx: Any, to_x: Tensor, to_coef: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad, x, coef, left, right = ctx.saved_tensors
        tables = left, right, ctx.layout
        to_grad = BlockProduct.apply(to_x, coef, None, *tables) + BlockProduct.apply(
            x, to_coef, None, *tables
        )
        return to_grad, *BlockAdjoints.apply(grad, to_x, to_coef, *tables), None, None, None


def _chunks(x: Tensor) -> list[slice]:
    """Rows of x that are worked on together."""
    most = of_device(CHUNK_BYTES, x.device) // (x.shape[1] * x.element_size())
    return [slice(start, start + max(1, most)) for start in range(0, len(x), max(1, most))]


def _one_by_one(x: Tensor) -> bool:
    """Tell whether to multiply t by t."""
    return x.element_size() == 2 and len(x) > of_device(ONE_BY_ONE_ABOVE, x.device)


def _parts(coef: Tensor, layout: BlockLayout, one_by_one: bool) -> list[Tensor]:
    """Return views of the coefficients, (rows, I, .).

    They are of every t, or of all t < r as one, (p, I, r J); then of the extra ones.
    """
    main, extra = split(coef, layout)
    mains = list(main.unbind(2)) if one_by_one else [main.flatten(2)] if layout.r else []
    return mains + ([extra] if layout.e else [])


def _blockwise(x: Tensor, cosines: Tensor) -> Tensor:
    """x^, one block after another; (T, J q) and (L, q) to (L, T, J)."""
    return torch.mm(cosines, x.reshape(-1, cosines.shape[1]).mT).view(len(cosines), len(x), -1)


def _meet(x: Tensor, right: Tensor, layout: BlockLayout, one_by_one: bool) -> list[Tensor]:
    """Return what the rows of W^ multiply of x^, for each of `_parts` a view, (rows, T, .)."""
    (_, across), p, r, e, s = layout[2], layout.p, layout.r, layout.e, layout.step
    if one_by_one:
        x_hat = _blockwise(x, right)
        return [x_hat[_walk(t, rows, s)] for t, rows in layout.terms]
    blocks = x.reshape(len(x), across, -1).mT
    # (T, L, J): the positions of one a are neighbours.
    x_hat = torch.bmm(right.expand(len(x), -1, -1), blocks)
    steps = s * across, x_hat.shape[1] * across, 1
    mains = [x_hat.as_strided((p, len(x), r * across), steps)] if r else []
    return mains + ([x_hat.as_strided((e, len(x), across), steps, r * across)] if e else [])


def _walk(t: int, rows: int, step: int) -> slice:
    """Return the steps of the walk at which the first `rows` have their position t."""
    return slice(t, t + step * (rows - 1) + 1, step)


def _product(
    x: Tensor, coef: Tensor, bias: Tensor | None, left: Tensor, right: Tensor, layout: BlockLayout
) -> Tensor:
    """x W^T + b; (T, n) to (T, m)."""
    y, one_by_one = x.new_empty(len(x), layout.grid[0] * layout.p), _one_by_one(x)
    first, *rest = _parts(coef, layout, one_by_one)
    for some in _chunks(x):
        met, *more = _meet(x[some], right, layout, one_by_one)
        y_hat = torch.bmm(met, first.mT)  # (u, T, I)
        for other, part in zip(more, rest, strict=True):
            y_hat[: len(part)].baddbmm_(other, part.mT)
        torch.mm(y_hat.view(len(left), -1).mT, left, out=y[some].view(-1, layout.p))
        if bias is not None:
            y[some] += bias
    return y


def _adjoints(
    grad: Tensor, x: Tensor, coef: Tensor, left: Tensor, right: Tensor, layout: BlockLayout
) -> tuple[Tensor, Tensor]:
    """g W, (T, n), and the coefficients of g^T x, (K,), which are summed in float32 at least."""
    to_x, to_coef = (
        x.new_empty(x.shape),
        coef.new_zeros(coef.shape, dtype=torch.promote_types(x.dtype, torch.float32)),
    )
    one_by_one = _one_by_one(x)
    sums, each = _parts(to_coef, layout, one_by_one), _parts(coef, layout, one_by_one=True)
    for some in _chunks(x):
        g_hat = _blockwise(grad[some], left)  # (u, T, I)
        for total, met in zip(sums, _meet(x[some], right, layout, one_by_one), strict=True):
            g = g_hat[: len(total)].mT
            if total.dtype == g.dtype:
                total.baddbmm_(g, met)
            else:
                total += torch.bmm(g, met)
        back = x.new_zeros(len(right), g_hat.shape[1], layout.grid[1])
        for (t, rows), part in zip(layout.terms, each, strict=True):
            back[_walk(t, rows, layout.step)].baddbmm_(g_hat[:rows], part)
        torch.mm(back.view(len(right), -1).mT, right, out=to_x[some].view(-1, layout.q))
    return to_x, to_coef.to(coef.dtype)
