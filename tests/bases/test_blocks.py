"""Blocks of cosine coefficients: their layout, W, and products that never build it."""

import numpy as np
import pytest
import scipy.fft
import torch

from zoo.bases import block_products, blocks
from zoo.bases.block_products import BlockProduct, product_pays
from zoo.bases.seeds import generator
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import BlockDCT
from zoo.testing import agree

CASES = [
    (16, 16, 4, 128),
    (24, 32, 8, 228),
    (24, 32, 8, 36),
    (13, 7, 16, 45),
    (65, 128, 16, 832),
    (5, 64, 16, 192),
    (1, 12, 16, 6),
    (64, 32, 16, 2048),
    (40, 24, 8, 330),
]
"""m, n, largest block, budget: square blocks and others, few positions, all of them, one block."""


def layout_of(m, n, block, budget):
    return blocks.block_layout(m, n, block, budget, generator(7))


def mask_of(layout):
    """The positions of a block, written out from the module's first equation."""
    mask = np.zeros((layout.p, layout.q), dtype=int)
    for a in range(layout.p):
        for t in range(layout.r + (a < layout.e)):
            mask[layout.rows[a], layout.columns[(layout.step * a + t) % layout.q]] += 1
    return mask


def reference(layout, coef):
    """W block by block, by scipy; the coefficients in the order that `zoo.bases.blocks` states."""
    (down, across), p, q, r = layout.grid, layout.p, layout.q, layout.r
    main = coef[: p * down * r * across].reshape(p, down, r, across)
    extra = coef[p * down * r * across :].reshape(layout.e, down, across)
    w = np.zeros((down * p, across * q))
    for i in range(down):
        for j in range(across):
            s = np.zeros((p, q))
            for a in range(p):
                for t in range(r):
                    s[layout.rows[a], layout.columns[(layout.step * a + t) % q]] = main[a, i, t, j]
                if a < layout.e:
                    s[layout.rows[a], layout.columns[(layout.step * a + r) % q]] = extra[a, i, j]
            w[i * p : (i + 1) * p, j * q : (j + 1) * q] = scipy.fft.idctn(s, norm="ortho")
    return w


@pytest.mark.parametrize("case", CASES)
def test_the_layout_spends_its_budget_evenly(case):
    """K = k I J <= budget, less than one a block short; rows of a block differ by at most one."""
    m, n, block, budget = case
    layout, mask = layout_of(*case), mask_of(layout_of(*case))
    assert layout.p <= block and layout.q <= block and m % layout.p == 0 and n % layout.q == 0
    assert (layout.p * layout.grid[0], layout.q * layout.grid[1]) == (m, n)
    assert 0 <= budget - layout.coefficients < layout.grid[0] * layout.grid[1]
    assert mask.max() == 1 and mask.sum() == layout.k
    assert np.ptp(mask.sum(1)) <= 1
    if layout.p == layout.q:
        assert np.ptp(mask.sum(0)) <= 2


