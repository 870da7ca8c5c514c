"""Convolutions over a map: networks of them, what they refuse, and the ways they are used in.

What holds of each parameterization in them is in the conformance suite.
"""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every import OF_EACH_KIND, factories
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.batched import build_together
from zoo.layers.conv import ZooConv
from zoo.layers.convert import counts, table, zoo_layers
from zoo.layers.merge import merge
from zoo.layers.swap import make_map, swap, swappable
from zoo.parameterizations import DCT, Dense, DoRA, LoRA, LoRAXS, Sum
from zoo.runs.peft.writing import write
from zoo.testing import agree

HALF = functools.partial(DCT, ratio=0.5)
FACTORIES = factories(0.5, of_base=True)
KINDS = [
    *((name, start) for name in OF_EACH_KIND for start in ("update", "random")),
    *((name, "update") for name in ("DoRA", "OFT")),
]


class ConvNet(nn.Module):
    """Convolutions with norms between, one in groups, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.pointwise(F.relu(self.depthwise(x))).mean((2, 3)))


class ViT(nn.Module):
    """A vision transformer of one block, whose patches are embedded by a convolution."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Embedding(4, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT  # (N, 4, width)
        places = torch.arange(tokens.shape[1], device=x.device)
        return self.head(self.block(tokens + self.positions(places)).mean(1))


def trained(net: nn.Module, x: Tensor, steps: int = 10) -> nn.Module:
    """Train a network for some steps, to tell examples apart."""
    labels = torch.arange(len(x)) % 4
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return net


@pytest.mark.parametrize(("name", "start"), KINDS)
@pytest.mark.parametrize("make", [ConvNet, ViT])
def test_a_network_is_trained_and_merged(make, name, start):
    """merge(net)(x) = net(x) to 1e-5 after ten steps, in place and copied."""
    net, x = make(), torch.randn(8, 3, 8, 8)
    names = [layer for layer in swappable(net) if layer not in ("head", "pointwise")]
    before = net.eval()(x).detach()
    if start == "update":
        net.requires_grad_(False)
        net.head.requires_grad_(True)
    swap(net, dict.fromkeys(names, FACTORIES[name]), start=start)
    assert list(zoo_layers(net)) == names
    if start == "update":
        agree(net(x).detach(), before, 1e-5)
    trained(net.train(), x)
    net.eval()
    y = net(x).detach()
    plain = merge(net)
    agree(plain(x).detach(), y, 1e-5)
    assert list(plain.state_dict()) == list(make().state_dict())
    assert {type(module) for module in plain.modules()} == {type(m) for m in make().modules()}
    assert merge(net, copy=False) is net and not zoo_layers(net)
    agree(net(x).detach(), y, 1e-5)


