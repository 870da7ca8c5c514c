"""MiSS is peft's with the same numbers in, of any size."""

import math
from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import MiSS
from zoo.testing import ParameterizationTestCase, agree


class TestMiSS(ParameterizationTestCase):
    """Shards of 3 inputs, of which the last one is not full."""

    parameterization = MiSS
    arguments: ClassVar = {"rank": 3}


class TestMiSSOfSharedOutputs(ParameterizationTestCase):
    parameterization = MiSS
    arguments: ClassVar = {"rank": 4, "mini_r": 5}
    shapes = ((8, 24), (24, 8), (13, 7))
    std_tolerance = 0.3  # twenty coefficients vary


@pytest.mark.parametrize("mini", [None, 3])
@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_miss_is_pefts(shape, mini):
    """With r = 4, which does not divide 22: peft's layer and its merged weight."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    settings = {} if mini is None else {"init_weights": "mini", "mini_r": mini}
    config = peft.MissConfig(r=4, target_modules=["a"], **settings)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    torch.nn.init.normal_(layer.miss_block["default"])
    p = MiSS(m, n, rank=4, mini_r=mini).double()
    with torch.no_grad():
        p.miss_block.copy_(layer.miss_block["default"])
    full = layer.get_delta_weight_miss("default", torch.zeros(shape, dtype=torch.float64))
    agree(p.weight().detach(), full.detach(), 1e-12)
    x = torch.randn(5, n, dtype=torch.float64)
    agree(p.forward_update(x, layer.base_layer.weight).detach(), layer(x).detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 4 * (mini or m)


def test_the_projection_is_the_best_of_all():
    """The map is linear: a dense least-squares fit of its matrix finds nothing better."""
    p, target = MiSS(6, 11, rank=4, mini_r=4).double(), torch.randn(6, 11, dtype=torch.float64)
    (matrix,) = torch.autograd.functional.jacobian(
        lambda block: torch.func.functional_call(Weight(p), {"p.miss_block": block}, ()),
        (p.miss_block,),
    )
    best = torch.linalg.lstsq(matrix.reshape(66, 16), target.reshape(66, 1)).solution
    p.project_(target)
    agree(p.miss_block.detach().flatten(), best[:, 0], 1e-9)


class Weight(torch.nn.Module):
    """weight() as a module, for `functional_call`."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self):
        return self.p.weight()


def test_a_budget_is_met_to_less_than_a_rank():
    for shape in ((64, 96), (96, 64), (50, 50)):
        for ratio in (0.1, 0.3, 0.7):
            count = MiSS(*shape, ratio=ratio).num_trainable
            assert 0 <= ratio * math.prod(shape) - count < shape[0]
    assert MiSS(64, 96, lora_rank=2).rank == 5
    assert MiSS(64, 96, coefficients=100, mini_r=8).num_trainable == 96


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a budget"),
        ({"rank": 7}, r"rank must lie in \[1, 6\]"),
        ({"coefficients": 7}, "rank 1 needs 8"),
        ({"rank": 2, "mini_r": 9}, r"mini_r must lie in \[1, 8\]"),
        ({"rank": 2, "mini_r": 0}, r"mini_r must lie in \[1, 8\]"),
    ],
)
def test_a_bad_argument_names_what_would_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        MiSS(8, 6, **arguments)
