"""Projections without a closed form: how long they go on, and that the scale of W is nothing to
them.
"""

import functools

import pytest
import torch

from zoo.parameterizations import (
    BLAST,
    DCT,
    Fastfood,
    Kronecker,
    LoHa,
    LoRA,
    Product,
    Sparse,
    Sum,
    TensorTrain,
    VeRA,
    fitting,
)

FITTED = {
    "BLAST": functools.partial(BLAST, rank=2),
    "Fastfood": functools.partial(Fastfood, ratio=0.3),
    "Kronecker of low rank": functools.partial(Kronecker, terms=2, rank=1, decompose_both=True),
    "LoHa": functools.partial(LoHa, rank=2),
    "Product": functools.partial(Product, left=DCT, right=DCT, rank=4, ratio=0.2),
    "Sum": functools.partial(
        Sum, parts=[functools.partial(LoRA, rank=1), functools.partial(Sparse, ratio=0.1)]
    ),
    "TensorTrain": functools.partial(TensorTrain, ratio=0.3),
    "VeRA": functools.partial(VeRA, rank=4),
}


def test_a_large_weight_gets_few_rounds():
    assert fitting.rounds(500, 1) == fitting.rounds(500, 0) == 500
    assert fitting.rounds(500, fitting.WORK // 20) == 20
    assert fitting.rounds(500, fitting.WORK) == fitting.FEWEST
    assert fitting.rounds(2, fitting.WORK) == 2


@pytest.mark.parametrize("name", FITTED)
def test_what_ends_early_is_a_fit(name, monkeypatch):
    """It is nearer to the target than 0 is, and W itself is left as it is."""
    monkeypatch.setattr(fitting, "WORK", 1)
    p, target = FITTED[name](24, 16).double(), torch.randn(24, 16, dtype=torch.float64)
    p.project_(target)
    assert (p.weight() - target).norm() < target.norm()
    w = p.weight().detach().clone()
    p.project_(w)
    assert (p.weight() - w).norm() <= 1e-6 * w.norm()


@pytest.mark.parametrize("name", ["Product", "Sum"])
def test_the_scale_of_a_target_changes_no_step(name, monkeypatch):
    monkeypatch.setattr(fitting, "WORK", 10**6)
    p, target = FITTED[name](12, 8).double(), torch.randn(12, 8, dtype=torch.float64)
    start, errors = p.state_dict(), []
    start = {key: value.clone() for key, value in start.items()}
    for scale in (1e-6, 1.0, 1e6):
        p.load_state_dict(start)
        p.project_(scale * target)
        errors.append(((p.weight() - scale * target).norm() / scale).item())
    assert max(errors) - min(errors) <= 1e-3 * min(errors)


GROWN = {
    "BLAST": (functools.partial(BLAST, rank=4), (36, 24)),
    "Product": (functools.partial(Product, ratio=0.5), (12, 8)),
}
"""Whose terms cancel when they are fitted to noise."""


@pytest.mark.parametrize("name", GROWN)
def test_rates_follow_factors_that_grew(name, monkeypatch):
    """A step from there is no longer than a dense one."""
    monkeypatch.setattr(fitting, "WORK", 3 * 10**6)
    torch.manual_seed(0)
    factory, shape = GROWN[name]
    p, target = factory(*shape).double(), 0.02 * torch.randn(shape, dtype=torch.float64)
    p.reset_parameters(0.02)
    drawn = p._step
    p.project_(target)
    before, mults = p.weight().detach().clone(), p.lr_mults()
    with torch.no_grad():
        for key, q in p.named_parameters():
            q.add_(torch.randn_like(q).sign(), alpha=1e-7 * mults[key])
        moved = ((p.weight() - before) / 1e-7).square().mean().sqrt().item()
    assert p._step > 2 * drawn
    assert 0.5 < moved < 1.5