def moved(plain: nn.Module, factory: Any = HALF, start: str = "update", **settings: Any) -> Any:
    """A layer in the place of a copy of a plain one, some way from its start."""
    layer: Any = swap(copy.deepcopy(plain), {"": factory}, start=start, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in layer.parameterization.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d, which is no linear, convolutional"),
        (nn.LazyConv2d(4, 3), "LazyConv2d whose weight is a UninitializedParameter"),
        (nn.BatchNorm2d(4), "BatchNorm2d, which is no linear"),
        (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3)), "is computed in each"),
        (type("Scaled", (nn.Conv2d,), {"forward": lambda s, x: x})(4, 4, 3), "pass of its own"),
        (
            type("Same", (nn.Conv2d,), {"_conv_forward": lambda s, x, w, b: x})(4, 4, 3),
            "with a forward pass of its own",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("start", ["update", "random"])
def test_what_is_no_plain_convolution_is_refused_by_name(layer, what, start):
    net = nn.Sequential(nn.Conv2d(4, 4, 3), layer)
    with pytest.raises(UserError, match=f"^1 is a .*{what}.*: leave it out of the targets"):
        swap(net, {"0": HALF, "1": HALF}, start=start)
    assert not zoo_layers(net)


def test_a_subclass_with_the_usual_pass_comes_back():
    class Own(nn.Conv2d):
        """Nothing of its own but a name."""

    plain = Own(4, 8, 3)
    plain.tag = "mine"
    layer = moved(plain)
    assert layer.tag == "mine" and type(merge(layer)) is Own and merge(layer).tag == "mine"
    assert vars(merge(layer)).keys() == vars(plain).keys()


def test_a_map_that_drops_numbers_of_rows_is_refused():
    """A convolution has no rows to drop numbers of, and nothing is dropped in silence."""
    drops = functools.partial(LoRA, rank=2, dropout=0.1)
    layer = moved(nn.Conv2d(4, 8, 3))
    for factory in (drops, functools.partial(Sum, parts=[drops])):
        with pytest.raises(UserError, match=r"^0: (LoRA|Sum) has a dropout, which a convolution"):
            swap(nn.Sequential(nn.Conv2d(4, 8, 3)), {"0": factory}, start="update")
        with pytest.raises(UserError, match=r"^0: (LoRA|Sum) has a dropout, which a convolution"):
            make_map("0", layer, factory)


def test_peft_has_no_format_for_it_and_it_is_refused_by_name(tmp_path):
    net = nn.Sequential(nn.Linear(8, 4), nn.Conv2d(4, 8, 3), nn.Embedding(8, 4))
    for name, what in (("1", "Conv2d"), ("2", "Embedding")):
        other = swap(copy.deepcopy(net), {"0": HALF, name: HALF}, start="update")
        with pytest.raises(UserError, match=f"^{name} is a {what}, and only updates of linear"):
            write(tmp_path, other, {})
        assert not list(tmp_path.iterdir())


def test_shapes_that_do_not_fit_are_refused():
    conv = nn.Conv2d(4, 8, 3)
    with pytest.raises(ValueError, match=r"the map must have shape \(8, 36\), got \(8, 4\)"):
        ZooConv(Dense(8, 4), conv)
    with pytest.raises(ValueError, match=r"weight must have shape \(8, 4, 3, 3\)"):
        ZooConv(Dense(8, 36), conv, weight=torch.zeros(8, 36))


def test_a_dense_checkpoint_loads_by_name():
    net, other = nn.Sequential(nn.Conv2d(4, 8, 3)), nn.Sequential(nn.Conv2d(4, 8, 3))
    swap(net, {"0": HALF}, start="update")
    found = net.load_state_dict(other.state_dict(), strict=False)
    assert found.missing_keys == ["0.parameterization.coef"] and not found.unexpected_keys
    assert torch.equal(net[0].base, other[0].weight.flatten(1))
    assert net[0].base_parameters[0].shape == (8, 4, 3, 3)


def test_what_other_modules_read_of_it():
    """As of a plain convolution: stride, kernel, and a weight in its shape."""
    plain = nn.Conv2d(4, 8, (3, 5), stride=2, padding="valid", dilation=(1, 2))
    layer = moved(plain.bfloat16())
    for name in ("stride", "kernel_size", "padding", "dilation", "in_channels", "out_channels"):
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.weight.shape == plain.weight.shape and layer.weight.dtype == torch.bfloat16
    agree(layer.weight.clone().detach(), merge(layer).weight.detach(), 0.0)
    (row,) = table(nn.Sequential(layer))
    assert row["shape"] == [8, 60] and counts(layer)["total"] == 488


@pytest.mark.parametrize("name", ["DCT", "DoRA", "LoRAXS"])
def test_channels_last(name):
    """Memory in another order changes nothing, and a W0 that changes is seen."""
    factory = {"DCT": HALF, "DoRA": functools.partial(DoRA, rank=2)}.get(
        name, functools.partial(LoRAXS, rank=2)
    )
    plain, x = nn.Conv2d(4, 8, 3), torch.randn(2, 4, 6, 6)
    layer = moved(plain, factory)
    y = layer(x).detach()
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    assert last.base_parameters[0].is_contiguous(memory_format=torch.channels_last)
    for training in (True, False):
        agree(last.train(training)(x).detach(), y, 1e-5)
        with torch.no_grad():
            agree(last(x), y, 1e-5)
    with torch.no_grad():
        for each in (layer, last):
            each.set_base_(2 * each.base)
        agree(last(x), layer(x), 1e-5)
        assert (layer(x) - y).abs().max() > 1e-2
    agree(merge(last)(x).detach(), last(x).detach(), 1e-5)


def test_w_is_built_once_in_eval_mode(monkeypatch):
    """Of a low-rank map too."""
    built: list[object] = []
    for factory, cls in ((HALF, DCT), (functools.partial(LoRA, rank=2), LoRA)):
        layer, x = moved(nn.Conv2d(4, 8, 3), factory).eval(), torch.randn(2, 4, 6, 6)
        weight = cls.weight
        monkeypatch.setattr(cls, "weight", lambda s, weight=weight: built.append(s) or weight(s))
        built.clear()
        with torch.no_grad():
            assert torch.equal(layer(x), layer(x))
        assert len(built) == 1 and layer._kept.weight is not None
        with torch.no_grad():
            first = layer(x)
            next(layer.parameterization.parameters()).add_(1)
            assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("start", ["update", "random"])
def test_in_low_precision(start):
    """Under autocast W comes in the precision of the product, and the sum is rounded once."""
    for plain in (nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3).bfloat16()):
        layer, x = moved(plain, start=start), torch.randn(2, 4, 6, 6)
        exact = F.conv2d(
            x.double(), layer.as_stored(layer.effective_weight().double()), layer.bias.double()
        )
        for training in (True, False):
            layer.train(training)
            for grad in (True, False):
                with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
                    y = layer(x)
                    assert y.dtype == torch.bfloat16
                    agree(y.detach(), exact.detach(), 3e-2)
        if plain.weight.dtype == torch.bfloat16:
            y = layer(x.bfloat16())
            assert y.dtype == torch.bfloat16
            agree(y.detach(), exact.detach(), 3e-2)


