"""AdaLoRA is peft's with the same numbers in; its rates, budget, regularizer and pruning."""

import itertools
import math
from typing import ClassVar

import pytest
import torch

from zoo.layers.linear import ZooLinear
from zoo.parameterizations import AdaLoRA, LoRA
from zoo.testing import ParameterizationTestCase, agree
from zoo.training.optimizers import OptimizerConfig, build


class TestAdaLoRA(ParameterizationTestCase):
    parameterization = AdaLoRA
    arguments: ClassVar = {"rank": 1}


@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_adalora_is_pefts(shape):
    """Names, shapes, count, product and merged weight; peft divides by r + 1e-5."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    config = peft.AdaLoraConfig(init_r=4, lora_alpha=6, total_step=10, target_modules=["a"])
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    p = AdaLoRA(m, n, rank=4).double()
    theirs = {name: getattr(layer, name)["default"] for name, _ in p.named_parameters()}
    assert not theirs["lora_E"].any()
    torch.nn.init.normal_(theirs["lora_E"])
    p.load_state_dict({name: value.detach() for name, value in theirs.items()})
    scale = 6 / (4 + 1e-5)
    agree(scale * p.weight().detach(), layer.get_delta_weight("default").detach(), 1e-6)
    x = torch.randn(5, n).double()
    update = p.forward_update(x, layer.base_layer.weight, None, scale)
    agree(update.detach(), layer(x).detach(), 1e-6)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 4 * (m + n + 1)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (7, 13)])
def test_a_budget_buys_the_largest_rank_that_fits(shape):
    m, n = shape
    for ratio, name in itertools.product((0.25, 0.37, 0.5, 1.0), ("ratio", "coefficients")):
        budget = ratio if name == "ratio" else int(ratio * m * n)
        p = AdaLoRA(m, n, **{name: budget})
        size = ratio * m * n if name == "ratio" else budget
        assert p.num_trainable <= size
        assert p.rank == min(m, n) or size - p.num_trainable < m + n + 1
    # One number a direction more than LoRA's: as many directions are beyond its budget.
    assert AdaLoRA(m, n, lora_rank=3).rank == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs a budget: give exactly one of rank and ratio, got neither"),
        ({"rank": 2, "ratio": 0.5}, "exactly one of rank and ratio, got 2 and 0.5"),
        ({"rank": 13}, r"rank must lie in \[1, 12\] for shape \(20, 12\), got 13"),
        ({"rank": 0}, r"rank must lie in \[1, 12\]"),
        (
            {"ratio": 0.1},
            "ratio 0.1 buys no rank .* rank 1 needs 33 coefficients, a ratio of 0.138",
        ),
        ({"lora_rank": 1}, "lora_rank 1 buys no rank .* rank 1 needs 33 coefficients"),
    ],
)
def test_a_wrong_budget_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        AdaLoRA(20, 12, **arguments)


def test_the_regularizer_is_the_papers():
    p = AdaLoRA(9, 6, rank=3).double()
    a, b = p.lora_A.detach(), p.lora_B.detach()
    terms = [(q.mT @ q - torch.eye(3)).square().sum() for q in (b, a.mT)]
    agree(p.orthogonality().detach(), sum(terms), 1e-12)
    grads = torch.autograd.grad(p.orthogonality(), (p.lora_A, p.lora_B))
    agree(grads[0], 4 * (a @ a.mT - torch.eye(3)) @ a, 1e-12)
    agree(grads[1], 4 * b @ (b.mT @ b - torch.eye(3)), 1e-12)
    p.project_(torch.randn(9, 6).double())
    assert p.orthogonality() < 1e-20
    half = AdaLoRA(9, 6, rank=3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        agree(half.orthogonality(), half.double().orthogonality(), 1e-5)


def test_the_projection_is_the_best_of_its_rank():
    p, target = AdaLoRA(9, 6, rank=3).double(), torch.randn(9, 6).double()
    p.project_(target)
    s = torch.linalg.svdvals(target)
    agree((p.weight() - target).square().sum().detach(), s[3:].square().sum(), 1e-12)
    agree(p.lora_E.detach().flatten(), s[:3], 1e-12)


def test_what_is_pruned_adds_nothing_and_may_come_back():
    p = AdaLoRA(9, 6, rank=3).double()
    keep = torch.tensor([True, False, True])
    p.prune_(keep)
    assert p.directions().tolist() == keep.tolist()
    assert torch.linalg.matrix_rank(p.weight()) == 2
    agree(p.weight(), (p.lora_B * p.lora_E.mT)[:, keep] @ p.lora_A[keep], 1e-12)
    (p.weight() * torch.randn(9, 6)).sum().backward()
    assert p.lora_E.grad[1] != 0
    p.prune_(torch.zeros(3, dtype=torch.bool))
    x = torch.randn(2, 6).double()
    assert not p.weight().any() and not p(x).any() and not p.directions().any()


def test_an_update_grows_as_fast_as_loras():
    """From 0, a step of Adam's moves W as far as LoRA's step of the same rank, in the mean."""
    moved = []
    for cls in (AdaLoRA, LoRA):
        p = cls(384, 256, rank=8)
        p.reset_parameters(0.0)
        for name, q in p.named_parameters():
            sign = torch.randn_like(q).sign()
            q.data.add_(sign, alpha=1e-6 * p.lr_mults()[name])
        moved.append(p.weight().norm().item() / (1e-6 * math.sqrt(384 * 256)))
    assert moved == pytest.approx([1, 1], rel=0.1)


def test_the_rates_reach_the_optimizer():
    """A third of the step each from scratch; from 0, what LoRA's A has for a random A."""
    layer = ZooLinear(AdaLoRA(384, 96, rank=6))
    for std, wanted in (
        (0.02, (50 / math.sqrt(3 * 96), math.sqrt(384 * 96 / 18), 50 / math.sqrt(3 * 384))),
        (0.0, (4.0, math.sqrt(384 * 96 / 6), 8.0)),
    ):
        layer.parameterization.reset_parameters(std)
        optimizer = build(layer, OptimizerConfig(lr=0.01), fused=False)
        rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        found = [rates[id(p)] / 0.01 for p in layer.parameterization.parameters()]
        assert found == pytest.approx(list(wanted), rel=0.05)
