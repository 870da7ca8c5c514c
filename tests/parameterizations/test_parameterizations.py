"""Every exported parameterization passes the conformance suite, and equals an independent
reference.
"""

import math
from typing import ClassVar

import numpy as np
import pytest
import pywt
import scipy.fft
import scipy.linalg
import torch

from zoo.bases import block_products, cosine
from zoo.bases.basis import SomeSides
from zoo.parameterizations import (
    DCT,
    BlockDCT,
    Dense,
    Haar,
    Hadamard,
    Hartley,
    LoRA,
    RandLoRA,
    RandomOrthonormal,
    RowDCT,
    SeparableSubspace,
    Sparse,
    Zigzag,
)
from zoo.testing import (
    OrthonormalTestCase,
    ParameterizationTestCase,
    SeparableTestCase,
    agree,
)


class TestDense(ParameterizationTestCase):
    parameterization = Dense
    std_tolerance = 0.02


class TestDCT(SeparableTestCase):
    parameterization = DCT
    arguments: ClassVar = {"ratio": 0.5}
    std_tolerance = 0.02


class TestDCTLowpass(SeparableTestCase):
    parameterization = DCT
    arguments: ClassVar = {"coefficients": 5, "selection": "lowpass"}
    std_tolerance = 0.3  # five coefficients vary


class TestDCTByFFT(TestDCT):
    """The same with the FFT from the smallest size on."""

    @pytest.fixture(autouse=True)
    def _fft_always(self, monkeypatch):
        monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)


class TestRandomOrthonormal(SeparableTestCase):
    parameterization = RandomOrthonormal
    arguments: ClassVar = {"ratio": 0.3, "seed": 3}
    std_tolerance = 0.02


class TestRowDCT(SeparableTestCase):
    parameterization = RowDCT
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.02


class TestBlockDCT(OrthonormalTestCase):
    parameterization = BlockDCT
    arguments: ClassVar = {"ratio": 0.5}
    std_tolerance = 0.02


class TestBlockDCTOfSmallBlocks(OrthonormalTestCase):
    parameterization = BlockDCT
    arguments: ClassVar = {"ratio": 0.25, "block": 4, "seed": 2}
    shapes = ((16, 16), (8, 24), (24, 8), (12, 20))
    std_tolerance = 0.03


class TestBlockDCTByProducts(TestBlockDCTOfSmallBlocks):
    """The same without W, which at these sizes is faster to build."""

    @pytest.fixture(autouse=True)
    def _never_built(self, monkeypatch):
        monkeypatch.setattr(block_products, "product_pays", lambda *_: True)


class TestSparse(SeparableTestCase):
    parameterization = Sparse
    arguments: ClassVar = {"ratio": 0.3, "seed": 1}
    std_tolerance = 0.02


class TestZigzag(SeparableTestCase):
    parameterization = Zigzag
    arguments: ClassVar = {"ratio": 0.2}
    std_tolerance = 0.03


class TestZigzagRandom(SeparableTestCase):
    parameterization = Zigzag
    arguments: ClassVar = {"ratio": 0.2, "basis": "random"}
    std_tolerance = 0.03


class TestHadamard(SeparableTestCase):
    parameterization = Hadamard
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.02


class TestHaar(SeparableTestCase):
    parameterization = Haar
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.02


class TestHartley(SeparableTestCase):
    parameterization = Hartley
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.02


class TestLoRA(ParameterizationTestCase):
    parameterization = LoRA
    arguments: ClassVar = {"rank": 1}


class TestLoRARank3(ParameterizationTestCase):
    parameterization = LoRA
    arguments: ClassVar = {"rank": 3}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


class TestRandLoRA(ParameterizationTestCase):
    parameterization = RandLoRA
    arguments: ClassVar = {"num_bases": 3, "rank": 1}


class TestRandLoRAHalf(ParameterizationTestCase):
    parameterization = RandLoRA
    arguments: ClassVar = {"ratio": 0.5, "scaling": "paper"}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("shape", [(16, 16), (12, 31), (7, 1), (97, 120)])