def test_recomputed_gradients_are_the_same_to_the_bit():
    for factory in (HALF, functools.partial(LoRA, rank=2), functools.partial(DoRA, rank=2)):
        plain, x = nn.Conv2d(4, 8, 3), torch.randn(2, 4, 6, 6).requires_grad_()
        layer = moved(plain, factory)
        found = []
        for layer.recompute in (False, True):
            y = layer(x).sin().sum()
            found.append(torch.autograd.grad(y, [x, *layer.parameterization.parameters()]))
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)


def test_small_weights_are_built_together():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    swap(net, dict.fromkeys("01", HALF))
    x = torch.randn(2, 4, 6, 6)
    alone = net(x).detach()
    build_together(net)
    handed = []
    hand_over = ZooConv.hand_over
    net[0].hand_over = lambda w: handed.append(w) or hand_over(net[0], w)
    agree(net(x).detach(), alone, 1e-5)
    assert handed[0] is not None and handed[-1] is None
    del net[0].hand_over
    plain = merge(net)
    assert not plain._forward_pre_hooks and not plain._forward_hooks


@pytest.mark.parametrize("start", ["update", "random"])
def test_compiles(start):
    """Without a graph break, forward and backward."""
    layer, x = (
        moved(nn.Conv2d(4, 8, 3, padding_mode="circular"), start=start),
        torch.randn(2, 4, 6, 6),
    )
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        layer.train(training)
        values, results = list(layer.parameterization.parameters()), []
        for run in (layer, compiled):
            y = run(x)
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), values)))
        for a, b in zip(*results, strict=True):
            agree(a, b, 1e-5)


def test_from_the_meta_device():
    net, x = nn.Sequential(nn.Conv2d(4, 8, 3)), torch.randn(2, 4, 6, 6)
    for start in ("update", "random"):
        real = swap(copy.deepcopy(net), {"0": HALF}, start=start)
        with torch.device("meta"):
            empty = swap(nn.Sequential(nn.Conv2d(4, 8, 3)), {"0": HALF}, start=start)
            assert empty(torch.randn(2, 4, 6, 6)).shape == (2, 8, 4, 4)
        other = copy.deepcopy(empty).to_empty(device="cpu")
        other.load_state_dict(real.state_dict())
        empty.load_state_dict(real.state_dict(), assign=True)
        for found in (other, empty):
            agree(found(x).detach(), real(x).detach(), 0.0)


def test_a_dense_phase_and_a_base_of_its_own():
    """From scratch beside a frozen W0, and after dense steps, as linear layers have it."""
    net, x = nn.Sequential(nn.Conv2d(4, 8, 3)), torch.randn(2, 4, 6, 6)
    before = net(x).detach()
    warm = swap(copy.deepcopy(net), {"0": HALF}, base="warm", dense=True)
    assert warm[0].dense_phase == "frozen" and warm[0].base_parameters[0].requires_grad
    assert torch.equal(warm(x), before) and warm[0].stores_base
    warm[0].end_dense()
    assert not warm[0].base_parameters[0].requires_grad
    agree(warm(x).detach(), before, 1e-5)
    with pytest.raises(UserError, match="is of layers that are trained from scratch"):
        swap(net, {"0": HALF}, start="update", base="warm")
