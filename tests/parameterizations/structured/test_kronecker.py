"""Kronecker is numpy's kron of its terms, and peft's LoKr with the same numbers in."""

import itertools
import math
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.parameterizations import Kronecker
from zoo.parameterizations.cost import counted
from zoo.parameterizations.structured import sizes, two_paths
from zoo.testing import ParameterizationTestCase, agree

BOTH_WAYS = pytest.mark.parametrize("up_to", [0.0, 1e9], ids=["built", "products"])
"""With a W that is built, and without."""


class TestKronecker(ParameterizationTestCase):
    """Products with A and B for few rows, A first for tall shapes, W for many."""

    parameterization = Kronecker
    arguments: ClassVar = {"terms": 2}
    shapes = ((16, 16), (8, 24), (24, 8), (1, 12))


class TestKroneckerOfLowRank(ParameterizationTestCase):
    """LoKr with its larger factors of rank 1, and no term but one."""

    parameterization = Kronecker
    arguments: ClassVar = {"terms": 1, "rank": 1, "decompose_both": True}


def factors(p):
    """A and B of every term, as arrays."""
    found = []
    for name, size in p.sizes.items():
        parts = [
            getattr(p, part).detach().numpy() for part in (name, f"{name}_a") if hasattr(p, part)
        ]
        if hasattr(p, f"{name}_b"):
            parts = [np.einsum("tik,tkj->tij", parts[0], getattr(p, f"{name}_b").detach().numpy())]
        assert parts[0].shape[1:] == size
        found.append(parts[0])
    return zip(*found, strict=True)


def summed(p):
    return torch.from_numpy(sum(np.kron(a, b) for a, b in factors(p)))


@BOTH_WAYS
@pytest.mark.parametrize("arguments", [{}, {"rank": 1}, {"rank": 1, "decompose_both": True}])
@pytest.mark.parametrize("shape", [(12, 12), (18, 8), (6, 30), (12, 13)])
def test_it_is_the_sum_of_numpys_products(shape, arguments, up_to, monkeypatch):
    monkeypatch.setitem(two_paths.PRODUCTS_UP_TO, "cpu", up_to)
    p = Kronecker(*shape, terms=2, **arguments).double()
    w = summed(p)
    agree(p.weight().detach(), w, 1e-12)
    x, base, bias = (torch.randn(size).double() for size in ((2, 3, shape[1]), shape, shape[:1]))
    agree(p(x, bias), x @ w.T + bias, 1e-12)
    agree(p.forward_update(x, base, bias, 0.7), x @ (base + 0.7 * w).T + bias, 1e-12)


