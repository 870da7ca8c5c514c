"""`torch.compile` takes a whole network in one graph, whatever its parameterization."""

import functools

import pytest
import torch
from every import OF_EACH_KIND, factories, thinned
from torch import nn

from tasks.char_lm.model import GPT
from zoo.bases import cosine
from zoo.layers.batched import build_together
from zoo.layers.convert import convert
from zoo.parameterizations import BlockDCT
from zoo.testing import agree

EVERY = factories(BlockDCT={"ratio": 0.1})
FACTORIES = {
    **{name: EVERY[name] for name in (*OF_EACH_KIND, "Circulant", "Kronecker", "LoHa", "Sum")},
    "many": functools.partial(BlockDCT, ratio=0.9),
}
"""The conformance suite compiles each class by itself, and these stand in networks."""


@pytest.mark.parametrize("kind", thinned(FACTORIES, "BlockDCT".__eq__))
def test_compiled_layers_have_no_graph_break(kind, monkeypatch):
    """compile(net)(x) = net(x) and so with gradients, with fullgraph=True, in eval mode too."""
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
    torch.manual_seed(0)
    net = convert(
        nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), FACTORIES[kind], ["*"]
    )
    compare(net, torch.randn(5, 8))
    with torch.no_grad():
        x = torch.randn(5, 8)
        agree(torch.compile(net.eval(), fullgraph=True, backend="aot_eager")(x), net(x), 1e-5)


# torch.compile looks, and says so.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_network_takes_weights_that_are_built_together():
    torch.manual_seed(0)
    net = convert(GPT(11, 8, 2, 16, 2), FACTORIES["DCT"], ["blocks.*"])
    build_together(net)
    assert net._forward_pre_hooks
    compare(net, torch.arange(16).view(2, 8) % 11)


def compare(net: nn.Module, x: torch.Tensor) -> None:
    torch._dynamo.reset()
    results = []
    for run in (torch.compile(net, fullgraph=True, backend="aot_eager"), net):
        net.zero_grad()
        y = run(x)
        y.square().mean().backward()
        results.append((y.detach(), [p.grad.clone() for p in net.parameters()]))
    (compiled, compiled_grads), (eager, grads) = results
    agree(compiled, eager, 1e-5)
    for a, b in zip(compiled_grads, grads, strict=True):
        agree(a, b, 1e-4)
