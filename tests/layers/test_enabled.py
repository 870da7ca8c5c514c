"""A layer that is not enabled is the plain one, to the bit; a routed one asks who routes."""

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.layers.convert import zoo_layers
from zoo.layers.embedding import ZooEmbedding
from zoo.layers.linear import ZooLinear
from zoo.layers.merge import merge
from zoo.layers.swap import swap
from zoo.parameterizations import DCT, Dense, DoRA, LoRA
from zoo.testing import agree
from zoo.testing.kinds import Quantized

MAPS = {
    "DCT": functools.partial(DCT, ratio=0.5),
    "DoRA": functools.partial(DoRA, rank=2),
    "LoRA": functools.partial(LoRA, rank=2),
}


def conv1d(m: int, n: int) -> nn.Module:
    layer: nn.Module = pytest.importorskip("transformers.pytorch_utils").Conv1D(m, n)
    return layer


def falcon(m: int, n: int) -> nn.Module:
    models = pytest.importorskip("transformers.models.falcon.modeling_falcon")
    layer: nn.Module = models.FalconLinear(n, m)
    return layer


ROWS = (2, 5, 16)
LAYERS = {
    "linear": lambda: (nn.Linear(16, 24), torch.randn(ROWS)),
    "no bias": lambda: (nn.Linear(16, 24, bias=False), torch.randn(ROWS)),
    "Conv1D": lambda: (conv1d(24, 16), torch.randn(ROWS)),
    "FalconLinear": lambda: (falcon(24, 16), torch.randn(ROWS)),
    "convolution": lambda: (nn.Conv2d(4, 8, 3, padding=1, groups=2), torch.randn(2, 4, 6, 6)),
    "embedding": lambda: (nn.Embedding(24, 16, padding_idx=3), torch.arange(24).view(2, 12)),
    "foreign": lambda: (Quantized(24, 16, bias=True), torch.randn(ROWS)),
}


def moved(plain: nn.Module, kind: str, **settings: Any) -> Any:
    """A layer in the place of a copy of a plain one, with an update that is not 0."""
    layer: Any = swap(copy.deepcopy(plain), {"": MAPS[kind]}, start="update", **settings)
    with torch.no_grad():
        for p in layer.parameterization.parameters():
            p.add_(torch.randn_like(p))
    return layer


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", LAYERS)
def test_disabled_is_the_plain_layer_to_the_bit(name, kind):
    """In training and eval mode, with a kept weight and one built ahead, in every precision."""
    plain, x = LAYERS[name]()
    for settings in ({}, {"recompute": True}):
        layer = moved(plain, kind, scale=0.7, **settings)
        for training in (True, False):
            for amp in (False, True):
                plain.train(training), layer.train(training)
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    y = layer(x)
                    layer.hand_over(torch.zeros(layer.parameterization.shape))
                    layer.enabled = False
                    assert torch.equal(layer(x), plain(x))
                    layer.hand_over(None)
                    assert torch.equal(layer(x), plain(x)) and not torch.equal(layer(x), y)
                    layer.enabled = True
                    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("name", LAYERS)
def test_disabled_in_low_precision(name):
    plain, x = LAYERS[name]()
    plain = plain.bfloat16()
    x = x.bfloat16() if x.is_floating_point() else x
    layer = moved(plain, "DCT")
    layer.enabled = False
    y = layer(x)
    assert torch.equal(y, plain(x)) and y.dtype == plain(x).dtype


@pytest.mark.parametrize("name", LAYERS)
def test_disabled_has_no_update(name):
    """update() = 0 and effective_weight() = W0; merged it is the plain layer."""
    plain, x = LAYERS[name]()
    for kind in MAPS:
        layer = moved(plain, kind)
        assert layer.update().abs().max() > 0
        layer.enabled = False
        assert not layer.update().any() and torch.equal(layer.effective_weight(), layer.base)
        assert layer.update().shape == layer.parameterization.shape
        agree(merge(layer)(x).detach(), plain(x).detach(), 0.0 if name != "foreign" else 1e-5)
        assert "enabled=False" in repr(layer)
        assert not copy.deepcopy(layer).enabled


