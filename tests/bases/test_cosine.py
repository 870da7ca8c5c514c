"""The cosine transform is scipy's, by both of its paths; its backward pass is its adjoint."""

import pytest
import scipy.fft
import torch

from zoo.bases import cosine, transform
from zoo.bases.basis import Sides, rotate, unrotate
from zoo.bases.cosine import (
    cosine_plan,
    dct2_packed,
    dct_matrix,
    idct2_packed,
    packed_places,
    packed_shape,
)
from zoo.bases.seeds import generator, haar_matrix, uniform_matrix
from zoo.testing import agree

SHAPES = [(1, 1), (1, 8), (8, 1), (2, 2), (7, 5), (16, 12), (33, 64), (96, 97)]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 37])
def test_dct_matrix_is_scipys(n):
    eye = torch.eye(n, dtype=torch.float64)
    agree(dct_matrix(n), torch.from_numpy(scipy.fft.dct(eye.numpy(), axis=0, norm="ortho")), 1e-12)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_basis_is_scipys(shape, always, monkeypatch):
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0 if always else 10**9)
    w = torch.randn(shape, dtype=torch.float64)
    agree(
        transform("dct").forward(w),
        torch.from_numpy(scipy.fft.dctn(w.numpy(), norm="ortho")),
        1e-12,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("rows_only", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_inverse(shape, blocked, rows_only, dtype, monkeypatch):
    """idct2_packed(dct2_packed(W)) = W for a batch, it is scipy's, and unused slots of the plane
    stay out of it.
    """
    monkeypatch.setitem(cosine.BLOCKED_FROM, "cpu", 0 if blocked else 10**9)
    monkeypatch.setitem(cosine.BLOCK, "cpu", 20)
    w = torch.randn(3, *shape, dtype=dtype)
    expected = torch.from_numpy(
        scipy.fft.dctn(w.numpy(), axes=(2,) if rows_only else (1, 2), norm="ortho")
    )
    plan = cosine_plan(*shape, w.device, dtype, rows_only)
    plane = dct2_packed(w.clone(), plan)
    assert plane.shape[1:] == packed_shape(*shape, rows_only)
    places = packed_places(*shape, rows_only)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    agree(plane.flatten(1)[:, places], expected, tolerance)
    only = torch.zeros_like(plane).flatten(1)
    only[:, places] = expected
    agree(idct2_packed(only.view_as(plane), shape, plan), w, tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows_only", [False, True])
def test_packed_places_are_distinct(shape, rows_only):
    places = packed_places(*shape, rows_only).flatten()
    assert len(places.unique()) == len(places) == shape[0] * shape[1]
    assert places.max() < torch.Size(packed_shape(*shape, rows_only)).numel()


def test_unrotate_is_the_adjoint_of_rotate():
    """<rotate(W), S> = <W, unrotate(S)>, for any two matrices."""
    left, right = torch.randn(5, 5, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    w, s = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    agree(
        (rotate(w, Sides(left, right)) * s).sum(),
        (w * unrotate(s, Sides(left, right))).sum(),
        1e-12,
    )


def test_haar_matrix_is_orthogonal_and_unbiased():
    """Q Q^T = 1; and, as QR without the sign fix would not give, the mean diagonal is 0."""
    agree(haar_matrix(12, 0) @ haar_matrix(12, 0).T, torch.eye(12, dtype=torch.float64), 1e-12)
    means = torch.stack([haar_matrix(4, seed).diagonal() for seed in range(600)]).mean(0)
    assert means.abs().max() < 0.1  # standard error 0.5 / sqrt(600) = 0.02


def test_seeds_and_labels_make_streams_of_their_own():
    draws = {
        torch.rand(1, generator=generator(*key)).item()
        for key in [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1)]
    }
    assert len(draws) == 5
    assert torch.rand(1, generator=generator(0, "a")).item() in draws


def test_uniform_matrix_has_unit_variance():
    u = uniform_matrix(300, 300, 0)
    assert u.mean().abs() < 0.02 and (u.var() - 1).abs() < 0.02 and u.abs().max() <= 3**0.5


def test_uniform_matrices_are_corners_of_one():
    """A smaller matrix is the corner of a larger one, and neighbours are independent."""
    u = uniform_matrix(300, 200, 0)
    assert torch.equal(uniform_matrix(7, 120, 0), u[:7, :120])
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u, uniform_matrix(300, 200, 1))):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.02
