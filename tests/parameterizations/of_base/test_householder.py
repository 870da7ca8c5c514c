"""Householder is peft's HRA with the same numbers in, and a product of reflections."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import Householder
from zoo.testing import OfBaseTestCase, agree


class TestHouseholder(OfBaseTestCase):
    parameterization = Householder
    arguments: ClassVar = {"rank": 4}


@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_householder_is_pefts(shape):
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m)})
    layer = peft.get_peft_model(net, peft.HRAConfig(r=6, target_modules=["a"])).base_model.model.a
    layer = layer.double()
    torch.nn.init.normal_(layer.hra_u["default"])
    p = Householder(m, n, rank=6).double()
    with torch.no_grad():
        p.hra_u.copy_(layer.hra_u["default"])
    base = layer.base_layer.weight.detach()
    agree(p.effective(base).detach(), base @ layer.get_delta_weight("default").detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 6 * n


def test_it_is_a_product_of_reflections():
    """W' = W0 H_1 ... H_r, one by one; W' W'^T = W0 W0^T; W' - W0 has rank r."""
    base = torch.randn(9, 8).double()
    p = Householder(9, 8, rank=4).double()
    torch.nn.init.normal_(p.hra_u)
    expected = base
    for u in p.hra_u.detach().mT:
        expected = expected @ (torch.eye(8).double() - 2 * torch.outer(u, u) / (u @ u))
    w = p.effective(base).detach()
    agree(w, expected, 1e-12)
    agree(w @ w.mT, base @ base.mT, 1e-12)
    assert torch.linalg.matrix_rank(w - base) == 4


@pytest.mark.parametrize("rank", [0, 1, 3, 9, 10])
def test_an_odd_number_of_vectors_is_refused(rank):
    message = rf"rank must be even and lie in \[2, 8\] for shape \(6, 9\), got {rank}"
    with pytest.raises(ValueError, match=message):
        Householder(6, 9, rank=rank)


def test_one_column_is_refused():
    with pytest.raises(ValueError, match="needs at least 2 columns"):
        Householder(8, 1, rank=2)


@pytest.mark.parametrize(("coefficients", "rank"), [(18, 2), (35, 2), (36, 4), (54, 6)])
def test_a_budget_buys_pairs(coefficients, rank):
    assert Householder(6, 9, coefficients=coefficients).rank == rank
