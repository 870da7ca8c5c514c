"""Fastfood against its matrices, written out."""

from typing import ClassVar

import pytest
import scipy.linalg
import torch

from zoo.bases.hadamard import walsh_factors, walsh_matrix, walsh_transform
from zoo.parameterizations import Fastfood
from zoo.testing import ParameterizationTestCase, agree


class TestFastfood(ParameterizationTestCase):
    parameterization = Fastfood
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.05


def matrices(p):
    """M of W = M c, (mn, K): s H G P H B, cut to the first mn rows and K columns."""
    padded, size, count = len(p.gains), p.out_features * p.in_features, len(p.coef)
    h = torch.from_numpy(scipy.linalg.hadamard(padded)).double() / padded**0.5
    permutation = torch.eye(padded, dtype=torch.float64)[p.order]
    signs = torch.cat([p.signs.double(), torch.ones(padded - count).double()])
    whole = h @ p.gains.double().diag() @ permutation @ h @ signs.diag()
    return whole[:size, :count]


@pytest.mark.parametrize("n", [1, 2, 64, 256, 512])
def test_the_fast_transform_is_a_product_with_scipys_matrix(n):
    x, h = torch.randn(n, dtype=torch.float64), torch.from_numpy(scipy.linalg.hadamard(n)).double()
    agree(walsh_matrix(n), h / n**0.5, 1e-12)
    factors = [*walsh_factors(n), 1]
    assert factors == sorted(factors, reverse=True) and factors[0] <= 32
    agree(walsh_transform(x, walsh_matrix(factors[0])), h @ x / n**0.5, 1e-12)


@pytest.mark.parametrize("shape", [(12, 12), (24, 10), (10, 24), (1, 7), (1, 1)])
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_w_is_a_product_of_its_matrices_and_projects_best(shape, ratio):
    """W = M c; project_ is numpy's least squares where M is well conditioned."""
    p = Fastfood(*shape, ratio=max(ratio, 1 / (shape[0] * shape[1]))).double()
    m, target = matrices(p), torch.randn(shape, dtype=torch.float64)
    agree(p.weight().flatten(), m @ p.coef, 1e-9)
    p.project_(target)
    best = m @ torch.linalg.lstsq(m, target.flatten()).solution
    agree(p.weight().detach().flatten(), best, 1e-6 if ratio < 1 else 1e-2)


def test_lengths_are_kept_in_the_mean():
    """|M e_i|^2 has mean 1 over seeds and coefficients, also where N is larger than mn."""
    for shape in ((16, 16), (24, 11)):
        lengths = [
            matrices(Fastfood(*shape, ratio=0.2, seed=seed)).square().sum(0) for seed in range(8)
        ]
        assert abs(torch.stack(lengths).mean().item() - 1) < 0.03


def test_a_count_out_of_range_says_what_would_work():
    with pytest.raises(ValueError, match=r"coefficients must lie in \[1, 48\].*got 49"):
        Fastfood(8, 6, coefficients=49)
