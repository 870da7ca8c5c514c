"""A rate for each parameter of a map, by name; and which map decides where one is in another."""

import math

import pytest
import torch
from torch import nn

from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, Dense, LoRA, WeightParameterization
from zoo.training.optimizers import OptimizerConfig, build, parameter_groups


class Rated(LoRA):
    """Has the rates that it is told."""

    rates: object = 1.0

    @property
    def lr_mult(self):
        return self.rates


class Half(WeightParameterization):
    """Half of another map, a part of it; with a rate of its own for all of it, or none."""

    def __init__(self, part, rates):
        super().__init__(*part.shape)
        self.part, self.rates = part, rates

    def weight(self):
        return self.part.weight() / 2

    def reset_parameters(self, std):
        self.part.reset_parameters(2 * std)

    def project_(self, target):
        self.part.project_(2 * target)

    @property
    def lr_mult(self):
        return self.rates


def rated(rates):
    p = Rated(6, 4, rank=1)
    p.rates = rates
    return p


def rates_of(model, weight_decay=0.1):
    groups = parameter_groups(model, 0.01, weight_decay)
    owner = {id(p): name for name, p in model.named_parameters()}
    found = {owner[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found) == len(owner)
    return found


def test_one_number_is_that_of_all():
    assert rated(1.5).lr_mults() == {"lora_A": 1.5, "lora_B": 1.5}


def test_a_mapping_is_by_name_in_the_order_of_the_parameters():
    mults = rated({"lora_B": 16, "lora_A": 1.0}).lr_mults()
    assert list(mults.items()) == [("lora_A", 1.0), ("lora_B", 16.0)]
    assert {type(value) for value in mults.values()} == {float}


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"lora_A": 1.0}, "lr_mult is of lora_A, and the parameters are lora_A, lora_B"),
        ({}, "lr_mult is of nothing, and the parameters are lora_A, lora_B"),
        (
            {"lora_A": 1.0, "lora_B": 1.0, "coef": 1.0},
            "lr_mult is of coef, lora_A, lora_B, and the parameters are lora_A, lora_B",
        ),
        ({"lora_A": 1.0, "lora_B": math.inf}, "must be above 0 and finite, got inf for lora_B"),
        ({"lora_A": math.nan, "lora_B": 1.0}, "must be above 0 and finite, got nan for lora_A"),
        ({"lora_A": 0.0, "lora_B": 1.0}, "must be above 0 and finite, got 0.0 for lora_A"),
        (-1.0, "must be above 0 and finite, got -1.0 for lora_A"),
    ],
)
def test_wrong_rates_are_refused(rates, said):
    with pytest.raises(ValueError, match="Rated") as error:
        rated(rates).lr_mults()
    assert said in str(error.value)
    with pytest.raises(ValueError, match="Rated"):
        parameter_groups(ZooLinear(rated(rates)), 0.01, 0.1)


def test_groups_are_by_rate_and_decay_alike():
    """Two layers of the same rates share groups, and lr decay is the same in all of them."""
    net = nn.Sequential(*(ZooLinear(rated({"lora_A": 0.5, "lora_B": 8.0})) for _ in range(2)))
    optimizer = build(net, OptimizerConfig(lr=0.01, weight_decay=0.1), fused=False)
    assert isinstance(optimizer, torch.optim.AdamW)
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"]) == (0.005, 0.08)
    assert [len(g["params"]) for g in (first, second)] == [2, 2]
    assert first["params"][0] is net[0].parameterization.lora_A
    assert first["lr"] * first["weight_decay"] == pytest.approx(0.001)
    assert second["lr"] * second["weight_decay"] == pytest.approx(0.001)


def test_a_step_is_as_large_as_its_rate():
    """AdamW's first step moves each number by its own rate."""
    net = ZooLinear(rated({"lora_A": 0.5, "lora_B": 8.0}))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = build(net, OptimizerConfig(lr=0.01, weight_decay=0.0), fused=False)
    net(torch.randn(9, 4)).square().sum().backward()
    optimizer.step()
    for name, rate in (("lora_A", 0.005), ("lora_B", 0.08)):
        moved = net.get_parameter(f"parameterization.{name}") - before[f"parameterization.{name}"]
        assert moved.abs().mean().item() == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("rates", [3.0, {"part.lora_A": 3.0, "part.lora_B": 5.0}])
def test_the_outermost_map_decides(rates):
    """Whatever a part says of itself, even what would be refused of a layer's own map."""
    net = ZooLinear(Half(rated({"lora_A": 1.0, "lora_B": math.inf}), rates))
    several = rates if isinstance(rates, dict) else {"part.lora_A": 3.0, "part.lora_B": 3.0}
    assert rates_of(net) == {
        f"parameterization.{name}": (0.01 * rate, 0.1 / rate) for name, rate in several.items()
    }


def test_names_of_a_part_are_those_of_the_whole():
    p = Half(Half(Dense(6, 4), 1.0), {"part.part.coef": 2.0})
    assert p.lr_mults() == {"part.part.coef": 2.0}


def test_maps_that_share_a_parameter_have_the_rate_of_the_first():
    first, second = DCT(8, 8, ratio=0.5), DCT(8, 8, ratio=0.5, seed=1)
    second.coef = first.coef
    (rate, _), *more = rates_of(nn.Sequential(ZooLinear(first), ZooLinear(second))).values()
    assert not more and rate == 0.01 * float(f"{first.lr_mult:.2g}")
