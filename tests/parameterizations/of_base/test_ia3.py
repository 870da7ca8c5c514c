"""IA3 is peft's with the same numbers in, where there is no bias."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import IA3
from zoo.testing import OfBaseTestCase, agree


class TestIA3(OfBaseTestCase):
    parameterization = IA3


class TestIA3OfInputs(OfBaseTestCase):
    parameterization = IA3
    arguments: ClassVar = {"side": "in"}


@pytest.mark.parametrize("side", ["out", "in"])
def test_ia3_is_pefts(side):
    peft = pytest.importorskip("peft")
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 22, bias=side == "in")}).double()
    feedforward = ["a"] if side == "in" else []
    config = peft.IA3Config(target_modules=["a"], feedforward_modules=feedforward)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    torch.nn.init.normal_(layer.ia3_l["default"])
    p = IA3(22, 6, side=side).double()
    with torch.no_grad():
        p.ia3_d.copy_(layer.ia3_l["default"].flatten() - 1)
    x = torch.randn(5, 6, dtype=torch.float64)
    base, bias = layer.base_layer.weight.detach(), layer.base_layer.bias
    y = p.forward_update(x, base, None if bias is None else bias.detach())
    agree(y.detach(), layer(x).detach(), 1e-12)
    assert p.num_trainable == layer.ia3_l["default"].numel()


def test_another_side_is_named():
    with pytest.raises(ValueError, match="side must be out or in, got 'both'"):
        IA3(4, 5, side="both")
