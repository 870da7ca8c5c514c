"""Updates beside linear layers of other libraries: quantized ones, and whatever else computes.

What holds of each parameterization beside them is in the conformance suite.
"""

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every import factories
from not_plain import COMPUTED, NOT_PLAIN
from operations import Operations
from torch import Tensor, nn

from tasks.char_lm.module import CharLM
from zoo.errors import UserError
from zoo.layers.anew import merge_updates
from zoo.layers.convert import convert, counts, linear_layers, merge, zoo_layers
from zoo.layers.costs import network_cost
from zoo.layers.foreign import ZooForeign
from zoo.layers.merge import restore
from zoo.layers.swap import make_map, swap, swappable
from zoo.parameterizations import DCT, OFT, DoRA, HiRA, LoRA, LoRAXS, PiSSA, Sparse, Sum
from zoo.testing import agree
from zoo.testing.kinds import Quantized

HALF = functools.partial(DCT, ratio=0.5)
MAPS = {
    "DCT": HALF,
    "DoRA": functools.partial(DoRA, rank=2),
    "LoRA": functools.partial(LoRA, rank=2),
    "PiSSA": functools.partial(PiSSA, rank=2),
}


def stirred(net: Any) -> Any:
    """The network, with coefficients some way from their start."""
    with torch.no_grad():
        for layer in zoo_layers(net).values():
            for p in layer.parameterization.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return net


def network(m: int = 16, n: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, n), Quantized(m, n, bias=True))


# ---- Which layers are such -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in NOT_PLAIN if kind not in COMPUTED])
def test_a_layer_that_is_not_plain_is_the_base_of_an_update(kind):
    """y = layer(x) + s x W^T, whatever the layer computes, and by itself it is there again."""
    torch.manual_seed(1)
    plain, x = NOT_PLAIN[kind](4, 6), torch.randn(3, 6)
    plain.eval()  # a spectral norm changes in each pass that trains
    runs = kind not in ("packed", "float8")  # which cannot multiply at all
    y = plain(x).detach() if runs else None
    net = convert(nn.Sequential(plain).eval(), HALF, ["*"], start="update", scale=0.7)
    assert type(net[0]) is ZooForeign and net[0].foreign is plain
    assert not any(p.requires_grad for p in net[0].base_parameters)
    if runs:
        agree(net(x).detach(), y, 1e-5)
        stirred(net)
        agree(net(x).detach(), y + x @ net[0].update().detach().mT, 1e-5)
        net[0].enabled = False
        assert torch.equal(net(x), y)
    assert restore(net, ["0"])[0] is plain
    if runs:
        assert torch.equal(plain(x), y)


class Odd(nn.Module):
    """A module with sizes, and a pass of several tensors."""

    in_features = out_features = 4

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ x


class Wrapper(nn.Module):
    """A module with sizes whose work is done by a linear layer within."""

    in_features, out_features = 6, 4

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)


def test_which_modules_are_linear():
    """Those with two whole sizes and a pass of one tensor that do their work themselves."""
    net = nn.ModuleDict(
        {
            "plain": nn.Linear(6, 4),
            "quantized": Quantized(4, 6, False),
            "odd": Odd(),
            "wrapper": Wrapper(),
            "norm": nn.BatchNorm1d(4),
            "bilinear": nn.Bilinear(2, 3, 4),
        }
    )
    names = ["plain", "quantized", "wrapper.base_layer"]
    assert list(linear_layers(net, foreign=True)) == list(swappable(net)) == names
    assert list(linear_layers(net)) == ["plain", "wrapper.base_layer"]
    convert(net, HALF, ["*"], start="update")
    assert list(zoo_layers(net)) == list(swappable(net)) == names
    assert swappable(net)["quantized"][1:] == ("linear", (4, 6))


@pytest.mark.parametrize("start", ["random", "project"])
def test_from_scratch_it_is_no_target(start):
    net = network()
    convert(net, HALF, ["*"], start=start)
    assert list(zoo_layers(net)) == ["0"]
    with pytest.raises(UserError, match="^1 is a zoo.testing.kinds.Quantized, of another library"):
        swap(network(), {"1": HALF}, start=start)


def test_a_lazy_layer_is_refused_by_name():
    with pytest.raises(UserError, match="^0 is a LazyLinear without sizes: leave it out"):
        convert(nn.Sequential(nn.LazyLinear(4)), HALF, ["*"], start="update")


