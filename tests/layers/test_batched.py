"""Weights built as one batch are those that each layer builds for itself, and so are their
gradients.
"""

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tasks.char_lm.model import GPT
from zoo.bases import cosine
from zoo.layers.batched import batches, build_together
from zoo.layers.convert import convert, zoo_layers
from zoo.parameterizations import DCT, BlockDCT, RandomOrthonormal, RowDCT, Zigzag
from zoo.testing import agree

FACTORIES = {
    "dct": functools.partial(DCT, ratio=0.3),
    "rows": functools.partial(RowDCT, ratio=0.3),
    "random": functools.partial(RandomOrthonormal, ratio=0.3),
    "blocks": functools.partial(BlockDCT, ratio=0.3),
    "few": functools.partial(BlockDCT, ratio=0.03, block=16),
    "zigzag": functools.partial(Zigzag, ratio=0.3),
}


def network(factory=FACTORIES["dct"], **options) -> nn.Module:
    torch.manual_seed(0)
    return convert(GPT(11, 8, 2, 16, 2), factory, ["blocks.*"], **options)


def gradients(net: nn.Module, mixed: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    net.zero_grad()
    ids = torch.arange(24).view(3, 8) % 11
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = F.cross_entropy(net(ids).flatten(0, 1).float(), ids.flatten())
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("fft", [False, True])
@pytest.mark.parametrize("kind", FACTORIES)
def test_together_is_each_alone(kind, fft, monkeypatch):
    """W_i = weight(c_i) and dL/dc_i, for all i, to rounding."""
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0 if fft else 10**9)
    net = network(FACTORIES[kind])
    loss, alone = gradients(net)
    build_together(net)
    calls = count_batches(monkeypatch)
    again, together = gradients(net)
    assert sorted(calls) == [2, 2, 2, 2]  # two blocks of four shapes
    agree(again, loss, 1e-6)
    assert together.keys() == alone.keys()
    largest = max(grad.abs().max().item() for grad in alone.values())
    for name, grad in alone.items():  # that of a key's bias is 0, but for roundings of the others
        error = (together[name] - grad).abs().max().item()
        assert error <= 1e-5 * max(grad.abs().max().item(), 1e-3 * largest), name


def count_batches(monkeypatch) -> list[int]:
    calls = []

    def counted(maps):
        groups = batches(maps)
        calls.extend(map(len, groups))
        return groups

    monkeypatch.setattr("zoo.layers.batched.batches", counted)
    return calls


def test_under_autocast_the_product_sees_the_same_low_precision_weight():
    net = network()
    loss, alone = gradients(net, mixed=True)
    build_together(net)
    again, together = gradients(net, mixed=True)
    agree(again, loss, 1e-6)
    for name, grad in alone.items():
        agree(together[name], grad, 1e-2)


def test_layers_of_other_shapes_seeds_and_recomputed_ones_stay_alone():
    a, b = DCT(8, 6, ratio=0.5), DCT(8, 6, ratio=0.25, selection="zigzag")
    c, d = RandomOrthonormal(8, 6, ratio=0.5), RandomOrthonormal(8, 6, ratio=0.5, seed=1)
    assert batches([a, b, c, d, DCT(6, 8, ratio=0.5)]) == [[a, b]]
    net = network(recompute=True)
    build_together(net)
    assert not net._forward_pre_hooks
    wide = [BlockDCT(1024, 1024, ratio=0.1) for _ in range(2)]  # multiplied without W
    assert batches(wide) == []


def test_a_weight_serves_one_forward_pass():
    """After it, and after one that failed, W is what the coefficients say."""
    net = network()
    build_together(net)
    layer = next(iter(zoo_layers(net).values()))
    gradients(net)
    with pytest.raises(IndexError):
        net(torch.full((1, 8), 11))
    before = layer.parameterization.weight().detach()
    with torch.no_grad():
        layer.parameterization.coef.mul_(2)
    agree(layer.parameterization.weight(), 2 * before, 1e-6)


def test_eval_mode_and_no_grad_build_nothing_ahead(monkeypatch):
    net = network()
    build_together(net)
    monkeypatch.setattr("zoo.layers.batched._Together.apply", None)
    net.eval()(torch.zeros(1, 8, dtype=torch.long))
    with torch.no_grad():
        net.train()(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(TypeError):
        net(torch.zeros(1, 8, dtype=torch.long))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_builds_its_own(again):
    net = network()
    build_together(net)
    other = again(net)
    with torch.no_grad():
        for layer in zoo_layers(net).values():
            layer.parameterization.coef.zero_()
    assert gradients(other)[0] != gradients(net)[0]
    agree(gradients(other)[0], gradients(network())[0], 1e-6)


def test_checkpointed_parts_build_their_own_weights_again():
    net = network()
    expected = gradients(net)
    build_together(net)
    for block in net.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    loss, together = gradients(net)
    agree(loss, expected[0], 1e-6)
    for name, grad in expected[1].items():
        agree(together[name], grad, 1e-5)