def test_dct_is_scipys(shape, always, monkeypatch):
    if always:
        monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
    p = DCT(*shape, ratio=0.4).double()
    plane = np.zeros(shape)
    plane.reshape(-1)[p.support.numpy()] = p.coef.detach().numpy()
    agree(p.weight().detach(), torch.from_numpy(scipy.fft.idctn(plane, norm="ortho")), 1e-12)


def test_dct_weights_do_not_depend_on_the_path(monkeypatch):
    slow = DCT(24, 36, ratio=0.5, seed=7)
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
    fast = DCT(24, 36, ratio=0.5, seed=7)
    assert isinstance(fast.tables, cosine.CosinePlan) and isinstance(slow.tables, SomeSides)
    fast.load_state_dict(slow.state_dict())
    agree(fast.weight(), slow.weight(), 1e-6)


def test_row_dct_is_scipys_of_each_row_and_sparse_is_its_plane():
    """W = idct(S, axis=1) and W = S, S zero but on the support."""
    for p in (RowDCT(12, 31, ratio=0.2), Sparse(12, 31, ratio=0.2)):
        plane = torch.zeros(12 * 31).index_put_((p.support,), p.coef.detach()).view(12, 31)
        assert (plane != 0).sum() == p.num_trainable == 74
        expected = (
            scipy.fft.idct(plane.numpy(), axis=1, norm="ortho") if isinstance(p, RowDCT) else plane
        )
        agree(p.weight(), torch.as_tensor(expected), 1e-5)


def test_random_orthonormal_is_a_haar_rotation_of_its_plane():
    p = RandomOrthonormal(6, 9, ratio=1.0, seed=5).double()
    left, right = p.left, p.right
    agree(left @ left.T, torch.eye(6, dtype=torch.float64), 1e-12)
    plane = torch.zeros(54, dtype=torch.float64)
    plane[p.support] = p.coef.detach()
    agree(p.weight().detach(), np_einsum(left, plane.view(6, 9), right), 1e-12)


def np_einsum(left, plane, right):
    return torch.from_numpy(np.einsum("ki,kl,lj->ij", left.numpy(), plane.numpy(), right.numpy()))


def test_sides_of_equal_size_are_independent():
    p = RandomOrthonormal(8, 8, ratio=1.0)
    assert (p.left - p.right).abs().max() > 0.1


def test_bases_are_shared_and_positions_are_not():
    p, q = (
        RandomOrthonormal(8, 12, ratio=0.5).for_layer("a"),
        RandomOrthonormal(8, 12, ratio=0.5).for_layer("b"),
    )
    assert p.left.data_ptr() == q.left.data_ptr()
    assert not torch.equal(p.places, q.places)
    assert p.float().left.data_ptr() == q.float().left.data_ptr()


def plane_of(p):
    plane = np.zeros(p.shape)
    plane.reshape(-1)[p.support.numpy()] = p.coef.detach().numpy()
    return plane


def test_hadamard_is_scipys_by_sequency():
    """W = H^T S H with the rows of scipy's matrices sorted by their sign changes."""
    p = Hadamard(16, 64, ratio=0.4).double()
    left, right = (
        h[(h[:, 1:] != h[:, :-1]).sum(1).argsort()] / math.sqrt(len(h))
        for h in map(scipy.linalg.hadamard, p.shape)
    )
    agree(p.weight().detach(), torch.from_numpy(left.T @ plane_of(p) @ right), 1e-12)


def test_haar_is_pywavelets_fully_separable_transform():
    p = Haar(8, 64, ratio=0.4).double()
    plane = torch.from_numpy(pywt.fswavedecn(p.weight().detach().numpy(), "haar").coeffs)
    agree(plane, torch.from_numpy(plane_of(p)), 1e-12)


