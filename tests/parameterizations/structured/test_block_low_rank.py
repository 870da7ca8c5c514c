"""BlockLowRank is Monarch, BTT of two cores and GraLoRA, each as its paper or peft has it."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.parameterizations import BlockLowRank, LoRA
from zoo.testing import ParameterizationTestCase, agree


class TestBlockLowRank(ParameterizationTestCase):
    parameterization = BlockLowRank
    arguments: ClassVar = {"rank": 1}


class TestBlockLowRankOfNormalizedCores(ParameterizationTestCase):
    parameterization = BlockLowRank
    arguments: ClassVar = {"rank": 1, "blocks": "sqrt", "permute": "random", "normalize": True}


def numpy_of(p):
    """A and B of float64, with an axis for each index: (J, q, I, r) and (I, J, r, p)."""
    a, b = p.gralora_A.detach().numpy(), p.gralora_B.detach().numpy()
    (down, across), (height, width) = p.grid, p.block
    return a.reshape(across, width, down, p.rank), b.reshape(down, across, p.rank, height)


def test_monarch_is_two_block_diagonal_matrices_and_a_permutation():
    """W = P L P^T R, P the transposition of a vector that is laid out as b x b."""
    side = 4
    p = BlockLowRank(16, 16, blocks="sqrt", rank=1, permute="strided").double()
    a, b = numpy_of(p)
    left, right = np.zeros((16, 16)), np.zeros((16, 16))
    for i in range(side):
        at = slice(side * i, side * (i + 1))
        right[at, at] = a[i, :, :, 0].T
        left[at, at] = b[i, :, 0, :].T
    transpose = np.eye(16)[np.arange(16).reshape(side, side).T.flatten()]
    dense = transpose @ left @ transpose.T @ right
    assert np.linalg.matrix_rank(dense) == 16
    agree(p.weight().detach(), torch.from_numpy(dense), 1e-12)
    assert p.num_trainable == 2 * 16 * side


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)])
def test_btt_is_the_sum_over_two_cores(shape):
    """W[(a, b), (c, d)] = sum_s R_c[d, (a, s)] L_a[(c, s), b]."""
    p = BlockLowRank(*shape, blocks="sqrt", rank=2).double()
    first, second = numpy_of(p)
    dense = np.einsum("cdas,acsb->abcd", first, second).reshape(shape)
    agree(p.weight().detach(), torch.from_numpy(dense), 1e-12)
    (down, across), (height, width) = p.grid, p.block
    assert down <= height and width <= across and (down * height, across * width) == shape
    assert p.num_trainable == 2 * (down * shape[1] + across * shape[0])


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_normalized_cores_are_btts(size):
    """A core of small root-mean-square is left as it is, a large one is brought to its limit."""
    p = BlockLowRank(24, 40, blocks="sqrt", rank=3, normalize=True).double()
    cores, means = [], []
    with torch.no_grad():
        for core in (p.gralora_A, p.gralora_B):
            core.mul_(size)
        p.gain.copy_(torch.tensor([1.5, 0.7], dtype=torch.float64))
    (down, across), (height, width), r = p.grid, p.block, 3
    for core, gain, inputs, outputs in zip(
        numpy_of(p), (1.5, 0.7), (width, across * r), (down * r, height), strict=True
    ):
        rms = math.sqrt(np.mean(core**2))
        limit = math.sqrt(1 / inputs) * min(1, math.sqrt(outputs / inputs))
        cores.append(gain * core / max(1, rms / limit))
        means.append(rms / limit)
    assert all(mean > 1 for mean in means) == (size > 1)
    dense = np.einsum("cdas,acsb->abcd", *cores).reshape(24, 40)
    agree(p.weight().detach(), torch.from_numpy(dense), 1e-12)


def test_normalized_cores_begin_as_btts_and_gains_make_the_weight():
    p = BlockLowRank(192, 256, blocks="sqrt", rank=2, normalize=True).double()
    p.reset_parameters(0.0)
    assert p.gain.tolist() == [1.0, 1.0] and not p.gralora_B.any()
    energies = []
    for _ in range(20):
        p.reset_parameters(0.05)
        energies.append(p.weight().square().mean().item())
    assert math.sqrt(np.mean(energies)) == pytest.approx(0.05, rel=0.01)
    rms = p.gralora_A.square().mean().sqrt().item(), p.gralora_B.square().mean().sqrt().item()
    # A: d_in = 16, d_out = 24; B: d_in = 32, d_out = 16.
    assert rms == pytest.approx((1 / 4, 1 / 8), rel=0.05)


@pytest.mark.parametrize("normalize", [False, True])
def test_weight_and_steps_have_their_sizes_at_any_rank(normalize):
    """E[W_ij^2] = std^2; a step of +-lr_mult in all moves W as a dense one does, of each core by
    half as much in square.
    """
    p = BlockLowRank(96, 192, blocks=(2, 6), rank=5, normalize=normalize).double()
    energies, moved = [], {"gralora_A": [], "gralora_B": []}
    for _ in range(10):
        p.reset_parameters(0.05)
        w = p.weight().detach()
        energies.append(w.square().mean().item())
        for name, squares in moved.items():
            core = getattr(p, name)
            with torch.no_grad():
                core.mul_(0.99)  # its norm is no matter here
                w = p.weight()
                step = 1e-6 * torch.randn_like(core).sign()
                core.add_(step)
                squares.append(((p.weight() - w) / 1e-6).square().mean().item())
                core.sub_(step)
    assert math.sqrt(np.mean(energies)) == pytest.approx(0.05, rel=0.02)
    for name, squares in moved.items():
        assert p.lr_mults()[name] ** 2 * np.mean(squares) == pytest.approx(0.5, rel=0.1)


def test_a_weight_that_grows_is_held_by_its_norm():
    """Ten times as large cores make the same W, normalized, and a hundredfold one without."""
    w = {}
    for normalize in (False, True):
        p = BlockLowRank(24, 24, rank=2, normalize=normalize).double()
        with torch.no_grad():
            for core in (p.gralora_A, p.gralora_B):
                core.mul_(2)
            before = p.weight().norm().item()
            for core in (p.gralora_A, p.gralora_B):
                core.mul_(10)
            w[normalize] = p.weight().norm().item() / before
    assert w == {False: pytest.approx(100), True: pytest.approx(1)}


@pytest.mark.parametrize("hybrid", [0, 3])
@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_gralora_is_pefts(shape, hybrid):
    """The same numbers make the same dW and as many; its hybrid rank is LoRA's besides."""
    peft = pytest.importorskip("peft")
    k, rank, (m, n) = 4, 8, shape
    config = peft.GraloraConfig(
        r=rank, gralora_k=k, hybrid_r=hybrid, alpha=5, target_modules=["0"], init_weights=False
    )
    model = peft.get_peft_model(nn.Sequential(nn.Linear(n, m, bias=False)).double(), config)
    layer = model.base_model.model[0]
    p = BlockLowRank(m, n, blocks=k, rank=rank // k).double()
    low = LoRA(m, n, rank=hybrid or 1).double()
    with torch.no_grad():
        p.gralora_A.copy_(layer.gralora_A["default"])
        p.gralora_B.copy_(layer.gralora_B["default"])
        if hybrid:
            low.lora_A.copy_(layer.gralora_A_general["default"].weight)
            low.lora_B.copy_(layer.gralora_B_general["default"].weight)
    w = p.weight() + low.weight() if hybrid else p.weight()
    scale = 5 / (rank + hybrid)
    agree(scale * w, layer.get_delta_weight("default"), 1e-6)
    count = sum(q.numel() for q in model.parameters() if q.requires_grad)
    assert p.num_trainable + (low.num_trainable if hybrid else 0) == count
    assert BlockLowRank(m, n, blocks=k, lora_rank=rank).num_trainable == p.num_trainable
    x = torch.randn(5, n).double()
    y = p.forward_update(x, layer.base_layer.weight, None, scale)
    agree(y + (scale * low(x) if hybrid else 0), layer(x), 1e-6)


@pytest.mark.parametrize("permute", ["none", "strided", "random"])
def test_a_permutation_says_which_rows_and_columns_make_a_block(permute):
    p = BlockLowRank(12, 8, blocks=(3, 2), rank=1, permute=permute, seed=3).double()
    q = BlockLowRank(12, 8, blocks=(3, 2), rank=1).double()
    q.load_state_dict(p.state_dict())
    rows, columns = {
        "none": (torch.arange(12), torch.arange(8)),
        "strided": (torch.arange(12).view(4, 3).T.flatten(), torch.arange(8)),
        "random": (p.rows[1], p.columns[1]) if permute == "random" else (),
    }[permute]
    w = p.weight()[rows][:, columns]
    agree(w, q.weight(), 0.0)
    ranks = torch.linalg.matrix_rank(w.unflatten(1, (2, 4)).unflatten(0, (3, 4)).transpose(1, 2))
    assert ranks.tolist() == [[1, 1]] * 3
    if permute == "random":
        assert not torch.equal(p.rows, p.for_layer("a").rows)


@pytest.mark.parametrize("permute", ["none", "strided", "random"])
@pytest.mark.parametrize("normalize", [False, True])
def test_projects_each_block_onto_its_best_rank_r_matrix(permute, normalize):
    settings = {"blocks": (3, 2), "permute": permute, "normalize": normalize}
    p = BlockLowRank(12, 10, rank=2, **settings).double()
    target = torch.randn(12, 10).double()
    p.project_(target)
    order = p.rows[1] if permute == "random" else torch.arange(12)
    order = order.view(4, 3).T.flatten() if permute == "strided" else order
    columns = p.columns[1] if permute == "random" else torch.arange(10)
    blocks = target[order][:, columns].numpy().reshape(3, 4, 2, 5).transpose(0, 2, 1, 3)
    tail = np.linalg.svd(blocks, compute_uv=False)[..., 2:]
    error = (p.weight() - target).norm().item()
    assert error == pytest.approx(math.sqrt((tail**2).sum()), rel=1e-9)
    p.project_(torch.zeros(12, 10))
    assert not p.weight().any()


@pytest.mark.parametrize("shape", [(128, 128), (384, 128), (96, 40), (65, 128), (7, 13)])
@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"ratio": 0.1}, {"lora_rank": 2}])
def test_a_budget_is_missed_by_less_than_a_rank(shape, budget):
    (m, n) = shape
    size = budget["ratio"] * m * n if "ratio" in budget else budget["lora_rank"] * (m + n)
    if size < m + n:
        with pytest.raises(ValueError, match="buys no rank"):
            BlockLowRank(m, n, **budget)
        return
    p = BlockLowRank(m, n, **budget)
    unit = p.grid[0] * n + p.grid[1] * m
    assert p.num_trainable == p.rank * unit <= size
    assert p.rank == min(p.block) or size - p.num_trainable < unit


