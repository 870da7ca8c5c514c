"""Rank and spectral energy against exact decompositions and known values."""

import pytest
import torch

from zoo.spectrum import dct_energy, energy_share, rotation_null, spectral_energy, stable_rank
from zoo.transforms import Sides, unrotate


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
    plane[0, 0], plane[7, 7] = 3.0, 1.0  # 90 % and 10 % of the energy, first and last in zigzag order
    assert spectral_energy(plane) == {"k90": 1 / 64, "k90_zigzag": 1 / 64, "low_frequency": pytest.approx(0.9)}
    assert spectral_energy(plane.flip(0, 1))["k90_zigzag"] == 1.0


def test_k90_of_a_gaussian_matrix():
    """0.444 of the coefficients, whatever the basis: the known value of a chi-squared sorted by size."""
    assert dct_energy(torch.randn(768, 768))["k90"] == pytest.approx(0.444, abs=3e-3)


def test_low_frequency_structure_shows_against_its_null_and_a_rotation_does_not():
    m, n = 48, 64
    from zoo.bases import dct_matrix

    plane = torch.zeros(m, n, dtype=torch.float64)
    plane[:8, :8] = torch.randn(8, 8, dtype=torch.float64)
    planted = unrotate(plane, Sides(dct_matrix(m), dct_matrix(n)))
    assert dct_energy(planted)["k90"] < 0.1 * rotation_null(planted)["k90"]
    q, _ = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    rotated = q @ planted @ p
    assert dct_energy(rotated)["k90"] == pytest.approx(rotation_null(rotated, draws=5)["k90"], rel=0.1)


def test_rotation_null_has_the_singular_values_of_w():
    """The null of a matrix is that of any rotation of it: it depends on the singular values alone."""
    w = torch.randn(24, 4) @ torch.randn(4, 32)
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    diagonal = torch.zeros(24, 32)
    diagonal[:24, :24] = s.diag()
    a, b = rotation_null(w, draws=20), rotation_null(diagonal, draws=20)
    assert a["k90"] == pytest.approx(b["k90"], rel=0.05)
