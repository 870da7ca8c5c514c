"""LoRAXS is the paper's formula, written out; its sides follow W0."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch

from zoo.layers.linear import ZooLinear
from zoo.parameterizations import LoRAXS
from zoo.testing import OfBaseTestCase, agree


class TestLoRAXS(OfBaseTestCase):
    parameterization = LoRAXS
    arguments: ClassVar = {"rank": 1}


class TestLoRAXSOfRankFour(OfBaseTestCase):
    parameterization = LoRAXS
    arguments: ClassVar = {"rank": 4}
    shapes = ((16, 16), (8, 24), (24, 8), (13, 7))


@pytest.mark.parametrize("shape", [(12, 12), (21, 8), (6, 22)])
def test_it_is_r_between_singular_vectors(shape):
    """W' = W0 + s U_r S_r R V_r^T; with R = diag, singular values grow by their shares."""
    base = torch.randn(shape).double()
    u, s, vh = torch.linalg.svd(base, full_matrices=False)
    p = LoRAXS(*shape, rank=3).double()
    with torch.no_grad():
        p.lora_R.copy_(torch.diag(torch.tensor([0.5, 0.2, 0.1])))
    found = torch.linalg.svdvals(p.effective(base).detach())
    expected = s.clone()
    expected[:3] *= 1 + torch.tensor([0.5, 0.2, 0.1]).double()
    agree(found, expected, 1e-12)
    torch.nn.init.normal_(p.lora_R)
    update = (p.effective(base, 0.7) - base).detach()
    sign = vh.gather(1, vh.abs().argmax(1, keepdim=True)).sign()[:3]
    left, right = u[:, :3] * s[:3] * sign.mT, vh[:3] * sign
    agree(update, 0.7 * left @ p.lora_R.detach() @ right, 1e-12)
    assert p.num_trainable == 9


def test_sides_follow_w0(monkeypatch):
    """They are computed once, and again for another W0 or one that was written to."""
    base, calls = torch.randn(8, 6), []
    p = LoRAXS(8, 6, rank=2)
    computed = p.compute_sides
    monkeypatch.setattr(LoRAXS, "compute_sides", lambda _, w: calls.append(1) or computed(w))
    layer = ZooLinear(p, None, base.clone())
    for _ in range(3):
        layer(torch.randn(2, 6))
    assert len(calls) == 1
    with torch.no_grad():
        layer.base.mul_(2)
    layer(torch.randn(2, 6))
    assert len(calls) == 2
    agree(p.sides(layer.base)[0], 2 * LoRAXS(8, 6, rank=2).sides(base)[0], 1e-6)


def test_no_copy_has_them_and_the_fingerprint_tells_another_w0():
    base = torch.randn(8, 6)
    p = LoRAXS(8, 6, rank=2).for_base(base)
    with torch.no_grad():
        p.lora_R.normal_()
    for q in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert q._held is None
        agree(q.effective(base), p.effective(base), 0.0)
        assert q.fingerprint() == p.fingerprint()
    assert LoRAXS(8, 6, rank=2).for_base(2 * base).fingerprint() != p.fingerprint()
