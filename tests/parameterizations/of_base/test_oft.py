"""OFT is peft's with the same numbers in, exact and by its series; rotations keep angles."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import OFT
from zoo.testing import OfBaseTestCase, agree


class TestOFT(OfBaseTestCase):
    parameterization = OFT
    arguments: ClassVar = {"ratio": 0.3}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7), (12, 9))


class TestOFTBySeries(OfBaseTestCase):
    parameterization = OFT
    arguments: ClassVar = {"block": 4, "terms": 5}
    shapes = ((16, 16), (8, 24), (24, 8))


@pytest.mark.parametrize("terms", [0, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("shape", [(12, 12), (20, 8), (6, 24)])
def test_oft_is_pefts(shape, terms):
    """The exact transform, and `num_cayley_neumann_terms`."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m)}).double()
    series = {"use_cayley_neumann": terms > 0, "num_cayley_neumann_terms": max(terms, 2)}
    config = peft.OFTConfig(r=0, oft_block_size=4, target_modules=["a"], **series)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    rotation = layer.oft_R["default"]
    torch.nn.init.normal_(rotation.weight, std=0.3)
    p = OFT(m, n, block=4, terms=terms).double()
    with torch.no_grad():
        p.oft_R.copy_(rotation.weight)
    x = torch.randn(5, n, dtype=torch.float64)
    base, bias = layer.base_layer.weight.detach(), layer.base_layer.bias.detach()
    agree(p.forward_update(x, base, bias).detach(), layer(x).detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == n * 3 // 2


def test_angles_between_rows_stay():
    """W' W'^T = W0 W0^T, and every block is a rotation; by the series neither is."""
    base = torch.randn(7, 12).double()
    for terms in (0, 5):
        p = OFT(7, 12, block=6, terms=terms).double()
        torch.nn.init.normal_(p.oft_R, std=0.3)
        w, r = p.effective(base).detach(), p.rotations().detach()
        error = (w @ w.mT - base @ base.mT).abs().max().item()
        assert (error < 1e-12) == (terms == 0)
        if terms == 0:
            agree(r @ r.mT, torch.eye(6).double().expand(2, 6, 6), 1e-12)
            agree(torch.linalg.det(r), torch.ones(2).double(), 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 5}, "block must divide the 12 columns and be at least 2: 4 or 6, got 5"),
        ({"block": 1}, "block must divide the 12 columns and be at least 2: 2, got 1"),
        ({"block": 0}, "block must divide the 12 columns and be at least 2: 2, got 0"),
        ({"block": 24}, "block must divide the 12 columns and be at least 2: 12, got 24"),
        ({}, "needs a budget: give exactly one of block and ratio, got neither"),
        ({"block": 4, "ratio": 0.5}, "give exactly one of block and ratio, got 4 and 0.5"),
        ({"coefficients": 5}, r"coefficients 5 buys no block .* needs 6 coefficients"),
        ({"block": 4, "terms": 1}, "terms must be 0, for none, or at least 2, got 1"),
    ],
)
def test_what_would_work_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        OFT(8, 12, **arguments)


def test_one_column_is_refused():
    with pytest.raises(ValueError, match="needs at least 2 columns"):
        OFT(8, 1, ratio=0.5)


@pytest.mark.parametrize(("coefficients", "block"), [(6, 2), (11, 2), (12, 3), (66, 12), (90, 12)])
def test_a_budget_buys_the_largest_block(coefficients, block):
    assert OFT(8, 12, coefficients=coefficients).block == block