@pytest.mark.parametrize("case", CASES)
def test_weight_is_the_inverse_dct_of_each_block(case):
    layout = layout_of(*case)
    coef = torch.randn(layout.coefficients, dtype=torch.float64)
    w = blocks.build(coef, layout, blocks.block_tables(layout, "cpu", torch.float64))
    agree(w, torch.from_numpy(reference(layout, coef.numpy())), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_support_is_where_the_coefficients_are(case):
    """The blockwise DCT of W, read at `block_support`, is c, and all there is of it."""
    layout = layout_of(*case)
    coef = np.random.default_rng(0).standard_normal(layout.coefficients)
    w, (p, q) = reference(layout, coef), (layout.p, layout.q)
    cells = w.reshape(layout.grid[0], p, layout.grid[1], q)
    plane = scipy.fft.dctn(cells, axes=(1, 3), norm="ortho").reshape(w.shape)
    agree(
        torch.from_numpy(plane).flatten()[blocks.block_support(layout)],
        torch.from_numpy(coef),
        1e-12,
    )
    assert blocks.block_support(layout).unique().numel() == layout.coefficients


@pytest.mark.parametrize("case", CASES)
def test_unbuild_is_the_adjoint_of_build(case):
    """<build(c), W> = <c, unbuild(W)>, and unbuild(build(c)) = c."""
    layout = layout_of(*case)
    tables = blocks.block_tables(layout, "cpu", torch.float64)
    c, w = (
        torch.randn(layout.coefficients, dtype=torch.float64),
        torch.randn(case[0], case[1], dtype=torch.float64),
    )
    built, back = blocks.build(c, layout, tables), blocks.unbuild(w, layout, tables)
    agree((built * w).sum(), (c * back).sum(), 1e-12)
    agree(blocks.unbuild(built, layout, tables), c, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_product_is_with_w(case, monkeypatch):
    """x W^T + b, its gradients and theirs, are those of a product with W; any strides, chunks that
    do not divide T.
    """
    layout = layout_of(*case)
    tables = blocks.block_tables(layout, "cpu", torch.float64)
    monkeypatch.setitem(block_products.CHUNK_BYTES, "cpu", 3 * 8 * case[1])
    c, b = (
        torch.randn(layout.coefficients).double().requires_grad_(),
        torch.randn(case[0]).double().requires_grad_(),
    )
    x, g = torch.randn(case[1], 7).double().mT.requires_grad_(), torch.randn(case[0], 7).double().mT

    def second(y):
        first = torch.autograd.grad((y * g).sum() + y.square().sum(), (x, c, b), create_graph=True)
        return y, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), (x, c, b))

    ours = second(BlockProduct.apply(x, c, b, tables.left, tables.right, layout))
    theirs = second(torch.nn.functional.linear(x, blocks.build(c, layout, tables), b))
    for mine, other in zip(ours, theirs, strict=True):
        agree(mine.detach(), other.detach(), 1e-11)


@pytest.mark.parametrize("tokens", [3, 200])
def test_half_precision_products_err_by_their_rounding(tokens):
    """Few tokens and many, the two ways of half precision, against the float64 product; gradients
    too.
    """
    layout = layout_of(96, 64, 16, 2000)
    c, x, g = torch.randn(layout.coefficients), torch.randn(tokens, 64), torch.randn(tokens, 96)
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        tables = blocks.block_tables(layout, "cpu", dtype)
        leaves = [v.to(torch.bfloat16).to(dtype).requires_grad_() for v in (x, c)]
        y = BlockProduct.apply(*leaves, None, tables.left, tables.right, layout)
        found[dtype] = [y, *torch.autograd.grad(y, leaves, g.bfloat16().to(dtype))]
    for rough, exact in zip(found[torch.bfloat16], found[torch.float64], strict=True):
        assert rough.dtype == torch.bfloat16
        assert (rough.double() - exact).norm() < 0.01 * exact.norm()