@pytest.mark.parametrize("shape", [(8, 12), (13, 7), (1, 30)])
def test_hartley_is_numpys_fft_of_each_side(shape):
    """S = Re F - Im F along one side and then the other; rows are k = 0, 1, n - 1, 2, n - 2, ..."""
    p = Hartley(*shape, ratio=0.4).double()
    plane = p.weight().detach().numpy()
    for axis, n in enumerate(shape):
        f = np.fft.fft(plane, axis=axis, norm="ortho")
        order = sorted(range(n), key=lambda k, n=n: (min(k, n - k), k))
        plane = np.take(f.real - f.imag, order, axis=axis)
    agree(torch.from_numpy(plane), torch.from_numpy(plane_of(p)), 1e-12)


def test_a_box_of_low_frequencies_is_smooth_in_every_basis_that_has_some():
    """The lowest sixteenth holds nine tenths of a smooth matrix, of any basis but a random one."""
    i, j = (torch.arange(48)[:, None] + 0.5) / 48, (torch.arange(64) + 0.5) / 64
    smooth = (1 + torch.cos(math.pi * i)) * (1 + torch.cos(math.pi * j))
    held = {}
    for cls in (DCT, Hadamard, Haar, Hartley, RandomOrthonormal):
        p = cls(48, 64, ratio=1 / 16, selection="lowpass")
        p.project_(smooth)
        held[cls] = (p.weight().norm() / smooth.norm()).square().item()
    assert held.pop(RandomOrthonormal) < 0.5 and min(held.values()) > 0.9


def test_zigzag_bounds_the_rank():
    p = Zigzag(16, 16, coefficients=10).double()  # four anti-diagonals
    assert torch.linalg.matrix_rank(p.weight()) == 4


def test_lora_is_the_product_of_its_factors():
    p = LoRA(5, 7, rank=2).double()
    b, a = p.lora_B.detach().numpy(), p.lora_A.detach().numpy()
    agree(p.weight().detach(), torch.from_numpy(np.einsum("ir,rj->ij", b, a)), 1e-12)


def test_lora_projects_onto_the_best_rank_r_matrix():
    target = torch.randn(12, 9, dtype=torch.float64)
    p = LoRA(12, 9, rank=3).double()
    p.project_(target)
    tail = np.linalg.svd(target.numpy(), compute_uv=False)[3:]
    assert (p.weight() - target).norm().item() == pytest.approx(
        math.sqrt((tail**2).sum()), rel=1e-9
    )


def test_lora_of_a_ratio_takes_the_largest_rank_that_fits():
    assert LoRA(384, 128, ratio=0.5).rank == 48
    assert LoRA(128, 128, ratio=0.5).rank == 32


@pytest.mark.parametrize("scaling", ["peft", "paper"])
@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5)])
def test_randlora_is_the_sum_of_the_paper(shape, scaling):
    p = RandLoRA(*shape, num_bases=4, rank=2, scaling=scaling).double()
    large, small = max(shape), min(shape)
    total = np.zeros((large, small))
    for j in range(4):
        b = p.basis_B.numpy()[:, 2 * j : 2 * j + 2]
        l, g = p.randlora_lambda.detach().numpy()[j], p.randlora_gamma.detach().numpy()[j]
        total += b @ np.diag(l) @ p.basis_A.numpy() @ np.diag(g)
    total *= 20.0 if scaling == "peft" else 2.0 / math.sqrt(4)
    agree(p.weight().detach(), torch.from_numpy(total if shape[0] >= shape[1] else total.T), 1e-12)


@pytest.mark.parametrize("shape", [(128, 128), (384, 128), (128, 512)])
@pytest.mark.parametrize("ratio", [0.5, 0.1])
def test_randlora_meets_its_budget_at_full_rank(shape, ratio):
    p = RandLoRA(*shape, ratio=ratio)
    d, budget = min(shape), ratio * shape[0] * shape[1]
    assert budget - (p.rank + d) < p.num_trainable <= budget
    assert p.num_bases * p.rank >= d
    assert p.num_trainable == p.num_bases * (p.rank + d)


