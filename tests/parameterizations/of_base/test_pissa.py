"""PiSSA is peft's, which replaces W0, with the same numbers in; its start follows from W0."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import PiSSA
from zoo.testing import OfBaseTestCase, agree


class TestPiSSA(OfBaseTestCase):
    parameterization = PiSSA
    arguments: ClassVar = {"rank": 1}


class TestOLoRA(OfBaseTestCase):
    parameterization = PiSSA
    arguments: ClassVar = {"rank": 2, "start": "olora"}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


class TestMiLoRA(OfBaseTestCase):
    parameterization = PiSSA
    arguments: ClassVar = {"rank": 2, "start": "milora"}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_pissa_is_pefts(shape, start):
    """With s = 1: where both start, and after the same steps of the same factors."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m)})
    base, bias = net["a"].weight.detach().clone(), net["a"].bias.detach()
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["a"], init_lora_weights=start)
    layer = peft.get_peft_model(net, config).base_model.model.a
    p = PiSSA(m, n, rank=3, start=start).for_base(base)
    x = torch.randn(5, n)
    agree(layer(x).detach(), torch.nn.functional.linear(x, base, bias), 1e-5)
    theirs = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    left, right = p.sides(base)
    agree((left @ right).detach(), (theirs[0] @ theirs[1]).detach(), 1e-5)
    moved = [torch.randn_like(each) for each in theirs]
    # A sign of a pair of vectors is free: what moves is moved in the same frame.
    sign = (left * theirs[0]).sum(0).sign().detach()
    with torch.no_grad():
        for each, move in zip(theirs, moved, strict=True):
            each.add_(move)
        p.lora_B.copy_(moved[0] * sign)
        p.lora_A.copy_(moved[1] * sign[:, None])
    agree(p.forward_update(x, base, bias).detach(), layer(x).detach(), 1e-5)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 3 * (m + n)


@pytest.mark.parametrize("start", ["pissa", "olora", "milora"])
def test_it_is_its_formula(start):
    """W' = W0 + s ((B0 + B) (A0 + A) - B0 A0), B0 A0 the largest, smallest or first part of W0."""
    base = torch.randn(9, 7).double()
    p = PiSSA(9, 7, rank=2, start=start).double()
    u, s, vh = torch.linalg.svd(base, full_matrices=False)
    q, r = torch.linalg.qr(base)
    parts = {
        "pissa": u[:, :2] * s[:2] @ vh[:2],
        "milora": u[:, -2:] * s[-2:] @ vh[-2:],
        "olora": q[:, :2] @ r[:2],
    }
    left, right = p.sides(base)
    agree(left @ right, parts[start], 1e-12)
    with torch.no_grad():
        p.lora_A.normal_()
        p.lora_B.normal_()
    expected = base + 0.7 * ((left + p.lora_B) @ (right + p.lora_A) - left @ right)
    agree(p.effective(base, 0.7).detach(), expected.detach(), 1e-12)


def test_what_cannot_start_is_named():
    with pytest.raises(ValueError, match="start must be pissa, olora, milora, got 'lora'"):
        PiSSA(9, 7, rank=2, start="lora")
    low = torch.outer(torch.randn(9), torch.randn(7)).double() * 0
    with pytest.raises(ValueError, match="start pissa finds only zeros in W0"):
        PiSSA(9, 7, rank=2).for_base(low)