def test_nothing_dense_is_kept_for_backward():
    """What autograd keeps of a product is x, c and cosines: no W, and no x^."""
    p = BlockDCT(256, 512, ratio=0.1)
    assert not p.builds_weight
    sizes, x = [], torch.randn(4, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        p(x)
    assert max(sizes) == p.num_trainable and sum(sizes) <= p.num_trainable + x.numel() + 1000


def test_precision_and_size_choose_the_path():
    """Products pay for few coefficients of large matrices, for fewer in half precision, for more
    with few tokens.
    """

    def pays(m, n, block, share, dtype=torch.float32, tokens=None):
        return product_pays(layout_of(m, n, block, round(share * m * n)), dtype, "cpu", tokens)

    assert pays(768, 768, 16, 0.5) and pays(4096, 4096, 16, 0.5) and pays(768, 768, 32, 0.1)
    assert not pays(768, 768, 16, 1.0) and not pays(64, 64, 16, 0.1) and not pays(128, 128, 16, 0.5)
    assert pays(768, 768, 32, 0.5) and not pays(768, 768, 32, 0.5, torch.bfloat16)
    assert pays(768, 768, 32, 0.5, torch.bfloat16, tokens=16)
    p = BlockDCT(768, 768, ratio=0.5, block=32)
    assert not p.builds_weight
    with torch.autocast("cpu", torch.bfloat16):
        assert p.builds_weight
        assert p(torch.randn(2, 768)).dtype == torch.bfloat16
    assert not p.builds_weight


def test_an_update_is_added_to_its_base():
    """x W0^T + b + s x W^T without W, in a layer with a base of lower precision too."""
    for dtype in (torch.float32, torch.bfloat16):
        base, x = torch.randn(256, 256).to(dtype), torch.randn(3, 5, 256).to(dtype)
        layer = ZooLinear(
            BlockDCT(256, 256, lora_rank=8, seed=1), torch.randn(256), base, scale=0.5
        )
        layer = layer.to(dtype) if dtype == torch.float32 else layer
        layer.bias.data = layer.bias.data.to(dtype)
        assert not layer.parameterization.builds_weight
        expected = x.double() @ layer.effective_weight().double().mT + layer.bias.double()
        assert layer(x).dtype == dtype
        agree(layer(x).detach(), expected.detach(), 1e-5 if dtype == torch.float32 else 2e-2)


def test_count_is_the_largest_that_the_budget_holds():
    assert BlockDCT(128, 128, ratio=0.1, block=16).num_trainable == 25 * 64
    assert BlockDCT(128, 128, ratio=0.1, block=32).num_trainable == 102 * 16
    assert BlockDCT(128, 384, lora_rank=4, block=16).num_trainable == 10 * 192
    assert BlockDCT(13, 7, ratio=0.5).num_trainable == 46  # one block


def test_layers_differ_in_their_positions_and_not_in_their_count():
    p, q = BlockDCT(64, 64, ratio=0.3).for_layer("a"), BlockDCT(64, 64, ratio=0.3).for_layer("b")
    assert (
        not torch.equal(p.support, q.support)
        and len(p.support) == len(q.support) == p.num_trainable
    )


def test_full_rank_from_one_coefficient_a_row():
    """rank W = m when every row of a block has one, e / p of it when only e rows have."""
    p, q = (
        BlockDCT(64, 64, ratio=1 / 16, block=16).double(),
        BlockDCT(64, 64, ratio=12 / 256, block=16).double(),
    )
    assert torch.linalg.matrix_rank(p.weight()) == 64
    assert torch.linalg.matrix_rank(q.weight()) == 64 * 12 // 16


def test_no_step_is_larger_than_a_dense_one():
    """|dW|_2 lr_mult <= sqrt(mn) for coefficients that move by +-1, with equality for the signs of
    rank one.
    """
    m, n = 40, 24
    p = BlockDCT(m, n, ratio=0.2, block=8).double()
    for draw in range(5):
        rank_one = torch.outer(torch.randn(m).sign(), torch.randn(n).sign()).flatten()[p.support]
        signs = rank_one if draw == 0 else torch.randn(len(p.coef)).sign()
        with torch.no_grad():
            p.coef.copy_(signs)
        bound = torch.linalg.matrix_norm(p.weight().detach(), 2).item() * p.lr_mult / (m * n) ** 0.5
        assert bound == pytest.approx(1, rel=1e-4) if draw == 0 else bound < 0.98


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a budget"),
        ({"ratio": 0.5, "block": 0}, "at least 1, got 0"),
        ({"ratio": 0.001}, "give a ratio of at least 0.003907, or a larger block"),
        ({"ratio": 0.5, "coefficients": 3}, "exclude each other"),
    ],
)
def test_a_bad_argument_names_its_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        BlockDCT(64, 48, **{"block": 16, **arguments})
