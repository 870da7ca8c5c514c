"""Embeddings over a map: rows without the others, the row of padding, and ties to a head.

What holds of each parameterization in them is in the conformance suite.
"""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every import factories
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.convert import counts, zoo_layers
from zoo.layers.embedding import ZooEmbedding
from zoo.layers.merge import merge, restore
from zoo.layers.swap import swap
from zoo.parameterizations import DCT, Dense, DoRA, LoRA
from zoo.testing import agree

HALF = functools.partial(DCT, ratio=0.5)
LOW_RANK = ("AdaLoRA", "LoHa", "LoRA", "MiSS", "RandLoRA", "Sum", "VeRA")
FACTORIES = factories(0.5, of_base=True, Sum={"parts": [functools.partial(LoRA, rank=1)]})


def moved(plain: nn.Module, factory: Any = HALF, start: str = "update", **settings: Any) -> Any:
    """A layer in the place of a copy of a plain one, some way from its start."""
    layer: Any = swap(copy.deepcopy(plain), {"": factory}, start=start, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in layer.parameterization.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("name", LOW_RANK)
def test_rows_of_low_rank_maps_build_no_w(name, start, monkeypatch):
    """y = W0[i] + s W[i], forward and backward, of a vocabulary that no W is built for."""
    layer, index = moved(nn.Embedding(24, 16), FACTORIES[name], start, scale=0.5), torch.arange(5)
    expected = layer.effective_weight()[:5].detach()
    for cls in (type(layer.parameterization), LoRA):
        monkeypatch.setattr(cls, "weight", lambda self: pytest.fail("W was built"))
    for training in (True, False):
        y = layer.train(training)(index)
        agree(y.detach(), expected, 1e-5)
        y.sum().backward()
        with torch.no_grad():
            agree(layer(index), expected, 1e-5)
    assert not layer.builds_weight and layer._kept.weight is None
    assert any(p.grad.abs().max() > 0 for p in layer.parameterization.parameters())


def test_other_maps_keep_their_w_in_eval_mode(monkeypatch):
    layer, index, built = moved(nn.Embedding(24, 16)).eval(), torch.arange(5), []
    weight = DCT.weight
    monkeypatch.setattr(DCT, "weight", lambda self: built.append(self) or weight(self))
    with torch.no_grad():
        assert torch.equal(layer(index), layer(index)) and len(built) == 1


@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("name", FACTORIES)
def test_the_row_of_padding_stays(name, start):
    """It is that of W0, or 0, in every mode and after a step, and has no gradient."""
    if start == "random" and FACTORIES[name].func.needs_base:
        start = "update"
    plain, index = nn.Embedding(24, 16, padding_idx=3), torch.tensor([[3, 1], [5, 3]])
    plain.weight.data[3] = 7.0
    layer = moved(plain, FACTORIES[name], start)
    row = torch.full((16,), 7.0 if start == "update" else 0.0)
    optimizer = torch.optim.SGD(layer.parameterization.parameters(), lr=0.1)
    for training in (True, False):
        y = layer.train(training)(index)
        (alone,) = torch.autograd.grad(y[0, 1].sum(), y, retain_graph=True)
        y.backward(torch.ones_like(y) * (index == 3)[..., None])
        grads = [p.grad for p in layer.parameterization.parameters()]
        assert not any(grad is not None and grad.any() for grad in grads) and alone.any()
        layer(index).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for each in (y, layer(index), merge(layer)(index)):
                assert torch.equal(each[0, 0], row) and torch.equal(each[1, 1], row)
        assert torch.equal(layer.effective_weight()[3], row) and not torch.equal(
            layer.weight[1], row
        )
        assert not layer.update()[3].any()
    assert merge(layer).padding_idx == 3


@pytest.mark.parametrize("name", ["max_norm", "scale_grad_by_freq", "sparse"])
def test_what_a_map_cannot_do_is_refused_by_name(name):
    net = nn.Sequential(nn.Embedding(8, 4), nn.Embedding(8, 4, **{name: True}))
    with pytest.raises(UserError, match=f"^1 is a Embedding with {name}, .*: leave it out"):
        swap(net, {"0": HALF, "1": HALF}, start="update")
    assert not zoo_layers(net)


def test_a_pass_of_its_own_is_refused_by_name():
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with pytest.raises(UserError, match="Scaled, with a forward pass of its own: leave it out"):
        swap(nn.Sequential(Scaled(8, 4)), {"0": HALF}, start="update")
    drops = functools.partial(LoRA, rank=2, dropout=0.1)
    with pytest.raises(UserError, match="^0: LoRA has a dropout, which an embedding has no rows"):
        swap(nn.Sequential(nn.Embedding(8, 4)), {"0": drops}, start="update")


def test_rows_have_the_dtype_of_the_base():
    """Also under autocast, which leaves the rows of an embedding alone."""
    for plain in (nn.Embedding(24, 16), nn.Embedding(24, 16).bfloat16()):
        for factory in (HALF, functools.partial(LoRA, rank=2), functools.partial(DoRA, rank=2)):
            layer, index = moved(plain, factory), torch.arange(5)
            exact = layer.effective_weight()[:5].detach()
            for training in (True, False):
                for amp in (False, True):
                    layer.train(training)
                    for grad in (True, False):
                        with (
                            torch.set_grad_enabled(grad),
                            torch.autocast("cpu", torch.bfloat16, enabled=amp),
                        ):
                            y = layer(index)
                        assert y.dtype == plain.weight.dtype
                        agree(y.detach(), exact, 1e-2 if y.dtype == torch.bfloat16 else 1e-5)


def test_it_compiles_and_exports():
    layer, index = moved(nn.Embedding(24, 16, padding_idx=1)), torch.arange(6)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        layer.train(training)
        agree(compiled(index).detach(), layer(index).detach(), 1e-6)
    program = torch.export.export(layer, (index,))
    agree(program.module()(index).detach(), layer(index).detach(), 1e-6)


def test_constructed_by_hand():
    layer = ZooEmbedding(Dense(6, 4), padding_idx=-1)
    assert layer.padding_idx == 5 and not layer(torch.tensor([5])).any()
    with pytest.raises(ValueError, match=r"weight must have shape \(6, 4\), got \(4, 6\)"):
        ZooEmbedding(Dense(6, 4), weight=torch.zeros(4, 6))


# ---- Ties ----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A language model of a layer, whose head has the weight of its embedding."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 6, padding_idx=padding)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(self.inner(self.tokens(index)).tanh())


def stirred(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("factory", [HALF, functools.partial(LoRA, rank=2)])
def test_both_ends_share_a_map(factory, start):
    """They stay tied: one map, one base, and one weight when they are merged."""
    net, index = Tied(), torch.arange(8).view(2, 4)
    dense, before = sum(p.numel() for p in net.parameters()), net(index).detach()
    swap(net, dict.fromkeys(["tokens", "head"], factory), start=start)
    if start == "update":
        agree(net(index).detach(), before, 1e-5)
    stirred(net)
    assert net.tokens.parameterization is net.head.parameterization
    agree(net.tokens.effective_weight(), net.head.effective_weight(), 0.0)
    assert counts(net)["total"] == dense
    plain = merge(net)
    assert plain.tokens.weight is plain.head.weight
    agree(plain(index).detach(), net(index).detach(), 1e-5)


@pytest.mark.parametrize("name", ["tokens", "head"])
def test_one_end_alone_is_an_update_of_a_base_that_stays_tied(name):
    """And from scratch it is refused: the ends would be untied."""
    net, index = Tied(), torch.arange(8).view(2, 4)
    weight = net.tokens.weight
    with pytest.raises(UserError, match=f"{name} has the weight of .*they would be untied"):
        swap(net, {name: HALF}, start="random")
    swap(net, {name: HALF}, start="update")
    assert net.get_submodule(name).base_parameters == (weight,)
    stirred(net)
    assert net.tokens._parameters["weight"] is net.head._parameters["weight"] is weight
    plain = merge(net)
    assert plain.tokens.weight is not plain.head.weight
    agree(plain(index).detach(), net(index).detach(), 1e-5)
    restored = restore(net, [name])
    assert restored.tokens.weight is restored.head.weight is weight


def test_gradients_of_a_tied_base_add_up():
    net, plain, index = Tied(), Tied(), torch.arange(8).view(2, 4)
    plain.load_state_dict(net.state_dict())
    swap(net, {"tokens": functools.partial(LoRA, rank=2)}, start="update")
    for each in (net, plain):
        F.cross_entropy(each(index).flatten(0, 1), index.flatten()).backward()
    agree(net.head.weight.grad, plain.head.weight.grad, 1e-5)


def test_ends_that_would_differ_are_refused():
    with pytest.raises(UserError, match="head and tokens have one weight, and one of them leaves"):
        swap(Tied(padding=0), dict.fromkeys(["tokens", "head"], HALF), start="update")
    with pytest.raises(UserError, match="head and tokens have one weight, and would get different"):
        swap(Tied(), {"tokens": HALF, "head": Dense}, start="update")


@pytest.mark.parametrize("names", [["lm_head"], ["model.embed_tokens"], None])
def test_the_config_of_transformers_says_what_is_tied(names):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
        pad_token_id=None,
    )
    net = transformers.LlamaForCausalLM(config).eval()
    swap(net, dict.fromkeys(names or ["lm_head", "model.embed_tokens"], HALF), start="update")
    stirred(net)
    index = torch.arange(8)[None]
    y = net(input_ids=index).logits.detach()
    plain = merge(net)
    assert net.config.tie_word_embeddings and plain.config.tie_word_embeddings is (names is None)
    agree(plain(input_ids=index).logits.detach(), y, 1e-5)
