"""Modules that read the weight of a layer that they hold get W0 + s W, and what is known without it
costs nothing.
"""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from every import factories
from torch import nn

from zoo.layers.convert import convert, merge, zoo_layers
from zoo.parameterizations import DCT, BlockDCT, Dense, LoRA, RandLoRA
from zoo.testing import agree

HALF = functools.partial(DCT, ratio=0.5)
MAPS = {
    "DCT": HALF,
    "BlockDCT": functools.partial(BlockDCT, ratio=0.5),
    "LoRA": functools.partial(LoRA, rank=2),
    "RandLoRA": functools.partial(RandLoRA, rank=2),
    "Dense": Dense,
}


def adapted(network, factory=HALF, start="update", targets=("*",)):
    """A converted network whose updates are not zero."""
    network = convert(network, factory, list(targets), start=start)
    for layer in zoo_layers(network).values():
        layer.parameterization.reset_parameters(0.1)
    return network


class Reader(nn.Module):
    """A module that multiplies by the weight itself, as Mamba does with `dt_proj`."""

    def __init__(self, bias=True):
        super().__init__()
        self.proj = nn.Linear(6, 4, bias)

    def forward(self, x):
        return x.to(self.proj.weight.dtype) @ self.proj.weight.T


def siglip():
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    return transformers.SiglipVisionModel(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def mobilebert():
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileBertConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        embedding_size=8,
        intra_bottleneck_size=8,
        true_hidden_size=8,
        tie_word_embeddings=False,
    )
    return transformers.MobileBertForMaskedLM(config), {"input_ids": torch.arange(8)[None]}


def mamba():
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        vocab_size=32,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=1,
        use_cache=False,
        time_step_rank=4,
    )
    return transformers.MambaModel(config), {"input_ids": torch.arange(8)[None]}


def t5():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return transformers.T5EncoderModel(config), {"input_ids": torch.arange(8)[None]}


def attention():
    x = torch.randn(2, 5, 16)
    return nn.MultiheadAttention(16, 2, batch_first=True), {"query": x, "key": x, "value": x}


def encoder_layer():
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), {
        "src": torch.randn(2, 5, 16)
    }


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), {
        "src": torch.randn(2, 5, 16)
    }


NETWORKS = {
    f.__name__: f for f in (attention, encoder_layer, encoder, siglip, mobilebert, mamba, t5)
}


def tensors(output):
    output = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [
        t
        for t in (output if isinstance(output, tuple) else (output,))
        if isinstance(t, torch.Tensor)
    ]


@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_a_module_that_reads_weights_sees_the_update(name, start):
    """network(x) = merged(x), in train and in eval mode, with and without gradients."""
    network, inputs = NETWORKS[name]()
    for kind in ("DCT", "LoRA"):
        net = adapted(copy.deepcopy(network), MAPS[kind], start)
        for training in (True, False):
            net.train(training)
            for module in net.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            plain = merge(net)
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    for mine, theirs in zip(
                        tensors(net(**inputs)), tensors(plain(**inputs)), strict=True
                    ):
                        agree(mine, theirs, 1e-5)


def test_a_read_weight_passes_gradients_on():
    """d f(W0 + s W) / d c, as through the layer itself."""
    for name, factory in MAPS.items():
        net, x = adapted(Reader(bias=False), factory), torch.randn(3, 6)
        mine = torch.autograd.grad(
            net(x).square().sum(), list(net.proj.parameterization.parameters())
        )
        theirs = torch.autograd.grad(
            net.proj(x).square().sum(), list(net.proj.parameterization.parameters())
        )
        for a, b in zip(mine, theirs, strict=True):
            agree(a, b, 1e-5), name