# ---- The pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAPS)
def test_dtypes(kind):
    """The update is computed in the coefficients' dtype or autocast's, the sum in the layer's."""
    for dtype in (torch.float32, torch.bfloat16):
        net, x = network()[1:], torch.randn(5, 24, dtype=dtype)
        convert(net, MAPS[kind], ["*"], start="update")
        stirred(net)
        assert {p.dtype for p in net[0].parameterization.parameters()} == {torch.float32}
        exact = x.float() @ net[0].effective_weight().mT + net[0].bias
        for amp in (False, True):
            for training in (True, False):
                net.train(training)
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    y, alone = net(x), net[0].base_product(x)
                assert y.dtype == alone.dtype
                rough = amp or dtype == torch.bfloat16
                agree(y.float().detach(), exact.detach(), 4e-2 if rough else 1e-4)


@pytest.mark.parametrize("kind", [*MAPS, "HiRA", "LoRAXS", "OFT", "Sum"])
def test_backward_keeps_nothing_as_large_as_the_weight(kind):
    """No W0 that was dequantized, no W, and no copy of either: x and what has its rows alone.

    Nor does a pass without gradients.
    """
    factory = {
        "HiRA": functools.partial(HiRA, rank=2),
        "LoRAXS": functools.partial(LoRAXS, rank=2),
        "OFT": functools.partial(OFT, block=4),
        "Sum": functools.partial(Sum, parts=[MAPS["LoRA"], functools.partial(Sparse, ratio=0.1)]),
        **MAPS,
    }[kind]
    net, x = nn.Sequential(Quantized(160, 240, bias=True)), torch.randn(3, 240)
    convert(net, factory, ["*"], start="update")
    stirred(net)
    for needs in (True, False):
        net.train()(x.requires_grad_(needs)).sum().backward()  # sides of W0 are there from now on
        known = [t for layer in zoo_layers(net).values() for t in _sides(layer.parameterization)]
        with Operations() as forward:
            y = net(x)
        held = forward.held(x, y, *net.parameters(), *net.buffers(), *known)
        small = 4 * 3 * (2 * 160 + 240)
        if needs or net[0].parameterization.needs_base:
            assert held <= small, f"{held} bytes, of a weight of {4 * 160 * 240}"
        y.sum().backward()
    with torch.no_grad(), Operations() as forward:
        y = net.eval()(x)
    assert forward.held(x, y, *net.parameters(), *net.buffers(), *known) == 0


def _sides(space: Any) -> tuple[Tensor, ...]:
    held = getattr(space, "_held", None)
    return () if held is None else held[1]


def test_sides_of_w0_are_computed_once(monkeypatch):
    """W0 is dequantized anew for each pass, and known to be the same one."""
    net, x, computed = network()[1:], torch.randn(5, 24), []
    convert(net, MAPS["PiSSA"], ["*"], start="update")
    compute = PiSSA.compute_sides
    monkeypatch.setattr(PiSSA, "compute_sides", lambda s, w: computed.append(1) or compute(s, w))
    for training in (True, False):
        net.train(training)(x)
    assert not computed
    with torch.no_grad():
        net[0].foreign.numbers.add_(1)
    net(x)
    assert len(computed) == 1