@pytest.mark.parametrize("name", ["linear", "convolution", "embedding", "foreign"])
def test_disabled_compiled(name):
    """A compiled layer follows the switch."""
    plain, x = LAYERS[name]()
    layer = moved(plain, "DCT")
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for training in (True, False):
        layer.train(training), plain.train(training)
        y = layer(x).detach()
        agree(compiled(x).detach(), y, 1e-6)
        layer.enabled = False
        assert torch.equal(compiled(x), plain(x))
        layer.enabled = True
        agree(compiled(x).detach(), y, 1e-6)


def test_gradients_pass_a_disabled_layer_and_leave_its_map():
    layer, x = moved(nn.Linear(16, 24), "DCT"), torch.randn(3, 16, requires_grad=True)
    layer.enabled = False
    layer(x).sum().backward()
    agree(x.grad, layer.base.sum(0).expand(3, 16), 1e-5)
    assert layer.parameterization.coef.grad is None


def test_a_weight_view_of_a_disabled_layer_is_its_base():
    layer = moved(nn.Linear(16, 24), "DCT")
    assert not torch.equal(layer.weight.clone(), layer.base)
    layer.enabled = False
    assert torch.equal(layer.weight.clone(), layer.base)


@pytest.mark.parametrize("layer", [ZooLinear(Dense(4, 6)), ZooEmbedding(Dense(4, 6))])
def test_a_layer_from_scratch_cannot_be_disabled(layer):
    with pytest.raises(ValueError, match="a layer without a base"):
        layer.enabled = False
    assert layer.enabled


def test_a_kept_weight_is_right_after_a_change_while_disabled():
    layer, x = moved(nn.Linear(16, 24), "DCT").eval(), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        layer.enabled = False
        layer.parameterization.coef.add_(1)
        layer(x)
        layer.enabled = True
        after = layer(x)
        agree(after, x @ layer.effective_weight().mT + layer.bias, 1e-5)
    assert (after - before).abs().max() > 1e-3


# ---- Other maps than a layer's own ---------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_product_is_with_the_map_that_is_given(name):
    """product(x, space, s) = the plain layer with W0 + s W of that map, kept or built or not."""
    plain, x = LAYERS[name]()
    for kind in MAPS:
        layer, other = moved(plain, "DCT", scale=0.3), moved(plain, kind, scale=0.7)
        for training in (True, False):
            layer.train(training), other.train(training)
            with torch.no_grad():
                layer(x)
                y = layer.product(x, other.parameterization, 0.7)
                agree(y, other(x), 1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_route_is_asked_for_every_pass(name):
    """Each half of a batch goes through a map of its own, or through none."""
    plain, x = LAYERS[name]()
    layer, other = moved(plain, "DCT"), moved(plain, "LoRA")

    def by_halves(routed: Any, rows: Tensor) -> Tensor:
        first, second = rows.split(math.ceil(len(rows) / 2))
        own = routed.product(first, other.parameterization, 1.0)
        return torch.cat([own, routed.base_product(second)])

    for training in (True, False):
        layer.train(training)
        y = layer(x)
        layer.route = by_halves
        found = layer(x)
        agree(found[:1], other.train(training)(x)[:1], 1e-5)
        agree(found[1:], plain(x)[1:], 1e-5)
        layer.enabled = False
        assert torch.equal(layer(x), plain(x))
        layer.enabled, layer.route = True, None
        assert torch.equal(layer(x), y)


def test_what_is_found_in_a_network_can_be_switched():
    net = swap(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), {"0": Dense}, start="update")
    (layer,) = zoo_layers(net).values()
    layer.enabled = False
    assert not layer.enabled and net.eval()[0].enabled is False
