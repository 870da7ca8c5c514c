"""Small networks with layers that zoo parameterized, as somebody's own code has them."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.layers.convert import ParameterizationFactory, convert
from zoo.layers.swap import swap
from zoo.parameterizations import DCT


class Block(nn.Module):
    """Two linear layers, of which one may lack its bias, and a norm that nobody converts."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.out(torch.tanh(self.value(self.query(x)))))


class Net(nn.Module):
    """Some blocks, and a head."""

    def __init__(self, blocks: int = 2, width: int = 12, bias: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, bias) for _ in range(blocks))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


def disturb(network: nn.Module, size: float = 0.1) -> nn.Module:
    """Change whatever is trained, in place of training."""
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn_like(p))
    return network


HALF = functools.partial(DCT, ratio=0.5)


def adapted(
    factory: ParameterizationFactory = HALF,
    make: Callable[[], nn.Module] = Net,
    start: Any = "update",
    targets: tuple[str, ...] = ("query", "value"),
    **settings: Any,
) -> nn.Module:
    """A network with coefficients that are not 0, and nothing else to train."""
    network = make().requires_grad_(False)
    return disturb(convert(network, factory, list(targets), start=start, **settings))


def state_of(network: nn.Module) -> dict[str, Any]:
    """All that must be the same when a network is given back: numbers, flags, hooks and objects."""
    return {
        "state": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "parameters": [(id(p), p.requires_grad, p.dtype) for p in network.parameters()],
        "modules": [(name, id(m), m.training) for name, m in network.named_modules()],
        "hooks": [len(m._forward_hooks) for m in network.modules()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["state"].keys() == after["state"].keys()
    for name, tensor in before["state"].items():
        assert torch.equal(tensor, after["state"][name]), name
    assert {**before, "state": 0} == {**after, "state": 0}


class Int8(nn.Module):
    """A linear layer of another library, whose weight is no matrix of numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_features = self.out_features = width
        self.register_buffer("weight", torch.randint(-99, 99, (width, width), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.to(x.dtype) / 200).mT


class Kinds(nn.Module):
    """An embedding with padding, convolutions, one of them grouped, and layers of two libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.grouped = nn.Conv1d(8, 12, 3, padding=1, groups=2)
        self.image = nn.Conv2d(1, 4, (3, 2))
        self.foreign = Int8(12)
        self.head = nn.Linear(12, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.foreign(self.grouped(self.embedding(ids).mT).mT)
        x = x + self.image(x[:, None]).mean((1, 2, 3))[:, None, None]
        return self.head(x)


IDS = torch.arange(24).view(2, 12) % 11


def of_kinds(factory: ParameterizationFactory = HALF, start: Any = "update") -> nn.Module:
    """A network of all kinds of layers, each with a map, where the foreign one can have one."""
    network = Kinds().requires_grad_(False)
    names = ["embedding", "grouped", "image", "head", *["foreign"] * (start == "update")]
    return disturb(swap(network, dict.fromkeys(names, factory), start=start))
