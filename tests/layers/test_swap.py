"""Layers are swapped by exact names, all or none; merged or given back, one at a time."""

import copy
import functools
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.batched import build_together
from zoo.layers.convert import convert, counts, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.layers.linear import ZooLinear
from zoo.layers.merge import merge, restore
from zoo.layers.swap import check_swap, swap, swappable
from zoo.parameterizations import DCT, Dense, DoRA, LoRA, WeightParameterization
from zoo.testing import agree
from zoo.testing.kinds import Quantized

HALF = functools.partial(DCT, ratio=0.5)
NOT_SENT = "_ddp_params_and_buffers_to_ignore"


class Net(nn.Module):
    """A layer of each kind, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 8)
        self.mix = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), Quantized(8, 8, True)])
        self.again = self.blocks[0]
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 10, bias=False)

    def forward(self, index: Tensor) -> Tensor:
        x = self.mix(self.tokens(index).mT).mT
        for block in (*self.blocks, self.again):
            x = x + block(self.norm(x)).tanh()
        return self.head(x)


NAMES = ["tokens", "mix", "blocks.0", "blocks.1", "head"]
INDEX = torch.arange(10).view(2, 5)


def stirred(net: Any) -> Any:
    """The network, with coefficients some way from their start."""
    with torch.no_grad():
        for layer in zoo_layers(net).values():
            for p in layer.parameterization.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return net


def test_what_can_be_swapped():
    """By name, kind and shape of the matrix; nothing within a layer that has been."""

    class Inner(WeightParameterization):
        def __init__(self, m: int, n: int) -> None:
            super().__init__(m, n)
            self.inner = nn.Linear(n, m, bias=False)

        def weight(self) -> Tensor:
            return self.inner.weight

        def reset_parameters(self, std: float) -> None:
            nn.init.zeros_(self.inner.weight)

        def project_(self, target: Tensor) -> None: ...

    net = Net()
    wanted = {
        "tokens": ("embedding", (10, 8)),
        "mix": ("conv", (8, 12)),
        "blocks.0": ("linear", (8, 8)),
        "blocks.1": ("linear", (8, 8)),
        "head": ("linear", (10, 8)),
    }
    assert {name: found[1:] for name, found in swappable(net).items()} == wanted
    assert all(found.module is net.get_submodule(name) for name, found in swappable(net).items())
    swap(net, {"blocks.0": Inner, "mix": HALF}, start="update")
    assert {name: found[1:] for name, found in swappable(net).items()} == wanted
    swap(net, {"head": Inner})
    assert "head" not in swappable(net) and len(swappable(net)) == 4


def test_every_kind_at_once():
    net = Net()
    y, dense = net(INDEX).detach(), counts(net)["total"]
    assert swap(net, dict.fromkeys(NAMES, HALF), start="update") is net
    assert list(zoo_layers(net)) == NAMES and net.again is net.blocks[0]
    agree(net(INDEX).detach(), y, 1e-5)
    assert (
        counts(net)["total"] == dense + 64
    )  # the numbers of the quantized layer are no parameters
    assert {type(layer.parameterization) for layer in zoo_layers(net).values()} == {DCT}
    assert all(layer.parameterization.layer == name for name, layer in zoo_layers(net).items())


def test_the_order_of_names_does_not_matter():
    """What is drawn follows the network."""
    nets = []
    for names in (NAMES, NAMES[::-1]):
        torch.manual_seed(0)
        nets.append(
            swap(Net(), dict.fromkeys(names, functools.partial(LoRA, rank=2)), start="update")
        )
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


WRONG = {
    "a shape": (
        {"head": functools.partial(LoRA, rank=9)},
        r"^head: LoRA rank must lie in \[1, 8\]",
    ),
    "a name": (
        {"heads": HALF},
        r"^there is no layer 'heads'; there are: tokens, mix, blocks.0, blocks.1, head",
    ),
    "another name of a layer": ({"again": HALF}, "^there is no layer 'again'"),
    "no layer": ({"norm": HALF}, "^norm is a .*LayerNorm, which is no linear, convolutional or"),
    "a dropout": (
        {"mix": functools.partial(LoRA, rank=2, dropout=0.5)},
        "^mix: LoRA has a dropout, which a convolution has no rows of x for: set it to 0",
    ),
    "an error": ({"head": lambda m, n: 1 / 0}, "^head: .* cannot be made: "),
    "no s": ({"head": Dense}, "^head: Dense has no rank"),
}


def rank_of(space: Any) -> float:
    if isinstance(space, Dense):
        raise ValueError("has no rank")
    return 1.0


@pytest.mark.parametrize("what", WRONG)
def test_all_or_none(what):
    """A network in which one layer cannot be swapped is as it was, all of it."""
    net, (wrong, text) = Net(), WRONG[what]
    seen: list[Any] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, *_: seen.append(type(module)))
    y, modules = net(INDEX), dict(net.named_modules())
    passed, state = list(seen), copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=text):
        swap(net, {**dict.fromkeys(NAMES, HALF), **wrong}, start="update", scale=rank_of)
    assert dict(net.named_modules()) == modules and NOT_SENT not in vars(net)
    seen.clear()
    assert torch.equal(net(INDEX), y) and seen == passed
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_layers_that_have_been_swapped_are_refused():
    net = swap(Net(), {"head": HALF}, start="update")
    with pytest.raises(UserError, match="^head is parameterized already: leave it out"):
        swap(net, {"mix": HALF, "head": HALF}, start="update")
    assert list(zoo_layers(net)) == ["head"]


def test_a_check_changes_and_makes_nothing():
    net = Net()
    state = torch.get_rng_state()
    first, tied = check_swap(net, dict.fromkeys(NAMES, HALF), "update")
    assert first == {name: name for name in NAMES} and not tied and not zoo_layers(net)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError, match="^blocks.1 is a .*Quantized, of another library"):
        check_swap(net, dict.fromkeys(NAMES, HALF), "random")


@pytest.mark.parametrize("start", ["update", "random"])
def test_a_layer_itself(start):
    for plain in (nn.Linear(8, 4), nn.Conv2d(4, 8, 3), nn.Embedding(6, 4)):
        layer = swap(copy.deepcopy(plain), {"": HALF}, start=start)
        assert isinstance(layer, ZooLayer) and list(swappable(layer)) == [""] * (start == "update")
        assert type(merge(layer)) is type(merge(layer, copy=False)) is type(plain)


# ---- And back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [True, False])
def test_a_network_of_every_kind_is_merged(copied):
    net = stirred(swap(Net(), dict.fromkeys(NAMES, HALF), start="update"))
    y = net(INDEX).detach()
    plain = merge(net, copy=copied)
    assert (plain is net) is not copied
    assert not zoo_layers(plain) and plain.again is plain.blocks[0] and NOT_SENT not in vars(plain)
    kinds = {name: type(plain.get_submodule(name)) for name in NAMES}
    assert list(kinds.values()) == [nn.Embedding, nn.Conv1d, nn.Linear, nn.Linear, nn.Linear]
    agree(plain(INDEX).detach(), y, 1e-4)
    if copied:
        assert list(zoo_layers(net)) == NAMES and torch.equal(net(INDEX), y)


def test_merging_in_place_holds_one_weight_more_than_the_network(monkeypatch):
    """Each W0 is freed before the next layer is merged, and so are maps, with no help of gc."""
    net = stirred(
        convert(nn.Sequential(*(nn.Linear(8, 8) for _ in range(5))), HALF, ["*"], start="update")
    )
    left = [weakref.ref(t) for m in net for t in (m, m.base, m.parameterization.coef)]
    counted, merged = [], ZooLinear.merge

    def merging(layer: ZooLinear) -> nn.Module:
        counted.append(sum(reference() is not None for reference in left))
        return merged(layer)

    monkeypatch.setattr(ZooLinear, "merge", merging)
    gc.collect()
    gc.disable()
    try:
        merge(net, copy=False)
        assert counted == [15, 12, 9, 6, 3]
        assert not any(reference() is not None for reference in left)
    finally:
        gc.enable()


def test_a_merged_network_builds_no_weights_ahead():
    for copied in (True, False):
        net = convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), HALF, ["*"])
        net.register_forward_hook(lambda module, args, y: y + 1)
        build_together(net)
        x = torch.randn(3, 8)
        y = net(x).detach()
        plain = merge(net, copy=copied)
        agree(plain(x).detach(), y, 1e-5)
        assert not plain._forward_pre_hooks and len(plain._forward_hooks) == 1
        assert len(net._forward_pre_hooks) == copied


def test_what_ddp_was_told_before_stays():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    vars(net)[NOT_SENT] = ["1.running_mean"]
    convert(net, HALF, ["0"], start="update")
    assert "1.running_mean" in list(vars(net)[NOT_SENT]) and len(list(vars(net)[NOT_SENT])) > 1
    for plain in (merge(net), restore(copy.deepcopy(net), ["0"])):
        assert vars(plain)[NOT_SENT] == ["1.running_mean"]


def test_restored_layers_have_their_own_parameters():
    """W0 and the bias themselves, hooks and what was set, some of the layers or all of them."""
    net = Net()
    net.mix.tag = "mine"
    net.head.weight.requires_grad_(False)
    y, plain = net(INDEX).detach(), {name: net.get_submodule(name) for name in NAMES}
    swap(net, dict.fromkeys(NAMES, functools.partial(DoRA, rank=2)), start="update")
    stirred(net)
    bases = {name: layer.base_parameters for name, layer in zoo_layers(net).items()}
    biases = {name: layer.bias for name, layer in zoo_layers(net).items()}
    handle = net.head.register_forward_hook(lambda module, args, y: y + 1)
    assert restore(net, ["mix", "head"]) is net and net.mix.tag == "mine"
    assert list(zoo_layers(net)) == ["tokens", "blocks.0", "blocks.1"] and NOT_SENT in vars(net)
    restore(net, ["tokens", "blocks.0", "blocks.1"])
    assert not zoo_layers(net) and NOT_SENT not in vars(net) and net.again is net.blocks[0]
    for name, layer in plain.items():
        found: Any = net.get_submodule(name)
        assert type(found) is type(layer) and vars(found).keys() == vars(layer).keys()
        if name != "blocks.1":
            assert (found.weight,) == bases[name] and getattr(found, "bias", None) is biases[name]
            assert torch.equal(found.weight, layer.weight)
    assert net.blocks[1] is plain["blocks.1"]
    agree(net(INDEX).detach(), y + 1, 0.0)
    handle.remove()
    agree(net(INDEX).detach(), y, 0.0)


def test_a_restored_conv1d_is_turned_back():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    net, x = nn.Sequential(conv1d(6, 8)), torch.randn(3, 8)
    y = net(x).detach()
    convert(net, HALF, ["*"], start="update")
    memory = net[0].base.data_ptr()
    restore(net, ["0"])
    assert type(net[0]) is conv1d and net[0].weight.shape == (8, 6) and net[0].nf == 6
    assert net[0].weight.data_ptr() == memory and torch.equal(net(x), y)


def test_a_layer_from_scratch_was_no_other_one_before():
    net = convert(nn.Sequential(nn.Linear(8, 8)), HALF, ["*"])
    with pytest.raises(ValueError, match="a layer without a base was no other one before"):
        restore(net, ["0"])
    assert len(zoo_layers(net)) == 1