def test_hooks_see_the_whole_layer_and_come_back():
    net, seen, x = network()[1:], [], torch.randn(5, 24)
    net[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    handle = net[0].register_forward_hook(lambda module, args, y: seen.append(y) or y + 1)
    plain = net[0]
    alone = net(x).detach()
    convert(net, HALF, ["*"], start="update")
    agree(net(x).detach(), alone, 1e-6)
    stirred(net)
    y = net(x).detach()
    agree(y, 2 * x @ net[0].effective_weight().mT.detach() + plain.bias.detach() + 1, 1e-4)
    agree(seen[-1].detach() + 1, y, 1e-6)
    agree(merge(net)(x).detach(), y, 1e-4)
    restore(net, ["1"])
    agree(net(x).detach(), alone, 0.0)
    handle.remove()
    agree(net(x).detach(), alone - 1, 1e-5)


def test_a_compiled_layer_is_the_same():
    for kind in MAPS:
        net, x = stirred(convert(network(), MAPS[kind], ["*"], start="update")), torch.randn(5, 24)
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        values = [p for p in net.parameters() if p.requires_grad]
        results = [
            (y.detach(), *torch.autograd.grad(y.square().sum(), values))
            for y in (net(x), compiled(x))
        ]
        for a, b in zip(*results, strict=True):
            agree(b, a, 1e-5)


# ---- The weight ----------------------------------------------------------------------------------


class Opaque(Quantized):
    """One that has no way to say what its matrix is."""

    dequantize = None  # type: ignore[assignment]


class Turned(Quantized):
    """One that says it wrongly."""

    def dequantize(self) -> Tensor:
        return super().dequantize().mT


def test_a_matrix_that_cannot_be_had_is_refused_by_name():
    """By merging, by W0 itself, and by a map that needs it: nothing is changed."""
    net, x = nn.Sequential(nn.Linear(6, 6), Opaque(4, 6, True)), torch.randn(3, 6)
    text = "^1 is a test_foreign.Opaque, whose matrix zoo cannot read: give it a method dequantize"
    with pytest.raises(UserError, match=text):
        convert(net, MAPS["DoRA"], ["*"], start="update")
    assert not zoo_layers(net)
    stirred(convert(net, MAPS["LoRA"], ["*"], start="update"))
    y = net(x).detach()
    for read in (lambda layer: layer.base, lambda layer: layer.effective_weight()):
        with pytest.raises(UserError, match=text):
            read(net[1])
    for copied in (True, False):
        with pytest.raises(UserError, match=text):
            merge(net, copy=copied)
    assert list(zoo_layers(net)) == ["0", "1"] and torch.equal(net(x), y)
    agree(net[1].update(), net[1].parameterization.weight(), 0.0)
    with pytest.raises(UserError, match=r"^0: the matrix of a .*Turned is \(6, 4\), and should be"):
        convert(nn.Sequential(Turned(4, 6, True)), MAPS["DoRA"], ["*"], start="update")


def test_its_weight_is_not_trained_and_not_merged_into():
    net = convert(network(), HALF, ["*"], start="update")
    text = "^1 is a zoo.testing.kinds.Quantized, whose own weight stays what it is"
    for change in (lambda: net[1].begin_dense("frozen"), lambda: net[1].set_base_(net[1].base)):
        with pytest.raises(UserError, match=text):
            change()
    with pytest.raises(UserError, match=text):
        merge_updates({"1": net[1]}, seed=0, number=1)
    with pytest.raises(
        UserError, match="nn.DataParallel cannot copy a zoo.testing.kinds.Quantized"
    ):
        net[1]._replicate_for_data_parallel()


def test_what_is_read_as_its_weight():
    """A matrix where the layer has one, with the update; else whatever the layer has."""
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    net = stirred(convert(nn.Sequential(normed), HALF, ["*"], start="update"))
    agree(net[0].weight.clone().detach(), net[0].effective_weight().detach(), 0.0)
    packed = convert(nn.Sequential(NOT_PLAIN["int8"](4, 6)), HALF, ["*"], start="update")
    assert packed[0].weight.dtype == torch.int8 and packed[0].weight is packed[0].foreign.weight
    assert packed[0].weight_scale == 0.01 and packed[0].bias is packed[0].foreign.bias
    with pytest.raises(AttributeError, match="nothing"):
        packed[0].nothing  # noqa: B018


def test_merged_layers_have_the_dtype_of_their_network():
    """Where nothing else tells: that of most of its numbers, or of the bias."""
    for bias in (True, False):
        net = nn.Sequential(nn.Linear(24, 24), Quantized(16, 24, bias)).bfloat16()
        convert(net, HALF, ["1"], start="update")
        assert net[1].base_dtype == net[1].base.dtype == torch.bfloat16
        plain = merge(net)
        assert type(plain[1]) is nn.Linear and plain[1].weight.dtype == torch.bfloat16
        assert plain(torch.randn(3, 24).bfloat16()).shape == (3, 16)


def test_a_second_map_of_a_layer():
    net = stirred(convert(network(), HALF, ["*"], start="update"))
    for layer in net:
        for kind, factory in factories(0.5, of_base=True).items():
            space, _ = make_map("other", layer, factory)
            x = torch.randn(3, 24)
            y = layer.product(x, space, 1.0)
            agree(y.detach(), layer.base_product(x).detach(), 1e-4, kind)
            assert space.layer == "other" and next(space.parameters()).dtype == torch.float32
    with pytest.raises(UserError, match=r"^other: LoRA rank must lie in \[1, 16\]"):
        make_map("other", net[1], functools.partial(LoRA, rank=100))


def test_counts_and_costs():
    """Beside a layer whose numbers are no parameters, the dense network is counted all the same."""
    net = convert(network(), HALF, ["*"], start="update")
    assert counts(net)["coefficients"] == (24 * 24 + 16 * 24) // 2
    assert counts(net)["total"] == 24 * 24 + 24 + 16 * 24 + 16
    assert network_cost(net, 5).forward > 0


# ---- Copies and files ----------------------------------------------------------------------------


def test_names_in_a_state_dict_are_the_layers_own():
    net = convert(network(), HALF, ["*"], start="update")
    plain = [name for name in network().state_dict() if name.startswith("1.")]
    names = [name for name in net.state_dict() if name.startswith("1.")]
    assert names == [*plain, "1.parameterization.coef"]
    assert dict(net.named_parameters())["1.bias"] is net[1].foreign.bias
    other = convert(network(), HALF, ["*"], start="update")
    assert not any(other.load_state_dict(stirred(net).state_dict()))
    x = torch.randn(3, 24)
    assert torch.equal(other(x), net(x))
    found = other.load_state_dict({**network().state_dict(), "1.more": x}, strict=False)
    assert found.unexpected_keys == ["1.more"] and "1.parameterization.coef" in found.missing_keys


def test_checkpoints_have_no_quantized_weight():
    """Numbers and scales, which are no parameters, are as frozen as a W0 that is one."""
    model = CharLM("ab", HALF, layers=1, width=8, heads=2)
    model.net.head = swap(Quantized(2, 8, True), {"": HALF}, start="update")
    names = [name for name in model.trained_state() if name.startswith("net.head.")]
    assert names == ["net.head.bias", "net.head.parameterization.coef"]
    model.net.head.bias.requires_grad_(False)
    assert "net.head.bias" not in model.trained_state()
    assert {"net.head.numbers", "net.head.scales"} <= model.state_dict().keys()


def test_copies_are_apart_from_what_they_are_of():
    net, x = stirred(convert(network(), HALF, ["*"], start="update")), torch.randn(3, 24)
    y = net(x).detach()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), y) and other[1].foreign is not net[1].foreign
        assert other[1]._parameters is other[1].foreign._parameters
        other.double()
        assert other[1].foreign.scales.dtype == torch.float64
        with torch.no_grad():
            other[1].foreign.scales.add_(1)
    assert torch.equal(net(x), y)