@pytest.mark.parametrize("settings", [{"r": 3}, {"r": 1}, {"r": 1, "decompose_both": True}])
@pytest.mark.parametrize(
    ("shape", "factor"), [((24, 24), -1), ((20, 6), -1), ((6, 20), 4), ((24, 40), 8)]
)
def test_one_term_is_pefts_lokr(shape, factor, settings):
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    config = peft.LoKrConfig(
        **settings,
        alpha=settings["r"],
        decompose_factor=factor,
        target_modules=["a"],
        init_weights=False,
    )
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    p = Kronecker(
        m,
        n,
        terms=1,
        factor=None if factor == -1 else factor,
        rank=settings["r"],
        decompose_both=settings.get("decompose_both", False),
    ).double()
    with torch.no_grad():
        for name, values in p.named_parameters():
            values.copy_(getattr(layer, name)["default"][None])
    agree(p.weight().detach(), layer.get_delta_weight("default").detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained


def test_it_begins_as_peft_does():
    """A = 0 and B random, or A' = 0 where A = A' A''."""
    for arguments in ({}, {"rank": 1}, {"rank": 1, "decompose_both": True}):
        p = Kronecker(24, 24, terms=2, **arguments)
        p.reset_parameters(0.0)
        zero = {name for name, values in p.named_parameters() if not values.any()}
        assert zero == {"lokr_w1_a" if "decompose_both" in arguments else "lokr_w1"}


@pytest.mark.parametrize(
    "arguments",
    [{"terms": 3}, {"terms": 2, "rank": 2}, {"terms": 1, "rank": 1, "decompose_both": True}],
)
@pytest.mark.parametrize("std", [0.02, 0.0])
def test_a_step_is_as_large_as_a_dense_one(arguments, std):
    """Of coefficients that move by +-lr_mult, W moves by 1 a weight: root mean square, 20 draws."""
    moved = []
    for _ in range(20):
        p = Kronecker(96, 64, **arguments).double()
        p.reset_parameters(std)
        w = p.weight().detach()
        with torch.no_grad():
            for q in p.parameters():
                q.add_(torch.randn_like(q).sign(), alpha=1e-7 * p.lr_mult)
            moved.append(((p.weight() - w) / 1e-7).square().mean())
    assert torch.stack(moved).mean().sqrt().item() == pytest.approx(1, rel=0.15)


def test_factors_are_pefts():
    layer = pytest.importorskip("peft.tuners.lokr.layer")
    for n, factor in itertools.product(
        (1, 2, 12, 13, 65, 96, 127, 360, 768), (-1, 1, 4, 5, 16, 48)
    ):
        ours = sizes.two_factors(n, None if factor == -1 else factor)
        assert ours == layer.factorization(n, factor), (n, factor)


@pytest.mark.parametrize("shape", [(12, 12), (18, 8), (6, 30)])
def test_it_projects_onto_the_best_terms(shape):
    """The error is what singular values of the rearranged target are left: Van Loan, Pitsianis."""
    target = torch.randn(shape, dtype=torch.float64)
    p = Kronecker(*shape, terms=2).double()
    p.project_(target)
    (m1, n1), (m2, n2) = p.sizes.values()
    blocks = [
        target[i * m2 : (i + 1) * m2, j * n2 : (j + 1) * n2].flatten().numpy()
        for i in range(m1)
        for j in range(n1)
    ]
    left = np.linalg.svd(np.stack(blocks), compute_uv=False)[2:]
    assert (p.weight() - target).norm().item() == pytest.approx(math.hypot(*left), rel=1e-9)


def test_terms_of_low_rank_project_to_where_no_term_can_be_better():
    """Of several, too; and no worse than the numbers that were there."""
    target = torch.randn(24, 20, dtype=torch.float64)
    p = Kronecker(24, 20, terms=2, rank=1).double()
    p.project_(target)
    error = (p.weight() - target).norm()
    (p.weight() - target).square().sum().backward()
    assert max(q.grad.abs().max() for q in p.parameters()) < 1e-4 * target.square().sum()
    assert error < target.norm()
    exact = Kronecker(24, 20, terms=2, rank=1).double().weight().detach()
    q = Kronecker(24, 20, terms=2, rank=1).double()
    q.project_(exact)
    assert (q.weight() - exact).norm() < 0.9 * exact.norm()


@pytest.mark.parametrize("shape", [(128, 128), (384, 128), (512, 128), (128, 512), (768, 768)])
@pytest.mark.parametrize(
    "budget", [{"ratio": 0.1}, {"ratio": 0.5}, {"lora_rank": 8}, {"coefficients": 4000}]
)
def test_a_budget_is_missed_by_less_than_a_term(shape, budget):
    m, n = shape
    p = Kronecker(m, n, **budget)
    (m1, n1), (m2, n2) = p.sizes.values()
    k = budget.get("ratio", 0) * m * n or budget.get("lora_rank", 0) * (m + n) or 4000
    assert k - (m1 * n1 + m2 * n2) < p.num_trainable <= k
    assert p.num_trainable == p.terms * (m1 * n1 + m2 * n2)


def test_one_term_of_square_factors_has_full_rank():
    """Kron(A, B) has the product of their ranks, at a ratio of 2 / n."""
    p = Kronecker(16, 16, terms=1).double()
    assert p.num_trainable == 32
    assert torch.linalg.matrix_rank(p.weight()) == 16


@BOTH_WAYS
@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (40, 40)])
@pytest.mark.parametrize("arguments", [{"terms": 3}, {"terms": 2, "rank": 2}])
def test_cost_is_what_torch_counts(shape, arguments, up_to, monkeypatch):
    monkeypatch.setitem(two_paths.PRODUCTS_UP_TO, "cpu", up_to)
    p, base = Kronecker(*shape, **arguments), torch.randn(shape)
    for rows, update in itertools.product((1, 7), (False, True)):
        x = torch.randn(rows, shape[1]).requires_grad_().clone()
        run = partial(p.forward_update, x, base) if update else partial(p.forward, x)
        assert counted(run, [x, *p.parameters()]) == p.cost(rows, update)[:2]


def test_the_cheaper_way_is_chosen():
    """One term needs no W, many terms none for one row; LoRA's count at 768 builds it."""
    m = n = 768
    one, few = Kronecker(m, n, terms=1), Kronecker(m, n, lora_rank=8)
    assert one.cost(4096).forward == 4096 * n * (24 + 32)
    assert one.cost(4096, update=True).read == m * n + 24**2 + 32**2
    assert few.terms == 7 and few.cost(4096).forward == 4096 * m * n + 7 * m * n
    assert few.cost(1).forward == 7 * n * (24 + 32) and few.cost(1).read == m * n


@pytest.mark.parametrize(
    ("shape", "arguments", "words"),
    [
        ((8, 6), {}, "exactly one of terms and ratio, got neither"),
        ((8, 6), {"terms": 1, "ratio": 0.5}, "exactly one of terms and ratio"),
        ((8, 6), {"terms": 5}, r"terms must lie in \[1, 4\] for shape \(8, 6\), got 5"),
        ((8, 6), {"terms": 1, "rank": 0}, "rank must be at least 1, got 0"),
        (
            (13, 7),
            {"ratio": 0.3},
            r"no terms for shape \(13, 7\): .* \[1, 1\], .* least is 20 coefficients with \[1, 7\]",
        ),
        ((1, 7), {"ratio": 0.5}, r"least is 8 coefficients with \[1, 1\]"),
        ((8, 6), {"lora_rank": 9}, r"lora_rank must lie in \[1, 3\]"),
        ((8, 6), {"terms": 1, "factor": [3, 2]}, r"8 rows by 2 or 4, got 3"),
        ((8, 6), {"terms": 1, "factor": [2, 0]}, r"6 columns by 1, got 0"),
        ((8, 6), {"terms": 1, "factor": [2]}, "one number or two"),
        ((8, 6), {"terms": 1, "factor": 0}, "at least 1, got 0"),
    ],
)
def test_a_bad_argument_names_what_would_work(shape, arguments, words):
    with pytest.raises(ValueError, match=words):
        Kronecker(*shape, **arguments)