USES = {
    "linear": lambda w: F.linear(torch.ones(2, 6), w),
    "product": lambda w: torch.ones(2, 6) @ w.T,
    "einsum": lambda w: torch.einsum("oi->o", w),
    "row": lambda w: w[1],
    "norm": lambda w: w.norm(),
    "cat": lambda w: torch.cat([w, w]),
    "data": lambda w: w.data + 0,
    "detach": lambda w: w.detach() * 1,
    "to": lambda w: w.to(torch.float64),
    "scaled": lambda w: 2 * w,
    "rows": lambda w: torch.stack(list(w)),
    "svd": lambda w: torch.linalg.svdvals(w),
    "copied": lambda w: torch.zeros(4, 6).copy_(w),
    "vmap": lambda w: torch.vmap(lambda row: row @ w.T)(torch.ones(2, 6)),
    "list": lambda w: torch.tensor(w.tolist()),
    "numpy": lambda w: torch.from_numpy(w.detach().numpy()),
    "normalized": lambda w: F.normalize(w),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_with_it_is_done_with_the_matrix(use):
    net = adapted(nn.Sequential(nn.Linear(6, 4)))
    agree(USES[use](net[0].weight).detach(), USES[use](net[0].effective_weight().detach()), 1e-6)


def test_what_is_known_without_it_builds_nothing(monkeypatch):
    """T5 asks for the dtype of a weight in every forward pass."""
    net = adapted(nn.Sequential(nn.Linear(6, 4)).bfloat16())
    monkeypatch.setattr(DCT, "weight", lambda self: pytest.fail("W was built"))
    weight = net[0].weight
    assert (
        weight.shape == weight.size() == (4, 6)
        and weight.numel() == 24
        and weight.dim() == weight.ndim == 2
    )
    assert (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and weight.is_floating_point()
    )
    assert (
        weight.requires_grad
        and not weight.is_cuda
        and len(weight) == 4
        and weight.data.dtype == torch.bfloat16
    )
    assert (
        isinstance(weight, torch.Tensor)
        and weight.grad is None
        and not weight.detach().requires_grad
    )


WRITES = {
    "add_": lambda w: w.add_(1),
    "data": lambda w: w.data.zero_(),
    "detach": lambda w: w.detach().mul_(2),
    "copy_": lambda w: w.copy_(torch.ones(4, 6)),
    "init": nn.init.zeros_,
    "normal": nn.init.normal_,
    "set data": lambda w: setattr(w, "data", torch.ones(4, 6)),
    "+=": lambda w: w.__iadd__(1),
    "row": lambda w: w.__setitem__(0, 1.0),
    "out": lambda w: torch.add(torch.ones(4, 6), 1, out=w),
    "list": lambda w: torch._foreach_mul_([torch.ones(2), w], 2),
}


@pytest.mark.parametrize("write", WRITES)
def test_it_cannot_be_written(write):
    """A write would be lost: the matrix follows from the coefficients."""
    net = adapted(nn.Sequential(nn.Linear(6, 4)))
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="cannot be written: use layer.parameterization.project_"),
    ):
        WRITES[write](net[0].weight)


def test_no_other_tensor_shares_its_memory():
    """It has none, and `a.data = b.data`, by which weights are tied, would have the other read what
    is not there.
    """
    net, other = adapted(nn.Sequential(nn.Linear(6, 4))), nn.Linear(6, 4)
    for weight in (net[0].weight, net[0].weight.data):
        with pytest.raises(RuntimeError, match="incompatible tensor type"):
            other.weight.data = weight
    other(torch.ones(1, 6))


def test_it_cannot_be_set_to_a_tensor():
    net = adapted(nn.Sequential(nn.Linear(6, 4)))
    with pytest.raises(TypeError):
        net[0].weight = torch.ones(4, 6)


def test_readers_compile_and_export():
    net, x = adapted(Reader()), torch.randn(3, 6)
    expected = net(x).detach()
    torch._dynamo.reset()
    agree(torch.compile(net, fullgraph=True, backend="aot_eager")(x).detach(), expected, 1e-5)
    agree(torch.export.export(net.eval(), (x,)).module()(x).detach(), expected, 1e-5)
    state = {name: 2 * value for name, value in net.state_dict().items()}
    agree(torch.func.functional_call(net, state, (x,)).detach(), 2 * expected, 1e-5)


def test_a_dense_state_dict_loads_by_name():
    """Where W0 goes by the name that the weight had."""
    plain = nn.Sequential(nn.Linear(6, 4))
    net = adapted(copy.deepcopy(plain))
    assert (
        "0.weight" in net.state_dict() and dict(net.named_parameters())["0.weight"] is net[0].base
    )
    other = nn.Sequential(nn.Linear(6, 4))
    net.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(net[0].base, other[0].weight)
    net.load_state_dict(plain.state_dict(), strict=False, assign=True)
    assert torch.equal(net[0].base, plain[0].weight)


def test_every_class_is_read_right():
    for factory in factories(0.5, RandLoRA={}).values():
        net, x = adapted(nn.Sequential(nn.Linear(6, 4, bias=False)), factory), torch.eye(6)
        agree(net[0].weight.T.detach(), net(x).detach(), 1e-5)
