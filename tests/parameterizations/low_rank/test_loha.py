"""LoHa is peft's with the same numbers in."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.parameterizations import LoHa
from zoo.testing import ParameterizationTestCase, agree


class TestLoHa(ParameterizationTestCase):
    """W is built: r^2 is large for these sizes."""

    parameterization = LoHa
    arguments: ClassVar = {"rank": 2}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))

    def test_project_is_stationary(self, shape):
        """Nearly: of noise, a best approximation of rank 2 seldom exists (`LoHa.project_`)."""
        p, target = self.make(shape), torch.randn(shape, dtype=torch.float64)
        before = self._slope(p, target)
        p.project_(target)
        assert self._slope(p, target) < 0.05 * before


class TestLoHaByFactors(ParameterizationTestCase):
    """W is not built: of rank 1, for all sizes but a single row."""

    parameterization = LoHa
    arguments: ClassVar = {"rank": 1}


@pytest.mark.parametrize("shape", [(12, 12), (20, 6), (6, 20)])
def test_loha_is_pefts(shape):
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    config = peft.LoHaConfig(r=3, alpha=3, target_modules=["a"], init_weights=False)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    p = LoHa(m, n, rank=3).double()
    names = dict(p.named_parameters())
    with torch.no_grad():
        for name, factor in names.items():
            factor.copy_(getattr(layer, name)["default"])
    agree(p.weight().detach(), layer.get_delta_weight("default").detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 6 * (m + n)


def test_loha_is_the_product_of_the_paper_and_has_rank_r_squared():
    p = LoHa(14, 12, rank=3).double()
    a1, b1, a2, b2 = (factor.detach().numpy() for factor in p.parameters())
    expected = np.einsum("ik,kj,il,lj->ij", a1, b1, a2, b2)
    agree(p.weight().detach(), torch.from_numpy(expected), 1e-12)
    assert torch.linalg.matrix_rank(p.weight()) == 9


def test_one_factor_alone_is_zero_at_the_start():
    """An update's other factors have no gradient before this one has moved, as in LyCORIS."""
    p = LoHa(12, 9, rank=2)
    p.reset_parameters(0.0)
    p.weight().square().sum().backward()
    p.zero_grad()
    (p.weight() * torch.randn(12, 9)).sum().backward()
    assert {name for name, q in p.named_parameters() if not q.any()} == {"hada_w2_a"}
    assert {name for name, q in p.named_parameters() if q.grad.any()} == {"hada_w2_a"}


def test_a_budget_is_met_to_less_than_a_rank():
    for shape in ((64, 96), (96, 64), (50, 50)):
        each = 2 * sum(shape)
        for ratio in (0.1, 0.3, 0.7):
            count = LoHa(*shape, ratio=ratio).num_trainable
            assert 0 <= ratio * math.prod(shape) - count < each
    assert LoHa(64, 96, lora_rank=5).rank == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a budget"),
        (
            {"ratio": 0.1},
            "ratio 0.1 buys no rank for shape .20, 16.: rank 1 needs 72 coeff.*, a ratio of 0.225",
        ),
        ({"lora_rank": 1}, "rank 1 needs 72 coefficients"),
        ({"rank": 17}, r"rank must lie in \[1, 16\]"),
    ],
)
def test_a_bad_argument_names_what_would_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        LoHa(20, 16, **arguments)


def test_a_projection_from_the_start_of_an_update_fits_what_loha_can_be():
    p, q = LoHa(10, 9, rank=1).double(), LoHa(10, 9, rank=1).double()
    q.reset_parameters(0.0)
    q.project_(p.weight().detach())
    agree(q.weight(), p.weight(), 1e-6)
    q.project_(torch.zeros(10, 9))
    assert not q.weight().any()
