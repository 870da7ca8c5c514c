"""BLAST is the paper's matrix of blocks, and projects no worse than the low rank it contains."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo.parameterizations import BLAST
from zoo.testing import ParameterizationTestCase, agree


class TestBLAST(ParameterizationTestCase):
    parameterization = BLAST
    arguments: ClassVar = {"rank": 1}


class TestBLASTRank2(ParameterizationTestCase):
    parameterization = BLAST
    arguments: ClassVar = {"rank": 2}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


@pytest.mark.parametrize("blocks", [1, 2, (4, 3)])
@pytest.mark.parametrize("shape", [(12, 12), (8, 18), (20, 6)])
def test_every_block_is_the_papers(shape, blocks):
    """W_ij = B_i diag(D_ij) C_j, block by block."""
    p = BLAST(*shape, blocks=blocks, rank=5).double()
    b, c, d = (f.detach().numpy() for f in (p.B, p.C, p.D))
    down, across = p.grid
    dense = np.block([[b[i] @ np.diag(d[i, j]) @ c[j] for j in range(across)] for i in range(down)])
    agree(p.weight().detach(), torch.from_numpy(dense), 1e-12)
    assert p.num_trainable == 5 * (sum(shape) + down * across)


def test_it_contains_low_rank_and_block_diagonal_matrices():
    p = BLAST(12, 12, blocks=3, rank=4).double()
    with torch.no_grad():
        p.D.fill_(1.0)
        low = p.weight()
        p.D.mul_(torch.eye(3)[:, :, None])
        diagonal = p.weight()
    assert torch.linalg.matrix_rank(low) == 4
    assert torch.linalg.matrix_rank(diagonal) == 12
    agree(diagonal, torch.block_diag(*(p.B @ p.C).detach()), 1e-12)


def test_projection_is_better_than_low_rank_and_finds_what_it_can_make():
    target = torch.randn(32, 48).double()
    p = BLAST(32, 48, rank=4).double()
    p.project_(target)
    tail = np.linalg.svd(target.numpy(), compute_uv=False)[4:]
    assert (p.weight() - target).norm().item() < 0.97 * math.sqrt((tail**2).sum())
    for axes, factor in (((0, 2), p.C), ((0, 1), p.D)):  # each of the terms is spread evenly
        agree(factor.square().mean(axes), p.B.square().mean((0, 1)), 1e-9)
    p.project_(torch.outer(torch.randn(32).double(), torch.randn(48).double()))
    assert torch.linalg.matrix_rank(p.weight(), rtol=1e-9) == 1
    p.project_(torch.zeros(32, 48))
    assert not p.weight().any()


def test_projection_leaves_coefficients_that_fit():
    p = BLAST(16, 24, rank=6).double()
    before = p.B.detach().clone()
    p.project_(p.weight().detach())
    assert torch.equal(p.B, before)


@pytest.mark.parametrize("rows", [1, 5, 400])
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_cheaper_path_is_taken_at_its_cost(rows, update, rank):
    """Rank 8 has more numbers than W; rank 3, more than a third of them."""
    p = BLAST(16, 16, rank=rank)
    x, base = torch.randn(rows, 16, requires_grad=True), torch.randn(16, 16)
    with FlopCounterMode(display=False) as forward:
        y = p.forward_update(x, base) if update else p(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    cost = p.cost(rows, update)
    counted = forward.get_total_flops() // 2, backward.get_total_flops() // 2
    assert (cost.forward, cost.backward) == counted
    k, mn = 48 * rank, 256
    without = rows * (3 * k + (2 * mn if update else 0))
    assert cost.training == min(without, 3 * (rows * mn + rank * mn))


@pytest.mark.parametrize("shape", [(128, 128), (384, 128), (65, 128), (7, 13)])
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_a_budget_is_missed_by_less_than_a_rank(shape, ratio):
    m, n = shape
    each = m + n + BLAST(m, n, rank=1).D.numel()
    if ratio * m * n < each:
        with pytest.raises(ValueError, match=f"buys no rank.*rank 1 needs {each} coeff"):
            BLAST(m, n, ratio=ratio)
        return
    p = BLAST(m, n, ratio=ratio)
    assert p.num_trainable == p.rank * each <= ratio * m * n < p.num_trainable + each


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give exactly one of rank and ratio"),
        ({"rank": 7}, r"rank must lie in \[1, 6\] for shape \(8, 6\), got 7"),
        ({"rank": 1, "blocks": 4}, r"6 columns into 3 or 6, got 4"),
        ({"rank": 1, "blocks": (1, 0)}, r"each at least 1, got \(1, 0\)"),
        ({"lora_rank": 1}, "lora_rank 1 buys no rank.*needs 26 coefficients"),
        ({"ratio": 0.5, "coefficients": 24}, "exclude each other"),
    ],
)
def test_a_bad_argument_names_what_would_work(arguments, words):
    with pytest.raises(ValueError, match=words):
        BLAST(8, 6, **arguments)
