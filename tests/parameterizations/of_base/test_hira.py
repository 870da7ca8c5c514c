"""HiRA is peft's with the same numbers in."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import HiRA
from zoo.testing import OfBaseTestCase, agree


class TestHiRA(OfBaseTestCase):
    parameterization = HiRA
    arguments: ClassVar = {"rank": 1}


@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_hira_is_pefts(shape):
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m)}).double()
    config = peft.HiraConfig(r=4, target_modules=["a"])
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    torch.nn.init.normal_(layer.hira_B["default"])
    p = HiRA(m, n, rank=4).double()
    with torch.no_grad():
        p.lora_A.copy_(layer.hira_A["default"])
        p.lora_B.copy_(layer.hira_B["default"])
    base, bias = layer.base_layer.weight.detach(), layer.base_layer.bias.detach()
    x = torch.randn(5, n, dtype=torch.float64)
    agree(p.forward_update(x, base, bias).detach(), layer(x).detach(), 1e-12)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 4 * (m + n)


def test_an_update_is_nothing_where_w0_is():
    p, base = HiRA(9, 6, rank=2).double(), torch.randn(9, 6).double()
    base[:, 2] = 0
    with torch.no_grad():
        p.lora_B.normal_()
    update = (p.effective(base) - base).detach()
    assert not update[:, 2].any() and torch.linalg.matrix_rank(update) == 5
