"""Budgets: of one layer, and of many together."""

import functools
import re

import pytest
from every import factories
from torch import nn

import zoo.parameterizations
from zoo.errors import UserError
from zoo.layers.convert import convert, counts, table
from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA, RandomOrthonormal, Zigzag
from zoo.parameterizations.budget import Budget, layer_budget

SHAPES = {"a": (40, 30), "b": (7, 50), "c": (64, 64)}


@pytest.mark.parametrize(
    ("budget", "k"), [((0.5, None, None), 600), ((None, 17, None), 17), ((None, None, 8), 560)]
)
def test_a_layers_budget_in_three_units(budget, k):
    """K = ratio mn, K itself, or r (m + n)."""
    assert layer_budget(40, 30, *budget) == k


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ((None, None, None), "needs a budget"),
        ((0.5, None, 8), "ratio and lora_rank exclude each other, got 0.5 and 8"),
        ((None, None, 18), r"lora_rank must lie in \[1, 17\] for shape \(40, 30\), got 18"),
        ((None, None, 0), "lora_rank"),
    ],
)
def test_a_bad_budget_names_its_legal_range(budget, message):
    with pytest.raises(ValueError, match=message):
        layer_budget(40, 30, *budget)


@pytest.mark.parametrize("total", [60, 1000, 4321, 40 * 30 + 7 * 50 + 64 * 64])
def test_a_total_is_exact_and_proportional(total):
    """sum K = total, and each K within 1 of total mn / sum mn."""
    split = Budget(coefficients=total).split(SHAPES)
    weights = sum(m * n for m, n in SHAPES.values())
    assert sum(split.values()) == total
    assert all(abs(split[name] - total * m * n / weights) < 1 for name, (m, n) in SHAPES.items())


def test_a_total_in_other_units():
    weights = sum(m * n for m, n in SHAPES.values())
    assert sum(Budget(ratio=0.1).split(SHAPES).values()) == round(0.1 * weights)
    assert sum(Budget(lora_rank=2).split(SHAPES).values()) == 2 * (70 + 57 + 128)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(coefficients=2), "2 coefficients leave none for"),
        (Budget(coefficients=10**9), "of 3 layers with 5646"),
        (Budget(), "needs a budget"),
        (Budget(coefficients=9, lora_rank=1), "exclude"),
        (Budget(ratio=2.0), r"\(0, 1\]"),
    ],
)
def test_a_bad_total_is_the_users_mistake(budget, message):
    with pytest.raises(UserError, match=message):
        budget.split(SHAPES)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, 40), nn.Linear(50, 7), nn.Linear(64, 64))


@pytest.mark.parametrize("parameterization", [DCT, RandomOrthonormal, Zigzag])
def test_convert_spends_a_total_exactly(parameterization):
    assert (
        counts(convert(net(), parameterization, ["*"], budget=Budget(coefficients=1234)))[
            "coefficients"
        ]
        == 1234
    )


def test_factors_spend_at_most_a_total():
    model = convert(net(), LoRA, ["*"], budget=Budget(coefficients=1234))
    assert [row["trainable"] for row in table(model)] == [3 * 70, 57, 6 * 128]  # of 262, 77 and 895
    total = counts(convert(net(), RandLoRA, ["*"], budget=Budget(coefficients=1234)))[
        "coefficients"
    ]
    assert 0.8 * 1234 < total <= 1234


def test_an_overridden_layer_keeps_its_own_budget():
    model = convert(
        net(), DCT, ["*"], {"1": functools.partial(LoRA, rank=1)}, budget=Budget(coefficients=100)
    )
    rows = {row["layer"]: row["trainable"] for row in table(model)}
    assert rows["1"] == 57 and rows["0"] + rows["2"] == 100


def test_two_budgets_are_one_too_many():
    with pytest.raises(
        UserError, match="budget .* and the parameterization's own ratio exclude each other"
    ):
        convert(net(), functools.partial(DCT, ratio=0.5), ["*"], budget=Budget(coefficients=100))


@pytest.mark.parametrize("parameterization", [DCT, RandomOrthonormal, Zigzag, RandLoRA])
def test_as_many_as_lora(parameterization):
    """lora_rank = r gives r (m + n) coefficients, of RandLoRA as many bases as fit."""
    p = parameterization(40, 30, lora_rank=3)
    lora = LoRA(40, 30, rank=3).num_trainable
    assert (
        p.num_trainable == lora
        if parameterization is not RandLoRA
        else lora - 31 < p.num_trainable <= lora
    )


def test_a_rank_and_a_budget_are_two_budgets():
    with pytest.raises(
        UserError,
        match="LoRA needs a budget: give exactly one of rank and ratio.*the budget of all",
    ):
        convert(net(), functools.partial(LoRA, rank=2), ["*"], budget=Budget(lora_rank=1))


SMALL = [(96, 32), (7, 13), (1, 5), (5, 1), (2, 3), (31, 62), (3, 100)]


@pytest.mark.parametrize("name", sorted({*factories()} - {"Dense", "Product", "VeRA"}))
def test_what_a_refused_budget_advises_works(name):
    """Whatever the shape; where nothing would, it says so."""
    cls = getattr(zoo.parameterizations, name)
    for shape in SMALL:
        for budget in ({"ratio": 1e-6}, {"coefficients": 1}, {"lora_rank": 1}):
            try:
                cls(*shape, **budget)
                continue
            except ValueError as error:
                said = str(error)
            ratio = re.search(r"ratio (?:must be |of )(?:at least )?([\d.e-]+\d|1)\b", said)
            count = re.search(r"(?:budget of|needs?) (\d+) coefficients", said)
            if "leave the layer out" in said and "targets" not in said:
                assert re.search("more than|lora_rank 1 is too many", said)
                if "lora_rank 1 is" not in said:
                    with pytest.raises(ValueError, match="budget|coefficients"):
                        cls(*shape, ratio=1.0)
                continue
            assert ratio or count, said
            if ratio:
                cls(*shape, ratio=float(ratio[1]))
            if count:
                cls(*shape, coefficients=int(count[1]))


def test_a_class_without_a_budget_takes_none_of_all_layers():
    with pytest.raises(UserError, match="Dense takes none, it has no ratio"):
        convert(net(), Dense, ["*"], budget=Budget(ratio=0.1))
