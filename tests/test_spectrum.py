"""Rank and spectral energy against exact decompositions and known values."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import entropy, norm

from zoo.bases.basis import Sides, rotate, unrotate
from zoo.bases.cosine import dct_matrix
from zoo.spectrum import (
    GAUSSIAN,
    SHARES,
    InOrder,
    LargestFirst,
    Running,
    dct_energy,
    effective_rank,
    energy_share,
    numerical_rank,
    random_sides,
    ranks,
    rotation_null,
    spectral_energy,
    stable_rank,
)


def exact(w):
    s = torch.linalg.svdvals(w.double())
    return (s.square().sum() / s[0] ** 2).item()


@pytest.mark.parametrize("shape", [(16, 16), (64, 24), (24, 64), (512, 128), (1, 9), (9, 1)])
def test_stable_rank_equals_singular_values(shape):
    w = torch.randn(shape)
    assert stable_rank(w).item() == pytest.approx(exact(w), rel=5e-3)


@pytest.mark.parametrize("rank", [1, 3])
def test_stable_rank_of_equal_singular_values_is_the_rank(rank):
    q, _ = torch.linalg.qr(torch.randn(20, rank, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(15, rank, dtype=torch.float64))
    assert stable_rank(q @ p.T).item() == pytest.approx(rank, rel=1e-6)


def test_stable_rank_of_a_batch_and_of_zero():
    w = torch.randn(3, 8, 5)
    w[1] = 0
    ranks = stable_rank(w)
    assert ranks.tolist() == pytest.approx([exact(w[0]), 0.0, exact(w[2])], rel=5e-3)


def test_stable_rank_does_not_see_scale_or_dtype():
    w = torch.randn(32, 16)
    assert stable_rank(1e-4 * w).item() == pytest.approx(stable_rank(w).item(), rel=1e-4)
    assert stable_rank(w.bfloat16()).dtype == torch.float32


def test_energy_share():
    assert energy_share(torch.tensor([9.0, 1.0, 0.0, 0.0])) == 0.25
    assert energy_share(torch.tensor([8.0, 2.0, 0.0, 0.0])) == 0.5
    assert energy_share(torch.zeros(4)) == 0.0


def test_spectral_energy_of_a_known_plane():
    plane = torch.zeros(8, 8)
    # 90 % and 10 % of the energy, first and last in zigzag order.
    plane[0, 0], plane[7, 7] = (3.0, 1.0)
    found = spectral_energy(plane)
    assert {key: found[key] for key in ("k50", "k90", "k99")} == {
        "k50": 1 / 64,
        "k90": 1 / 64,
        "k99": 2 / 64,
    }
    assert {key: found[f"{key}_frequency"] for key in ("k50", "k90", "k99")} == {
        "k50": 1 / 64,
        "k90": 1 / 64,
        "k99": 1,
    }
    assert [found[f"low_{part}"] for part in (10, 25, 50)] == pytest.approx([0.9] * 3)
    backwards = spectral_energy(plane.flip(0, 1))
    assert (backwards["k90_frequency"], backwards["k90"]) == (1.0, 1 / 64)
    assert backwards["low_50"] == pytest.approx(0.1)


def test_spectral_energy_in_a_given_order():
    plane = torch.arange(1.0, 5.0).view(2, 2)  # energies 1, 4, 9, 16 of 30
    found = spectral_energy(plane, torch.tensor([3, 2, 1, 0]))
    assert (found["low_50"], found["k50_frequency"], found["k90_frequency"]) == (
        pytest.approx(25 / 30),
        0.25,
        0.75,
    )
    assert (found["low_25"], found["low_10"]) == (pytest.approx(16 / 30), 0.0)


def test_spectral_energy_of_zero_is_zero():
    assert set(spectral_energy(torch.zeros(4, 6)).values()) == {0.0}


@pytest.mark.parametrize(
    "energy",
    [
        torch.randn(1000).square(),
        torch.randn(1000).mul(20).exp(),
        torch.randn(100).square().repeat(7),  # ties
        torch.cat([torch.zeros(50), torch.rand(50)]),
        torch.full((64,), 0.3),
        torch.tensor([2.0]),
        torch.randn(300).square() * 1e-36,  # the smallest are subnormal
    ],
)
def test_largest_first_equals_sorting(energy):
    before = energy.clone()
    found, exact = LargestFirst(energy), Running(energy.sort(descending=True).values)
    shares = [0.01, 0.3, 0.5, 0.9, 0.99]
    assert [found.count(share) for share in shares] == [exact.count(share) for share in shares]
    counts = np.arange(1, len(energy) + 1)
    assert found.total == pytest.approx(exact.total, rel=1e-12)
    np.testing.assert_allclose(found.held(counts), exact.held(counts), atol=5e-4 * exact.total)
    assert torch.equal(energy, before)


@pytest.mark.parametrize("size", [1, 7, 99, 100, 250, 1234])
def test_in_order_equals_putting_in_order(size):
    energy = torch.randn(size).square()
    order = torch.randperm(size)
    found, exact = InOrder(energy, order), Running(energy[order])
    shares = [0.001, 0.25, 0.5, 0.9, 0.999]
    assert [found.count(share) for share in shares] == [exact.count(share) for share in shares]
    counts = np.arange(1, size + 1)
    np.testing.assert_allclose(found.held(counts), exact.held(counts), rtol=1e-12)
    assert InOrder(torch.zeros(size), order).count(0.5) == 0


@pytest.mark.parametrize("number", [math.nan, -math.nan, math.inf])
def test_energies_that_are_not_finite_stop_nothing(number):
    plane = torch.randn(4, 6)
    plane[1, 2] = number
    assert set(spectral_energy(plane)) == set(spectral_energy(torch.zeros(4, 6)))


@pytest.mark.parametrize(("rank", "k90"), [(768, 0.444), (8, 0.41), (1, 0.26)])
def test_k90_of_random_matrices(rank, k90):
    """A Gaussian matrix, whatever the basis: a chi-squared sorted by size; and products of Gaussian
    factors.
    """
    w = torch.randn(768, 768) if rank == 768 else torch.randn(768, rank) @ torch.randn(rank, 768)
    assert dct_energy(w)["k90"] == pytest.approx(k90, abs=3e-3 if rank == 768 else 1e-2)


def test_the_gaussian_constants_are_those_of_the_normal_distribution():
    """Share of |x| > t, with t such that these hold a given part of E[x^2]."""
    for name, share in zip(("k50", "k90", "k99"), SHARES, strict=True):
        t = brentq(lambda t, share=share: 2 * (t * norm.pdf(t) + norm.sf(t)) - share, 0, 5)
        assert GAUSSIAN[name] == pytest.approx(2 * norm.sf(t), abs=1e-4)


def test_low_frequency_structure_shows_against_its_null_and_a_rotation_does_not():
    m, n = 48, 64
    plane = torch.zeros(m, n, dtype=torch.float64)
    plane[:8, :8] = torch.randn(8, 8, dtype=torch.float64)
    planted = unrotate(plane, Sides(dct_matrix(m), dct_matrix(n)))
    assert dct_energy(planted)["k90"] < 0.1 * rotation_null(planted)["k90"]
    q, _ = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    rotated = q @ planted @ p
    assert dct_energy(rotated)["k90"] == pytest.approx(
        rotation_null(rotated, draws=5)["k90"], rel=0.1
    )


def test_random_sides_are_rotations_and_depend_on_length_draw_and_seed_alone():
    like = torch.zeros(1, dtype=torch.float64)
    left, right = random_sides(6, 5, 0, 0, like)
    assert torch.allclose(left @ left.mT, torch.eye(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(right @ right.mT, torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.equal(left, random_sides(6, 9, 0, 0, like).left)
    assert torch.equal(right, random_sides(3, 5, 0, 0, like).right)
    square = random_sides(6, 6, 0, 0, like)
    assert not torch.allclose(square.left, square.right)
    for other in (random_sides(6, 5, 1, 0, like), random_sides(6, 5, 0, 1, like)):
        assert not torch.allclose(left, other.left) and not torch.allclose(right, other.right)


def test_rotation_null_has_the_singular_values_of_w():
    """The null of a matrix is that of any rotation of it: the singular values alone decide."""
    w = torch.randn(24, 4) @ torch.randn(4, 32)
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    diagonal = torch.zeros(24, 32)
    diagonal[:24, :24] = s.diag()
    a, b = rotation_null(w, draws=20), rotation_null(diagonal, draws=20)
    assert a["k90"] == pytest.approx(b["k90"], rel=0.05)


def test_rotation_null_is_a_mean_over_draws():
    w = torch.randn(12, 3) @ torch.randn(3, 10)
    each = [spectral_energy(rotate(w, random_sides(12, 10, draw, 5, w))) for draw in range(4)]
    expected = {key: np.mean([one[key] for one in each]) for key in each[0]}
    assert rotation_null(w, draws=4, seed=5) == pytest.approx(expected, abs=1 / 120)
    assert rotation_null(w, draws=1, seed=5) == pytest.approx(each[0], abs=1 / 120)


def test_effective_rank_is_the_exponential_of_the_entropy():
    assert effective_rank(torch.ones(5)) == pytest.approx(5)
    assert effective_rank(torch.tensor([3.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(
        math.exp(entropy([2 / 3, 1 / 3]))
    )
    assert effective_rank(torch.zeros(3)) == 0.0


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_numerical_rank_is_numpys(rank):
    w = torch.randn(30, rank) @ torch.randn(rank, 20)
    assert (
        numerical_rank(torch.linalg.svdvals(w), (30, 20))
        == np.linalg.matrix_rank(w.numpy())
        == rank
    )
    assert numerical_rank(torch.zeros(4), (4, 4)) == 0
    eps = torch.finfo(torch.float32).eps
    assert (
        numerical_rank(
            torch.tensor([0.9 * 30 * eps, 1.0, 1.1 * 30 * eps], dtype=torch.float64), (20, 30)
        )
        == 2
    )


def test_ranks_agree_with_power_iteration():
    w = torch.randn(30, 20)
    found = ranks(torch.linalg.svdvals(w), (30, 20))
    assert found["stable_rank"] == pytest.approx(stable_rank(w).item(), rel=5e-3)
    assert found["numerical_rank"] == 20
    assert found["stable_rank"] < found["effective_rank"] < 20