def test_functional_calls_reach_the_layer():
    net, x = stirred(convert(network(), HALF, ["*"], start="update")), torch.randn(3, 24)
    other = {name: value.clone() for name, value in net.state_dict().items()}
    other["1.scales"] *= 2
    other["1.bias"] = other["1.bias"] + 1
    found = torch.func.functional_call(net, other, (x,)).detach()
    inner = net[0](x)
    expected = net(x) + net[1].base_product(inner) - net[1].bias + 1
    agree(found, expected.detach(), 1e-4)


def test_the_training_mode_is_the_layers_too():
    net = convert(nn.Sequential(NOT_PLAIN["scaled"](4, 6)), HALF, ["*"], start="update")
    modes = []
    net[0].foreign.register_forward_hook(lambda module, *_: modes.append(module.training))
    for module in net.eval().modules():
        module.training = True  # as Lightning does
    net(torch.randn(3, 6))
    net.eval()(torch.randn(3, 6))
    assert modes == [True, False]


# ---- Libraries -----------------------------------------------------------------------------------


def four_bits(kind: str, nested: bool, bias: bool = True, dtype: Any = torch.float32) -> Any:
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(
        64, 32, bias, compute_dtype=dtype, quant_type=kind, compress_statistics=nested
    )
    return layer.to(dtype).to("cpu")  # by which it is quantized


def eight_bits(bias: bool = True) -> Any:
    bnb = pytest.importorskip("bitsandbytes")
    return bnb.nn.Linear8bitLt(64, 32, bias, has_fp16_weights=False).to("cpu")


def torchao(bias: bool = True) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    net = nn.Sequential(nn.Linear(64, 32, bias))
    quantization.quantize_(net, quantization.Int8WeightOnlyConfig())
    return net[0]