@pytest.mark.parametrize(
    ("cls", "arguments", "words"),
    [
        (DCT, {}, "needs a budget"),
        (DCT, {"ratio": 0.5, "coefficients": 3}, "exclude each other"),
        (DCT, {"ratio": 0.0}, r"\(0, 1\], got 0"),
        (DCT, {"ratio": 1.5}, r"\(0, 1\], got 1.5"),
        (DCT, {"coefficients": 49}, r"\[1, 48\] for shape \(8, 6\), got 49"),
        (DCT, {"ratio": 0.5, "selection": "best"}, "random, zigzag or lowpass"),
        (Zigzag, {"ratio": 0.5, "basis": "haar"}, "dct or random"),
        (LoRA, {}, "needs a budget"),
        (LoRA, {"rank": 0}, r"\[1, 6\] for shape \(8, 6\), got 0"),
        (LoRA, {"rank": 7}, r"\[1, 6\] for shape \(8, 6\), got 7"),
        (LoRA, {"ratio": 0.01}, "buys no rank"),
        (RandLoRA, {"rank": 7}, r"\[1, 6\]"),
        (RandLoRA, {"ratio": 0.1}, "buy no basis"),
        (RandLoRA, {"ratio": 0.5, "num_bases": 2}, "exclude each other"),
        (RandLoRA, {"num_bases": 0}, "at least 1"),
        (RandLoRA, {"scaling": "x"}, "peft or paper"),
        (Dense, {"out_features": 0}, "at least one row"),
    ],
)
def test_a_bad_argument_names_its_legal_range(cls, arguments, words):
    shape = {"out_features": 8, "in_features": 6}
    with pytest.raises(ValueError, match=words):
        cls(**{**shape, **arguments})


def test_a_new_basis_is_a_few_lines(monkeypatch):
    class Hadamard(SeparableSubspace):
        def side(self, n, axis):
            h = torch.ones(1, 1, dtype=torch.float64)
            while len(h) < n:
                h = torch.kron(h, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
            return h / math.sqrt(n)

    from scipy.linalg import hadamard

    p = Hadamard(8, 16, ratio=0.25).double()
    plane = np.zeros(128)
    plane[p.support.numpy()] = p.coef.detach().numpy()
    expected = hadamard(8).T @ plane.reshape(8, 16) @ hadamard(16) / math.sqrt(128)
    agree(p.weight().detach(), torch.from_numpy(expected), 1e-12)


def test_no_step_is_larger_than_a_dense_one():
    """|dW|_2 lr_mult <= sqrt(mn) for coefficients that move by +-1, with equality for a step of
    rank one.
    """
    m, n = 40, 24
    for p in (DCT(m, n, ratio=0.2), RandomOrthonormal(m, n, ratio=0.2), Zigzag(m, n, ratio=0.2)):
        for draw in range(5):
            rank_one = torch.outer(torch.randn(m).sign(), torch.randn(n).sign()).flatten()[
                p.support
            ]
            signs = rank_one if draw == 0 else torch.randn(len(p.coef)).sign()
            with torch.no_grad():
                p.coef.copy_(signs)
            bound = (
                torch.linalg.matrix_norm(p.weight().detach().double(), 2).item()
                * p.lr_mult
                / math.sqrt(m * n)
            )
            assert bound == pytest.approx(1, rel=1e-4) if draw == 0 else bound < 0.98


def test_sgd_on_a_full_orthonormal_basis_follows_dense_sgd():
    """c -> W is a rotation, so gradient descent takes the same path: equal losses over 20 steps."""
    x, y = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, 5, dtype=torch.float64)
    start = torch.randn(5, 6, dtype=torch.float64)
    losses = {}
    for cls, arguments in ((Dense, {}), (DCT, {"ratio": 1.0}), (RandomOrthonormal, {"ratio": 1.0})):
        p = cls(5, 6, **arguments).double()
        p.project_(start)
        optimizer = torch.optim.SGD(p.parameters(), lr=0.05, momentum=0.9)
        losses[cls] = []
        for _ in range(20):
            loss = (torch.tanh(p(x)) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[cls].append(loss.item())
    assert losses[DCT] == pytest.approx(losses[Dense], rel=1e-9)
    assert losses[RandomOrthonormal] == pytest.approx(losses[Dense], rel=1e-9)
    assert losses[Dense][-1] < 0.9 * losses[Dense][0]
