"""Layers where a network is used in other ways than by itself, or is more than its modules."""

import copy
import functools
import warnings

import pytest
import torch
from test_replaced_layers import replicated
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, grad, vmap

from zoo.errors import UserError
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.swap import swap
from zoo.parameterizations import DCT, DoRA, LoRA
from zoo.testing import agree

HALF = functools.partial(DCT, ratio=0.5)
MAPS = {
    "DCT": HALF,
    "DoRA": functools.partial(DoRA, rank=2),
    "LoRA": functools.partial(LoRA, rank=2),
}
KINDS = [*((kind, "update") for kind in MAPS), ("DCT", "random"), ("LoRA", "random")]
INDEX = torch.arange(10).view(2, 5)


class Network(nn.Module):
    """A layer of each kind, and one that is read."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 8, padding_idx=0)
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 4)

    def forward(self, index: Tensor) -> Tensor:
        x = self.tokens(index).to(self.mix.weight.dtype)
        return self.head(self.mix(x.mT).mT.tanh()) + self.tokens.weight[1].sum()


def network(kind: str, start: str) -> nn.Module:
    torch.manual_seed(0)
    net = swap(Network(), dict.fromkeys(("tokens", "mix", "head"), MAPS[kind]), start=start)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


# ---- Other ways to call a network ----------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "start"), KINDS)
def test_replicas_of_data_parallel_compute_the_same(kind, start, training):
    net = network(kind, start).train(training)
    trained = [p for p in net.parameters() if p.requires_grad]
    expected, actual = net(INDEX), replicated(net)(INDEX)
    agree(actual.detach(), expected.detach(), 1e-5)
    for a, b in zip(
        torch.autograd.grad(actual.square().sum(), trained),
        torch.autograd.grad(expected.square().sum(), trained),
        strict=True,
    ):
        agree(a, b, 1e-5)


@pytest.mark.parametrize(("kind", "start"), KINDS)
def test_gradients_of_each_example(kind, start):
    """vmap(grad) of a loss is what each example's own backward gives."""
    net = network(kind, start)
    values = {name: p for name, p in net.named_parameters() if p.requires_grad}

    def loss(values: dict[str, Tensor], index: Tensor) -> Tensor:
        return functional_call(net, values, (index[None],)).square().sum()

    for training in (True, False):
        net.train(training)
        found = vmap(grad(loss), in_dims=(None, 0))(values, INDEX)
        for i, index in enumerate(INDEX):
            alone = torch.autograd.grad(net(index[None]).square().sum(), list(values.values()))
            for (name, actual), wanted in zip(found.items(), alone, strict=True):
                agree(actual[i], wanted, 1e-4, name)


@pytest.mark.parametrize(("kind", "start"), KINDS)
def test_exported_and_compiled_networks_are_the_same(kind, start):
    net = network(kind, start)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for training in (True, False):
        y = net.train(training)(INDEX).detach()
        agree(compiled(INDEX).detach(), y, 1e-5)
        batch = torch.export.Dim("batch")
        program = torch.export.export(net, (INDEX,), dynamic_shapes={"index": {0: batch}})
        agree(program.module()(INDEX).detach(), y, 1e-5)


@pytest.mark.parametrize(("kind", "start"), KINDS)
def test_a_network_leaves_the_meta_device(kind, start):
    net = network(kind, start)
    with torch.device("meta"):
        empty = swap(Network(), dict.fromkeys(("tokens", "mix", "head"), MAPS[kind]), start=start)
        assert empty(INDEX.to("meta")).shape == (2, 5, 4)
    other = copy.deepcopy(empty).to_empty(device="cpu")
    other.load_state_dict(net.state_dict())
    empty.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
    for found in (other, empty):
        agree(found(INDEX).detach(), net(INDEX).detach(), 1e-6)


@pytest.mark.parametrize(("kind", "start"), KINDS)
def test_shards_of_fsdp_compute_the_same(kind, start, tmp_path):
    """FSDP2 asks for the weight by its name as it puts shards back, and gets its own."""
    net = network(kind, start)
    y = net(INDEX)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(y.square().sum(), list(trained.values()))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for part in (net.mix, net.head, net):
            fully_shard(part, mesh=mesh)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of views that a module returns
            found = net(INDEX)
            agree(found.detach(), y.detach(), 1e-5)
            found.square().sum().backward()
            for (name, p), wanted in zip(
                ((n, p) for n, p in net.named_parameters() if p.requires_grad), grads, strict=True
            ):
                agree(p.grad.full_tensor(), wanted, 1e-5, name)
            with torch.no_grad():
                agree(net.eval()(INDEX), y.detach(), 1e-5)
    finally:
        torch.distributed.destroy_process_group()


# ---- Layers that are held where no module is registered ------------------------------------------


def held(kind):
    """A network that calls its layer through something that is no module."""
    network = nn.Module()
    network.first, network.second = nn.Linear(6, 6), nn.Linear(6, 6)
    if kind == "compiled":
        network.first = torch.compile(network.first, backend="eager")
        return network
    first = network.first
    network.calls = {
        "list": [nn.ReLU(), first],
        "dictionary": {"a": {"b": first}},
        "tuple": ((first,),),
        "method": first.forward,
        "another method": [first.__call__],
        "set": {first},
    }[kind]
    return network


@pytest.mark.parametrize(
    "kind", ["list", "dictionary", "tuple", "method", "another method", "set", "compiled"]
)
def test_a_layer_that_is_elsewhere_too_is_refused(kind):
    """It would stay there as it is, and its update be ignored."""
    network = held(kind)
    with pytest.raises(
        UserError, match=r"first.* is in .*(calls|_callable) too, .*: leave it out of the targets"
    ):
        convert(network, HALF, ["*"])
    assert not zoo_layers(network)
    assert list(zoo_layers(convert(network, HALF, ["second"]))) == ["second"]
