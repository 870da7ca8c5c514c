"""DoRA is peft's with the same numbers in, but for what it keeps of a length."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import DoRA
from zoo.testing import OfBaseTestCase, agree


class TestDoRA(OfBaseTestCase):
    parameterization = DoRA
    arguments: ClassVar = {"rank": 1}


@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_dora_is_pefts(shape):
    """Outputs, gradients and the merged weight, with m_i = (1 + d_i) |w_i| and s = alpha / r."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m)}).double()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["a"], use_dora=True)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    base, bias = layer.base_layer.weight, layer.base_layer.bias
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    magnitude = layer.lora_magnitude_vector["default"].weight
    p = DoRA(m, n, rank=4).double()
    with torch.no_grad():
        p.lora_A.copy_(layer.lora_A["default"].weight)
        p.lora_B.copy_(layer.lora_B["default"].weight)
        p.lora_magnitude.normal_(0, 0.2)
        magnitude.copy_((1 + p.lora_magnitude) * base.norm(dim=1))
    x = torch.randn(5, n, dtype=torch.float64)
    y, expected = p.forward_update(x, base.detach(), bias.detach(), 1.5), layer(x)
    agree(y.detach(), expected.detach(), 1e-12)
    ours = torch.autograd.grad(y.tanh().sum(), [p.lora_A, p.lora_B, p.lora_magnitude])
    theirs = torch.autograd.grad(
        expected.tanh().sum(),
        [layer.lora_A["default"].weight, layer.lora_B["default"].weight, magnitude],
    )
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        agree(a, b, 1e-12)
    agree(ours[2], theirs[2] * base.norm(dim=1), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 4 * (m + n) + m
    before = base.detach().clone()
    layer.merge()
    agree(p.effective(before, 1.5).detach(), layer.base_layer.weight.detach(), 1e-12)


def test_lengths_are_those_of_w0_and_rows_of_nothing_stay():
    """|w'_i| = (1 + d_i) |w_i|, and 0 where it was."""
    p, base = DoRA(9, 6, rank=2).double(), torch.randn(9, 6).double()
    base[3] = 0
    with torch.no_grad():
        for q in p.parameters():
            q.normal_(0, 0.4)
    w = p.effective(base, 0.7).detach()
    agree(w.norm(dim=1), ((1 + p.lora_magnitude).abs() * base.norm(dim=1)).detach(), 1e-9)
    assert not w[3].any() and w.isfinite().all()
