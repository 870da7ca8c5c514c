"""W0 + s W is what the parameters say, whoever asks for it, and whenever.

What a layer keeps, or has built for a product, is no other answer.
"""

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every import factories
from torch import Tensor, nn

from zoo.layers.batched import build_together
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, WeightParameterization
from zoo.testing import agree


class Product(WeightParameterization):
    """A user's map, whose weight autocast would round."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__(m, n)
        self.left, self.right = nn.Parameter(torch.randn(m, 3)), nn.Parameter(torch.randn(3, n))

    def weight(self) -> Tensor:
        return self.left @ self.right

    def reset_parameters(self, std: float) -> None: ...

    def project_(self, target: Tensor) -> None: ...


FACTORIES = {**factories(0.4), "Product": Product}
AROUND: dict[str, Callable[[], Any]] = {
    "nothing": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def network(kind: str = "DCT") -> nn.Sequential:
    """Make two layers from scratch, whose weights are built together, and an update."""
    torch.manual_seed(0)
    maps = [FACTORIES[kind](8, 8).for_layer(name) for name in "abc"]
    for space in maps:
        space.reset_parameters(0.3)
    scratch, update = [ZooLinear(space, torch.randn(8), scale=0.7) for space in maps[:2]], maps[2]
    net = nn.Sequential(*scratch, ZooLinear(update, None, torch.randn(8, 8), scale=0.7))
    build_together(net)
    return net


def meant(layer: ZooLinear) -> Tensor:
    """W0 + s W of a copy of the parameters, with nothing around."""
    w = layer.scale * copy.deepcopy(layer.parameterization).weight().detach()
    return w if layer.base is None else layer.base.detach() + w


def unrounded(layer: ZooLinear) -> Tensor:
    """W, which a user's own class need not protect from autocast itself."""
    with torch.autocast("cpu", enabled=False):
        return layer.parameterization.weight()


def check(layer: ZooLinear, expected: Tensor) -> None:
    """Every way to ask for the weight gives the one, to the bit."""
    update = expected if layer.base is None else layer.scale * unrounded(layer)
    for given, wanted in (
        (layer.effective_weight(), expected),
        (layer.merged_weight(), expected),
        (layer.weight.clone(), expected),
        (layer.update(), update),
    ):
        assert given.dtype == wanted.dtype == torch.float32 and torch.equal(given, wanted)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", FACTORIES)
def test_effective_weight(kind, around):
    """effective_weight() = W0 + s W of the parameters as they are now, and in their dtype.

    In training and in eval mode, within a pass and outside, after a step and after a state dict.
    """
    net, x, asked = network(kind), torch.randn(3, 8), []

    def ask(*_: object) -> None:
        asked.append(len(asked))
        for layer, weight in zip(net, expected, strict=True):
            check(layer, weight)

    changes: list[Callable[[], Any]] = [
        lambda: None,
        lambda: step(net),
        lambda: net.load_state_dict({k: v + 0.5 for k, v in net.state_dict().items()}),
    ]
    for change in changes:
        change()
        expected = [meant(layer) for layer in net]
        within = net[1].register_forward_hook(ask)
        for training in (True, False):
            net.train(training)
            with AROUND[around]():
                net(x)
                ask()
        within.remove()
    assert len(asked) == 4 * len(changes)


def step(net: nn.Module) -> None:
    """One of AdamW, whose gradients come of a pass under autocast."""
    net.zero_grad()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        net.train()(torch.randn(3, 8)).float().square().sum().backward()
    before = [meant(layer) for layer in zoo_layers(net).values()]
    optimizer.step()
    after = [meant(layer) for layer in zoo_layers(net).values()]
    assert all((b - a).abs().max() > 1e-3 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["DCT", "LoRA"])
def test_effective_weight_in_a_compiled_network(kind):
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = network(kind)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inside(x), self.inside[0].effective_weight()

    net, x = Asking(), torch.randn(3, 8)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for training in (True, False):
        net.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            y, weight = compiled(x)
            agree(y.detach().float(), net(x)[0].detach().float(), 2e-2)
        assert weight.dtype == torch.float32
        agree(weight.detach(), meant(net.inside[0]), 1e-6)


def test_a_weight_that_is_handed_over_serves_products_of_its_precision_alone():
    """y = x W^T + b in float32, if a part of a network turns off the autocast of its W."""

    class Precise(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.layer(x.float())

    plain = nn.Sequential(nn.Linear(8, 8), Precise(nn.Linear(8, 8)), Precise(nn.Linear(8, 8)))
    net = convert(plain, functools.partial(DCT, ratio=0.5), ["*"])
    build_together(net)
    net[0].register_forward_hook(lambda *_: torch.full((3, 8), 0.3))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(3, 8))
    x = torch.full((3, 8), 0.3)
    for precise in net[1:]:
        x = x @ meant(precise.layer).mT + precise.layer.bias
    assert y.dtype == torch.float32
    agree(y.detach(), x.detach(), 1e-5)


def test_a_handed_weight_is_what_the_product_is_with():
    layer, x = ZooLinear(DCT(4, 6, ratio=0.5), torch.randn(4)), torch.randn(2, 6)
    other = torch.randn(4, 6)
    layer.hand_over(other)
    agree(layer(x).detach(), (x @ other.mT + layer.bias).detach(), 1e-6)
    assert torch.equal(layer.effective_weight(), meant(layer))
    assert torch.equal(copy.deepcopy(layer.requires_grad_(False))(x), layer.eval()(x))
    layer.train().hand_over(None)
    agree(layer(x).detach(), (x @ meant(layer).mT + layer.bias).detach(), 1e-6)
