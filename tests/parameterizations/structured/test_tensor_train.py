"""TensorTrain is the product of its cores, entry by entry, and Kronecker where there are two."""

import itertools
import math
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.parameterizations import Kronecker, TensorTrain
from zoo.parameterizations.cost import counted
from zoo.parameterizations.structured import two_paths
from zoo.testing import ParameterizationTestCase, agree

BOTH_WAYS = pytest.mark.parametrize("up_to", [0.0, 1e9], ids=["built", "products"])
"""With a W that is built, and without."""


class TestTensorTrain(ParameterizationTestCase):
    """Without W for a single row, with it for more."""

    parameterization = TensorTrain
    arguments: ClassVar = {"rank": 2}


def entry_by_entry(p):
    """The paper's formula: a product of matrices for each weight."""
    cores = [core.detach().numpy() for core in p.cores]
    rows, columns = ([core.shape[axis] for core in cores] for axis in (1, 2))
    w = np.empty(p.shape)
    for i, j in itertools.product(*map(range, p.shape)):
        places = zip(cores, np.unravel_index(i, rows), np.unravel_index(j, columns), strict=True)
        product = np.eye(1)
        for core, a, b in places:
            product = product @ core[:, a, b, :]
        w[i, j] = product.item()
    return torch.from_numpy(w)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((12, 12), {"cores": 2}),
        ((18, 8), {"cores": 4}),
        ((8, 30), {}),
        ((12, 18), {"modes": [[4, 3], [1, 3], [3, 2]]}),
    ],
)
def test_it_is_a_product_of_matrices_for_each_weight(shape, arguments, up_to, monkeypatch):
    monkeypatch.setitem(two_paths.PRODUCTS_UP_TO, "cpu", up_to)
    p = TensorTrain(*shape, rank=3, **arguments).double()
    w = entry_by_entry(p)
    agree(p.weight().detach(), w, 1e-12)
    x, base, bias = (torch.randn(size).double() for size in ((2, 3, shape[1]), shape, shape[:1]))
    agree(p(x, bias), x @ w.T + bias, 1e-12)
    agree(p.forward_update(x, base, bias, 0.7), x @ (base + 0.7 * w).T + bias, 1e-12)


@pytest.mark.parametrize("shape", [(12, 12), (18, 8), (6, 30)])
def test_two_cores_are_a_sum_of_kronecker_products(shape):
    q = Kronecker(*shape, terms=3).double()
    modes = list(zip(*zip(*q.sizes.values(), strict=True), strict=True))
    p = TensorTrain(*shape, rank=3, modes=modes).double()
    with torch.no_grad():
        p.core_1.copy_(q.lokr_w1.permute(1, 2, 0)[None])
        p.core_2.copy_(q.lokr_w2[..., None])
    agree(p.weight().detach(), q.weight().detach(), 1e-12)
    target = torch.randn(shape).double()
    for each in (p, q):
        each.project_(target)
    agree(p.weight().detach(), q.weight().detach(), 1e-9, "the best fit")


@pytest.mark.parametrize(("shape", "cores"), [((16, 16), 4), ((24, 8), 3), ((12, 30), 3)])
def test_it_projects_at_least_as_well_as_decompositions_one_after_the_other(shape, cores):
    """No better than its best unfolding, and no worse than TT-SVD's error: Oseledets, 2011."""
    p, target = TensorTrain(*shape, rank=3, cores=cores).double(), torch.randn(shape).double()
    p.project_(target)
    error = (p.weight() - target).square().sum().item()
    sizes = [*p.rows, *p.columns]
    order = [axis for k in range(cores) for axis in (k, cores + k)]
    t = target.numpy().reshape(sizes).transpose(order)
    tails = []
    for k in range(1, cores):
        unfolding = t.reshape(math.prod(p.rows[:k]) * math.prod(p.columns[:k]), -1)
        tails.append((np.linalg.svd(unfolding, compute_uv=False)[p.ranks[k] :] ** 2).sum())
    assert max(tails) - 1e-9 <= error <= sum(tails)
    (p.weight() - target).square().sum().backward()
    assert max(core.grad.abs().max() for core in p.cores) < 1e-4 * target.square().sum()


def test_at_its_largest_rank_it_is_every_matrix():
    for shape, cores in (((12, 12), 3), ((8, 6), 2), ((13, 7), 3)):
        target = torch.randn(shape).double()
        most = max(TensorTrain(*shape, rank=1, cores=cores).largest)
        p = TensorTrain(*shape, rank=most, cores=cores).double()
        p.project_(target)
        agree(p.weight().detach(), target, 1e-9)