LIBRARIES = {
    "nf4": lambda: four_bits("nf4", True),
    "nf4, not nested": lambda: four_bits("nf4", False, bias=False),
    "nf4, bfloat16": lambda: four_bits("nf4", True, dtype=torch.bfloat16),
    "fp4": lambda: four_bits("fp4", True, bias=False),
    "int8": eight_bits,
    "int8, no bias": lambda: eight_bits(False),
    "torchao": torchao,
    "torchao, no bias": lambda: torchao(False),
}
ROUGH = {"int8": 4e-2, "nf4, bfloat16": 4e-2}
"""How far a product may be off that rounds x, or all that it computes with."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["DCT", "DoRA", "LoRA", "PiSSA"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library(library, kind):
    """y = layer(x) + s x W^T with gradients, W0, merging, modes, copies and state dicts."""
    torch.manual_seed(0)
    plain, x = LIBRARIES[library](), torch.randn(5, 64)
    if "bfloat16" in library:
        x = x.bfloat16()
    rough = ROUGH.get(library.removesuffix(", no bias"), 1e-4)
    net = swap(nn.Sequential(copy.deepcopy(plain)), {"0": MAPS[kind]}, start="update", scale=0.7)
    agree(net(x).detach(), plain(x).detach(), 1e-6)
    stirred(net)
    names = [n for n in net.state_dict() if ".parameterization." not in n]
    assert names == list(nn.Sequential(plain).state_dict())

    base, update = net[0].base, net[0].update().detach()
    assert base.shape == (32, 64) and base.dtype == net[0].base_dtype
    bias = 0.0 if plain.bias is None else plain.bias.detach()
    x.requires_grad_()
    y = net(x)
    agree(y.detach(), x.detach() @ (base + update).mT.to(x.dtype) + bias, rough)
    dx, *grads = torch.autograd.grad(y.sum(), [x, *net[0].parameterization.parameters()])
    agree(dx, (base + update).sum(0).expand(5, 64), rough)
    assert all(grad.abs().max() > 0 for grad in grads)

    merged = merge(net)
    assert type(merged[0]) is nn.Linear and merged[0].weight.dtype == net[0].base_dtype
    agree(merged(x).detach(), y.detach(), rough)
    net[0].enabled = False
    plain.eval(), net.eval()
    with torch.no_grad():
        assert torch.equal(net(x.detach()), plain(x.detach()))
    net[0].enabled = True
    assert torch.equal(net.train()(x), y)
    with torch.no_grad():
        net.eval()(x)
    assert torch.equal(copy.deepcopy(net).train()(x), y)
    if "torchao" not in library:  # whose tensors cannot be pickled
        assert torch.equal(pickle.loads(pickle.dumps(net)).train()(x), y)
    restored = restore(net, ["0"])
    assert type(restored[0]) is type(plain)
    with torch.no_grad():
        assert torch.equal(restored.eval()(x.detach()), plain(x.detach()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nested", [True, False])
def test_four_bits_can_be_trained_after_a_validation(nested):
    """bitsandbytes packs the weight for some CPUs then, which rounds it and has no gradient.

    W0 is the same in every pass that trains, and in a state dict.
    """
    net = nn.Sequential(four_bits("nf4", nested), nn.Linear(32, 64), four_bits("nf4", nested))
    swap(net, dict.fromkeys("02", MAPS["LoRA"]), start="update")
    x, base = torch.randn(5, 64), net[2].base.clone()
    state = copy.deepcopy(net.state_dict())
    y = net(x).detach()
    for _ in range(3):
        with torch.no_grad():
            agree(net.eval()(x), y, 2e-1)
        assert torch.equal(net.train()(x), y)
        net(x).sum().backward()
        assert torch.equal(net[2].base, base)
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name]), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAPS)
def test_the_memory_of_four_bits_stays_so_as_it_trains(kind):
    """Half a byte and a 64th of one a weight; nothing is kept that grows with the weight."""
    bnb = pytest.importorskip("bitsandbytes")
    m, n = 256, 512
    layer = bnb.nn.Linear4bit(n, m, False, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    net, x = nn.Sequential(layer), torch.randn(2, n).requires_grad_()
    swap(net, {"0": MAPS[kind]}, start="update")
    net(x).sum().backward()
    weight = net[0].foreign.weight
    state, known = weight.quant_state, _sides(net[0].parameterization)
    assert weight.numel() * weight.element_size() == m * n // 2
    with Operations() as forward:
        y = net(x)
    tensors = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    held = forward.held(x, y, *net.parameters(), *net.buffers(), *known, *tensors)
    assert held <= 4 * 2 * (2 * m + n) + 1024, f"{held} bytes, and W0 has {4 * m * n} in float32"
    with Operations() as backward:
        y.sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert backward.held(x, x.grad, *net.parameters(), *grads, *tensors, *known) <= 1024


@pytest.mark.filterwarnings("ignore")
def test_no_library_is_imported_for_a_layer_that_is_not_of_it():
    import subprocess
    import sys

    code = (
        "import sys, functools, torch; from torch import nn; "
        "from zoo.layers.convert import convert, merge; from zoo.parameterizations import LoRA; "
        "from zoo.testing.kinds import Quantized; one = functools.partial(LoRA, rank=1); "
        "merge(convert(nn.Sequential(Quantized(4, 6, True)), one, ['*'], start='update')); "
        "print([name for name in ('bitsandbytes', 'torchao', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_foreign_linear_layer_of_a_batch_of_batches():
    net, x = stirred(convert(network(), MAPS["LoRA"], ["1"], start="update")), torch.randn(2, 3, 24)
    agree(
        net(x).detach(), F.linear(net[0](x), net[1].effective_weight(), net[1].bias).detach(), 1e-4
    )
