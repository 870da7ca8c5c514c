"""Hashed weights against loops from the paper's formula, and against peft's Uni-LoRA."""

from typing import ClassVar

import pytest
import torch

from zoo.parameterizations import Hashed
from zoo.testing import IsometryTestCase, agree

SHAPES = [(12, 12), (24, 10), (10, 24), (1, 7)]


class TestHashed(IsometryTestCase):
    parameterization = Hashed
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.03


def buckets_and_signs(p):
    return p.values.long() % len(p.coef), 1 - 2 * (p.values.long() // len(p.coef))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 1.0])
def test_every_weight_is_a_signed_share_of_its_bucket(shape, share):
    """W_ij = s_ij c_h / sqrt(N_h), written out; the buckets are balanced, whatever K is."""
    size = shape[0] * shape[1]
    p = Hashed(*shape, coefficients=max(1, int(share * size))).double().for_layer("a")
    hashes, signs = (t.view(shape) for t in buckets_and_signs(p))
    members = torch.zeros(len(p.coef), dtype=torch.float64)
    for k in hashes.flatten().tolist():
        members[k] += 1
    assert members.min() >= 1 and members.max() - members.min() <= 1
    wanted = torch.zeros(shape, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            k = hashes[i, j]
            wanted[i, j] = signs[i, j] * p.coef[k].item() / members[k].sqrt()
    agree(p.weight(), wanted, 1e-12)


def test_signs_and_buckets_are_drawn():
    """Half of the signs are -1, neighbours share no bucket, and layers and seeds differ."""
    p = Hashed(64, 48, ratio=0.1).for_layer("a")
    hashes, signs = buckets_and_signs(p)
    assert abs(signs.double().mean()) < 0.08 and (hashes[1:] == hashes[:-1]).double().mean() < 0.02
    for other in (Hashed(64, 48, ratio=0.1), Hashed(64, 48, ratio=0.1, seed=1).for_layer("a")):
        assert (other.values == p.values).double().mean() < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_a_projection_is_the_signed_mean_of_each_bucket(shape):
    """As numpy's least squares has it over the matrices of all coefficients."""
    p, target = Hashed(*shape, ratio=0.4).double(), torch.randn(shape, dtype=torch.float64)
    p.project_(target)
    units = torch.eye(len(p.coef), dtype=torch.float64)
    atoms = torch.stack([p.expand(unit).flatten() for unit in units], 1)
    best = torch.linalg.lstsq(atoms, target.flatten()).solution
    agree(p.coef.detach(), best, 1e-9)
    hashes, signs = buckets_and_signs(p)
    signed = target.flatten() * signs
    for k in range(len(p.coef)):
        mean = signed[hashes == k].mean()
        agree((p.weight().flatten() * signs)[hashes == k], mean.expand((hashes == k).sum()), 1e-9)


def test_a_count_out_of_range_says_what_would_work():
    with pytest.raises(ValueError, match=r"coefficients must lie in \[1, 48\].*got 49"):
        Hashed(8, 6, coefficients=49)
    with pytest.raises(ValueError, match=r"ratio must be at least 0.0209 .*got 0.001"):
        Hashed(8, 6, ratio=0.001)


def test_the_index_takes_four_bytes_a_weight():
    p = Hashed(8, 6, ratio=0.5)
    assert p.values.dtype == torch.int32 and p.values.numel() == 48


@pytest.mark.parametrize("shape", [(12, 12), (10, 24), (24, 10)])
def test_the_factors_of_uni_lora(shape):
    """peft's A and B are a `Hashed` row of r (m + n) weights with its buckets and no signs.

    Same vector, same buckets: the same A and B, the same dW = B A, and as many numbers.
    """
    peft = pytest.importorskip("peft")
    (m, n), rank, count = shape, 2, 13
    net = torch.nn.Sequential(torch.nn.Linear(n, m, bias=False)).double()
    config = peft.UniLoraConfig(
        r=rank, theta_d_length=count, target_modules=["0"], save_indices=True
    )
    theirs = peft.get_peft_model(net, config, autocast_adapter_dtype=False)
    layer = theirs.base_model.model[0]
    theta = layer.unilora_theta_d["default"]
    theta.data = torch.randn(count, dtype=torch.float64)
    ours = Hashed(1, rank * (m + n), coefficients=count).double()
    indices = [layer.unilora_indices_A["default"], layer.unilora_indices_B["default"]]
    buckets = torch.cat([index.flatten() for index in indices])
    members, own = buckets.bincount(minlength=count), buckets_and_signs(ours)[0]
    assert torch.equal(members.sort().values, own.bincount(minlength=count).sort().values)
    ours.values, ours.scale = buckets.int(), members.double().rsqrt()
    with torch.no_grad():
        ours.coef.copy_(theta)
    a, b = ours.weight().flatten().split([rank * n, m * rank])
    delta = layer.get_delta_weight("default").double()
    agree(b.view(m, rank) @ a.view(rank, n), delta, 1e-6)
    trained = sum(q.numel() for q in theirs.parameters() if q.requires_grad)
    assert ours.num_trainable == trained == count
