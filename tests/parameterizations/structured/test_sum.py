"""A sum of maps is what its parts are, each by its own path, budget, start and rate."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

from zoo.layers.convert import convert, zoo_layers
from zoo.layers.fixed_buffers import NOT_SENT
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import (
    DCT,
    BlockDCT,
    Dense,
    LoRA,
    OrthonormalSubspace,
    Product,
    RandLoRA,
    Sparse,
    Sum,
    WeightParameterization,
)
from zoo.parameterizations.budget import Budget
from zoo.testing import ParameterizationTestCase, agree
from zoo.training.optimizers import parameter_groups


class TestSum(ParameterizationTestCase):
    parameterization = Sum
    arguments: ClassVar = {"parts": [partial(LoRA, rank=1), partial(Sparse, ratio=0.2)]}


class TestSumOfThree(ParameterizationTestCase):
    """Two parts that may need no weight and one that is built, scaled."""

    parameterization = Sum
    arguments: ClassVar = {
        "parts": [
            partial(LoRA, rank=1),
            partial(DCT, ratio=0.2),
            partial(BlockDCT, block=4, ratio=0.25),
        ],
        "scales": [0.5, 2.0, 1.0],
    }
    shapes = ((8, 24), (24, 8))


class TestSumOfFree(ParameterizationTestCase):
    parameterization = Sum
    arguments: ClassVar = {
        "parts": [partial(LoRA, rank=1), partial(LoRA, rank=2)],
        "scales": [2, 1],
    }
    shapes = ((8, 24), (24, 8))


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_sltrain(shape):
    """W = (alpha / r) B A + S with S at fixed random places, and only S at its start."""
    m, n = shape
    rank, alpha, density = 3, 32, 0.1
    p = Sum(
        m,
        n,
        parts=[partial(LoRA, rank=rank), partial(Sparse, ratio=density)],
        scales=[alpha / rank, 1],
        init=[0, 1],
    ).double()
    low, sparse = p.parts
    values = torch.zeros(m * n).double()
    values[sparse.places] = sparse.coef
    dense = alpha / rank * (low.lora_B @ low.lora_A) + values.view(m, n)
    agree(p.weight(), dense, 1e-12)
    assert low.lora_B.abs().max() == 0 and low.lora_A.abs().min() > 0
    assert p.num_trainable == rank * (m + n) + round(density * m * n)
    with torch.no_grad():
        low.lora_B.normal_()
    x = torch.randn(5, n).double()
    agree(p(x), x @ p.weight().mT, 1e-12)


@pytest.mark.parametrize("ratio", [0.2, 0.333, 0.8])
def test_a_budget_is_split_and_the_last_part_has_what_is_left(ratio):
    p = Sum(40, 32, ratio=ratio)
    total = round(ratio * 40 * 32)
    assert p.num_trainable == total
    assert 0 <= total // 2 - p.parts[0].num_trainable < 72
    p = Sum(40, 32, parts=[LoRA, Sparse, DCT], shares=[2, 1, 1], ratio=ratio)
    assert p.num_trainable == total and p.parts[1].num_trainable == int(total / 4)
    p = Sum(40, 32, parts=[partial(LoRA, rank=2), Sparse], ratio=ratio)
    assert [part.num_trainable for part in p.parts] == [144, total - 144]
    p = Sum(40, 32, parts=[Sparse, RandLoRA], ratio=ratio)  # which takes a ratio alone
    assert 0 <= total - p.num_trainable < 40
    p = Sum(
        40, 32, parts=[partial(Sum, parts=[Sparse, DCT]), partial(Product, rank=9)], ratio=ratio
    )
    assert p.num_trainable == total


def test_parts_have_places_rates_and_starts_of_their_own():
    p = Sum(24, 16, parts=[Sparse, Sparse], ratio=0.3)
    first, second = (part.for_layer(part.layer).places for part in p.parts)
    assert not torch.equal(first, second)
    named = p.for_layer("a")
    assert [part.layer for part in named.parts] == ["a.0", "a.1"]
    assert not torch.equal(named.parts[0].places, first)
    q = Sum(24, 16, parts=[Sparse, Sparse], ratio=0.3)
    q.layer = "a"
    q.double()
    assert torch.equal(q.parts[0].places, named.parts[0].places)
    assert (
        q.fingerprint() == named.fingerprint() != Sum(24, 16, parts=[Sparse] * 2, ratio=0.3, seed=1)
    )
    scaled = Sum(24, 16, parts=[Sparse, DCT], ratio=0.3, scales=[4, 1])
    alone = Sparse(24, 16, coefficients=57)
    mults = scaled.lr_mults()
    assert mults["parts.0.coef"] == pytest.approx(alone.for_layer(".0").lr_mult / 4 / 2**0.75)
    scaled.reset_parameters(0.5)
    energies = [
        (a * part.weight()).square().mean() for a, part in zip([4, 1], scaled.parts, strict=True)
    ]
    assert all(0.06 < energy < 0.2 for energy in energies)


def test_projection_of_two_linear_parts_is_least_squares():
    p = Sum(12, 10, parts=[Sparse, DCT], ratio=0.5).double()
    basis = []
    for part in p.parts:
        for i in range(30):
            with torch.no_grad():
                part.coef.zero_()[i] = 1.0
                basis.append(part.weight().flatten().clone())
                part.coef.zero_()
    target = torch.randn(12, 10).double()
    a = torch.stack(basis, 1)
    best = a @ torch.linalg.lstsq(a, target.flatten()[:, None], driver="gelsd").solution
    p.project_(target)
    agree(p.weight().detach().flatten(), best.flatten(), 1e-3)


def test_a_model_of_sums_trains_with_the_rates_of_parts_and_sends_no_buffers():
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
    factory = partial(Sum, parts=[LoRA, Sparse], shares=[3, 1])
    convert(net, factory, ["*"], budget=Budget(ratio=0.5))
    assert sum(p.parameterization.num_trainable for p in zoo_layers(net).values()) == 384
    named = dict(net.named_parameters())
    rates = {
        id(q): group["lr"] for group in parameter_groups(net, 1.0, 0.1) for q in group["params"]
    }
    maps = zoo_layers(net)["0"].parameterization.lr_mults()
    for name, mult in maps.items():
        assert rates[id(named[f"0.parameterization.{name}"])] == pytest.approx(mult, rel=0.1)
    assert "0.parameterization.parts.1.places" in set(getattr(net, NOT_SENT))


def test_a_kept_weight_follows_a_part_of_a_part():
    p = Sum(8, 6, parts=[partial(Sum, parts=[Sparse, DCT]), Sparse], ratio=0.5)
    layer, x = ZooLinear(p).eval(), torch.randn(3, 6)
    with torch.no_grad():
        layer(x)
        assert layer._kept.weight is not None
        p.parts[0].parts[1].coef.add_(1.0)
        agree(layer(x), x @ p.weight().mT, 1e-5)


class Short(OrthonormalSubspace):
    """It lacks a basis."""


class Other(Sparse):
    def __init__(self, out_features, in_features, ratio=0.5):
        super().__init__(in_features, out_features, ratio=ratio)


MISTAKES = {
    "at least one parameterization, got []": {"parts": [], "ratio": 0.5},
    "parts.1 must be a parameterization, got Linear": {"parts": [LoRA, nn.Linear], "ratio": 0.5},
    "parts.0 must be a parameterization, got LoRA": {"parts": ["LoRA"], "ratio": 0.5},
    "parts.1 (Short) is abstract: define analyze, synthesize": {
        "parts": [DCT, Short],
        "ratio": 0.5,
    },
    "(WeightParameterization) is abstract": {"parts": [WeightParameterization], "ratio": 0.5},
    "parts.0 (Other) must make a (24, 16) map": {"parts": [Other, Sparse], "ratio": 0.5},
    "shares must be 2, one for each part, got 1": {"shares": [1], "ratio": 0.5},
    "shares must be above 0 and finite, got [1, -1]": {"shares": [1, -1], "ratio": 0.5},
    "scales must be above 0": {"scales": [1, 0], "ratio": 0.5},
    "init must be at least 0 and finite, and not all 0": {"init": [0, 0], "ratio": 0.5},
    "needs a budget: give ratio, coefficients or lora_rank of the whole, or one to each of parts.0 "
    "(LoRA), parts.1 (Sparse)": {},
    "one to each of parts.1 (Sparse)": {"parts": [partial(LoRA, rank=1), Sparse]},
    "ratio 0.5 and the budgets of its parts exclude each other": {
        "parts": [partial(LoRA, rank=1), Dense],
        "ratio": 0.5,
    },
    "ratio and coefficients exclude each other": {"ratio": 0.5, "coefficients": 100},
    "ratio must lie in (0, 1], got 2": {"ratio": 2},
    "parts.0 (LoRA) gets 38 of 77 coefficients and needs 40: give it a share of 0.52 or a budget "
    "of 80 coefficients": {"ratio": 0.2},
    "parts.0 (LoRA) rank must lie in [1, 16]": {"parts": [partial(LoRA, rank=99), Sparse]},
    "leaves 0 of 38 coefficients for parts.1 (Sparse), the other parts taking 40: give it a "
    "budget of 41": {
        "parts": [partial(LoRA, rank=1), Sparse],
        "ratio": 0.1,
    },
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(ValueError) as error:
        Sum(24, 16, **MISTAKES[words])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_numbers_that_would_work_do():
    assert Sum(24, 16, coefficients=80).parts[0].rank == 1
    with pytest.raises(ValueError, match="gets 38 of 77"):
        Sum(24, 16, ratio=0.2)
    assert Sum(24, 16, ratio=0.2, shares=[0.52, 0.48]).parts[0].rank == 1