@pytest.mark.parametrize("shape", [(128, 128), (384, 128), (512, 128), (128, 512), (768, 768)])
@pytest.mark.parametrize("cores", [2, 3, 4])
@pytest.mark.parametrize("budget", [{"ratio": 0.1}, {"lora_rank": 8}, {"coefficients": 4000}])
def test_a_budget_buys_the_largest_ranks_that_fit(shape, cores, budget):
    m, n = shape
    p = TensorTrain(*shape, cores=cores, **budget)
    k = budget.get("ratio", 0) * m * n or budget.get("lora_rank", 0) * (m + n) or 4000
    sizes, ranks = [a * b for a, b in zip(p.rows, p.columns, strict=True)], p.ranks
    more = [ranks[i - 1] * sizes[i - 1] + sizes[i] * ranks[i + 1] for i in range(1, cores)]
    assert k - max(more) < p.num_trainable <= k + 1e-9
    assert TensorTrain(*shape, cores=cores, rank=max(ranks) + 1).num_trainable > k


def test_cores_of_about_one_size():
    p = TensorTrain(768, 768, lora_rank=8)
    assert (p.rows, p.columns, p.ranks) == ((8, 8, 12), (12, 8, 8), [1, 12, 12, 1])
    assert p.num_trainable == 12 * 96 + 12 * 64 * 12 + 12 * 96 == 11520


@pytest.mark.parametrize("arguments", [{"rank": 3}, {"rank": 2, "cores": 4}])
@pytest.mark.parametrize("std", [0.02, 0.0])
def test_a_step_is_as_large_as_a_dense_one(arguments, std):
    """Of coefficients that move by +-lr_mult, W moves by 1 a weight: root mean square, 20 draws."""
    moved = []
    for _ in range(20):
        p = TensorTrain(96, 64, **arguments).double()
        p.reset_parameters(std)
        w = p.weight().detach()
        with torch.no_grad():
            for q in p.parameters():
                q.add_(torch.randn_like(q).sign(), alpha=1e-7 * p.lr_mult)
            moved.append(((p.weight() - w) / 1e-7).square().mean())
    assert torch.stack(moved).mean().sqrt().item() == pytest.approx(1, rel=0.15)


@BOTH_WAYS
@pytest.mark.parametrize("shape", [(96, 64), (24, 60)])
@pytest.mark.parametrize("cores", [2, 4])
def test_cost_is_what_torch_counts(shape, cores, up_to, monkeypatch):
    monkeypatch.setitem(two_paths.PRODUCTS_UP_TO, "cpu", up_to)
    p, base = TensorTrain(*shape, rank=3, cores=cores), torch.randn(shape)
    for rows, update in itertools.product((1, 7), (False, True)):
        x = torch.randn(rows, shape[1]).requires_grad_().clone()
        run = partial(p.forward_update, x, base) if update else partial(p.forward, x)
        assert counted(run, [x, *p.parameters()]) == p.cost(rows, update)[:2]


def test_the_cheaper_way_is_chosen():
    """Rank 2 needs no W, rank 12 builds it."""
    low, high = TensorTrain(768, 768, rank=2), TensorTrain(768, 768, lora_rank=8)
    products = 64 * (2 * 96 + 2 * 64 * 2 + 2 * 96)
    assert low.cost(4096).forward == 4096 * products and low.cost(1, True).read == 768**2 + 640
    built = 96 * 64 * 12 * 12 + 768**2 * 12
    assert high.cost(4096).forward == 4096 * 768**2 + built and high.cost(1).read == 768**2


@pytest.mark.parametrize(
    ("shape", "arguments", "words"),
    [
        ((8, 6), {}, "exactly one of rank and ratio, got neither"),
        ((8, 6), {"rank": 1, "ratio": 0.5}, "exactly one of rank and ratio"),
        ((13, 7), {"ratio": 0.1}, r"rank 1 needs 21 coefficients, a ratio of 0.231"),
        ((8, 6), {"rank": 9}, r"rank must lie in \[1, 6\] for shape \(8, 6\), got 9"),
        (
            (1, 12),
            {"ratio": 0.3},
            r"buys no rank for shape \(1, 12\): rank 1 needs 7 coefficients, a ratio of 0.584",
        ),
        ((8, 6), {"rank": 1, "cores": 1}, "cores must be at least 2, got 1"),
        ((8, 6), {"rank": 1, "modes": [[2, 2], [2, 3]]}, "8 rows are 2 x 4, .* got 2 x 2"),
        ((8, 6), {"rank": 1, "modes": [[8, 2], [1, 2]]}, "6 columns are 2 x 3, .* got 2 x 2"),
        ((8, 6), {"rank": 1, "modes": [[8, 6]]}, "two pairs m_k, n_k or more"),
        ((8, 6), {"rank": 1, "modes": [[8], [6]]}, "two pairs m_k, n_k or more"),
    ],
)
def test_a_bad_argument_names_what_would_work(shape, arguments, words):
    with pytest.raises(ValueError, match=words):
        TensorTrain(*shape, **arguments)