def test_the_default_grid_fits_every_shape_and_budget():
    grids = {
        "large": BlockLowRank(768, 768, lora_rank=8).grid,
        "small": BlockLowRank(768, 768, lora_rank=7).grid,
        "least": BlockLowRank(768, 768, lora_rank=1).grid,
        "a rank": BlockLowRank(768, 768, rank=1).grid,
        "other divisors": BlockLowRank(9, 10, rank=1).grid,
        "primes": BlockLowRank(13, 7, rank=1).grid,
        "a row": BlockLowRank(1, 12, rank=1).grid,
        "roots": BlockLowRank(768, 768, blocks="sqrt", rank=1).grid,
    }
    assert grids == {
        "large": (4, 4),
        "small": (2, 2),
        "least": (1, 1),
        "a rank": (4, 4),
        "other divisors": (3, 2),
        "primes": (1, 1),
        "a row": (1, 4),
        "roots": (24, 32),
    }


@pytest.mark.parametrize("rows", [1, 5, 400])
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_cheaper_path_is_taken_at_its_cost(rows, update, rank):
    """Rank 4 of 4 x 4 blocks has more numbers than W; rank 2, more than a third of them."""
    p = BlockLowRank(16, 16, rank=rank)
    x, base = torch.randn(rows, 16, requires_grad=True), torch.randn(16, 16)
    with FlopCounterMode(display=False) as forward:
        y = p.forward_update(x, base) if update else p(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    cost = p.cost(rows, update)
    counted = forward.get_total_flops() // 2, backward.get_total_flops() // 2
    assert (cost.forward, cost.backward) == counted
    k, mn = 128 * rank, 256
    without = rows * (3 * k + (2 * mn if update else 0))
    assert cost.training == min(without, 3 * (rows * mn + rank * mn))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give exactly one of rank and ratio"),
        ({"rank": 1, "ratio": 0.5}, "got 1 and 0.5"),
        ({"rank": 3}, r"rank must lie in \[1, 2\] for shape \(8, 6\), got 3"),
        ({"rank": 1, "blocks": 4}, r"shape \(8, 6\): 6 columns into 3 or 6, got 4"),
        ({"rank": 1, "blocks": (3, 2)}, r"shape \(8, 6\): 8 rows into 2 or 4, got 3"),
        ({"rank": 1, "blocks": 9}, r"8 rows into 8, got 9"),
        ({"rank": 1, "blocks": 0}, "each at least 1, got 0"),
        ({"rank": 1, "blocks": (2, 2, 2)}, "one number or two"),
        ({"rank": 1, "blocks": "root"}, "or sqrt, got 'root'"),
        ({"rank": 1, "permute": "all"}, "none, strided or random, got 'all'"),
        (
            {"ratio": 0.5, "blocks": (8, 6)},
            "rank 1 needs 96 coefficients, more than its 48 weights: leave the layer out",
        ),
        ({"ratio": 0.1}, "ratio 0.1 buys no rank.*needs 14 coefficients, a ratio of 0.292"),
        ({"coefficients": 13}, "coefficients 13 buys no rank.*needs 14"),
        ({"coefficients": 15, "normalize": True}, "needs 16"),
        ({"lora_rank": 5}, r"lora_rank must lie in \[1, 3\]"),
    ],
)
def test_a_bad_argument_names_what_would_work(arguments, words):
    with pytest.raises(ValueError, match=words):
        BlockLowRank(8, 6, **arguments)
