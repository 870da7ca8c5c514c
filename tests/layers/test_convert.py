"""Swapping layers and back: names, outputs, initialisation, counts."""

import copy
import functools

import pytest
import torch
from torch import nn

from tasks.char_lm.model import GPT
from zoo.errors import UserError
from zoo.layers.convert import convert, counts, merge, table, zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.layers.names import kind, matches, summary
from zoo.parameterizations import DCT, Dense, LoRA, RandomOrthonormal
from zoo.testing import agree


def model():
    return GPT(11, block_size=8, layers=2, width=16, heads=2)


HALF = functools.partial(DCT, ratio=0.5)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.*", True),
        ("attn.qkv", True),
        ("qkv", True),
        ("*.1.attn.*", True),
        ("blocks.1.attn.qkv", True),
        ("block", False),
        ("blocks.0.*", False),
        ("kv", False),
        ("head", False),
    ],
)
def test_matches(pattern, expected):
    assert matches("blocks.1.attn.qkv", pattern) is expected


def test_kind_drops_the_block():
    assert kind("blocks.3.attn.qkv") == "attn.qkv"
    assert kind("encoder.layer.0.attention.self.query") == "attention.self.query"
    assert kind("head") == "head"


def test_only_targets_are_swapped():
    net = convert(model(), HALF, ["blocks.*"])
    names = [
        f"blocks.{i}.{part}"
        for i in (0, 1)
        for part in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")
    ]
    assert list(zoo_layers(net)) == names
    assert type(net.head) is nn.Linear


def test_overrides_win_and_later_ones_over_earlier():
    net = convert(
        model(), HALF, ["blocks.*"], {"mlp.*": functools.partial(LoRA, rank=2), "mlp.proj": Dense}
    )
    kinds = {kind(name): type(layer.parameterization) for name, layer in zoo_layers(net).items()}
    assert kinds == {"attn.qkv": DCT, "attn.proj": DCT, "mlp.fc": LoRA, "mlp.proj": Dense}


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(
        UserError, match=r"'nothing' matches no linear layer; there are: blocks.\*.attn.qkv"
    ):
        convert(model(), HALF, ["blocks.*", "nothing"])
    with pytest.raises(UserError, match="'head' matches no linear layer"):
        convert(model(), HALF, ["blocks.*"], {"head": Dense})


def test_an_impossible_budget_names_the_layer_and_changes_nothing():
    net = model()
    with pytest.raises(UserError, match=r"blocks.0.attn.qkv: LoRA rank must lie in \[1, 16\]"):
        convert(net, functools.partial(LoRA, rank=17), ["blocks.*"])
    assert not zoo_layers(net)


def test_initial_scale_is_the_replaced_weights():
    net = model()
    std = {
        name: m.weight.std().item() for name, m in net.named_modules() if isinstance(m, nn.Linear)
    }
    for name, layer in zoo_layers(
        convert(net, functools.partial(RandomOrthonormal, ratio=0.9), ["blocks.*"])
    ).items():
        assert layer.effective_weight().std().item() == pytest.approx(std[name], rel=0.25)


def test_merge_gives_plain_layers_and_equal_outputs():
    """merge(model)(x) = model(x) to 1e-5."""
    net = convert(model(), HALF, ["blocks.*"])
    ids = torch.randint(11, (3, 8))
    plain = merge(net)
    assert not zoo_layers(plain) and zoo_layers(net)
    assert plain.state_dict().keys() == model().state_dict().keys()
    agree(plain(ids), net(ids).detach(), 1e-5)


@pytest.mark.parametrize("parameterization", [Dense, HALF, functools.partial(LoRA, rank=2)])
def test_an_update_starts_at_the_base_and_trains_without_it(parameterization):
    net = model()
    ids = torch.randint(11, (3, 8))
    before = net(ids).detach()
    frozen = {k: v.clone() for k, v in net.state_dict().items()}
    convert(net, parameterization, ["blocks.*"], start="update")
    agree(net(ids), before, 1e-6)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
    net(ids).square().mean().backward()
    optimizer.step()
    assert (net(ids) - before).abs().max() > 1e-4
    for name, layer in zoo_layers(net).items():
        assert torch.equal(layer.base, frozen[f"{name}.weight"])
        agree(layer.effective_weight(), layer.base + layer.update(), 1e-6)


def test_a_dense_checkpoint_loads_into_the_base_by_name():
    dense = model()
    net = convert(model(), HALF, ["blocks.*"], start="update")
    result = net.load_state_dict(dense.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(".parameterization." in key for key in result.missing_keys)


def test_scale_multiplies_the_update():
    w, x = torch.randn(4, 6), torch.randn(2, 6)
    p = LoRA(4, 6, rank=2)
    layer = ZooLinear(p, None, w, scale=3.0)
    agree(layer(x), x @ (w + 3 * p.weight()).T, 1e-6)
    agree(ZooLinear(p, scale=3.0)(x), x @ (3 * p.weight()).T, 1e-6)


def test_layer_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 6\), got \(6, 4\)"):
        ZooLinear(Dense(4, 6), None, torch.zeros(6, 4))
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\), got \(6,\)"):
        ZooLinear(Dense(4, 6), torch.zeros(6))


def test_counts_and_table_agree():
    net = convert(model(), HALF, ["blocks.*"])
    dense = sum(p.numel() for p in model().parameters())
    rows, total = table(net), counts(net)
    assert total["total"] == dense
    assert total["replaced"] == sum(row["weights"] for row in rows) == 2 * 12 * 16 * 16
    assert total["coefficients"] == sum(row["trainable"] for row in rows) == total["replaced"] // 2
    assert total["trainable"] == dense - total["replaced"] + total["coefficients"]


def test_layers_of_equal_size_train_different_positions():
    first, second = list(zoo_layers(convert(model(), HALF, ["attn.qkv"])).values())
    assert not torch.equal(first.parameterization.support, second.parameterization.support)


def test_a_converted_model_copies_and_loads():
    net = convert(model(), HALF, ["blocks.*"])
    other = convert(model(), HALF, ["blocks.*"])
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    ids = torch.randint(11, (2, 8))
    assert torch.equal(net(ids), other(ids))


class Gated(nn.Module):
    """A linear layer of transformers, if it is there, beside a plain one."""

    def __init__(self) -> None:
        super().__init__()
        conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
        self.conv, self.plain = conv1d(7, 5), nn.Linear(7, 3)
        nn.init.normal_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(self.conv(x).tanh())


@pytest.mark.parametrize("start", ["update", "project"])
def test_conv1d_is_a_linear_layer(start):
    """y = x W + b of shape (in, out) converts as its transpose, and merging gives a Conv1D back."""
    net, x = Gated(), torch.randn(4, 5)
    before = net(x).detach()
    convert(net, Dense, ["*"], start=start)
    assert net.conv.parameterization.shape == (7, 5)
    agree(net(x), before, 1e-6)
    with torch.no_grad():
        net.conv.parameterization.coef.add_(torch.randn(7, 5))
    plain = merge(net)
    assert type(plain.conv).__name__ == "Conv1D" and plain.conv.weight.shape == (5, 7)
    agree(plain(x), net(x).detach(), 1e-5)


def test_project_starts_at_the_nearest_weight():
    """Dense is the old weight itself; K coefficients are its projection."""
    net = model()
    old = {
        name: layer.weight.clone()
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear)
    }
    for name, layer in zoo_layers(
        convert(copy.deepcopy(net), Dense, ["blocks.*"], start="project")
    ).items():
        assert torch.equal(layer.effective_weight(), old[name]) and layer.base is None
    for name, layer in zoo_layers(
        convert(copy.deepcopy(net), HALF, ["blocks.*"], start="project")
    ).items():
        w = layer.effective_weight()
        assert (
            (w - old[name]) * w
        ).sum().abs() < 1e-5 * w.norm() ** 2  # the rest is orthogonal to it
        assert 0.3 < (w - old[name]).norm() / old[name].norm() < 0.9


def test_a_frozen_bias_stays_frozen():
    net = model()
    net.blocks.requires_grad_(False)
    for layer in zoo_layers(convert(net, HALF, ["blocks.*"], start="update")).values():
        assert not layer.bias.requires_grad and not layer.base.requires_grad
        assert layer.parameterization.coef.requires_grad


@pytest.mark.parametrize("parameterization", [Dense, HALF, functools.partial(LoRA, rank=2)])
def test_a_bfloat16_base_keeps_float32_coefficients(parameterization):
    """Coefficients of an update stay float32; outputs are the base's dtype, with and without
    autocast.
    """
    net = nn.Sequential(nn.Linear(24, 16)).bfloat16()
    convert(net, parameterization, ["*"], start="update")
    (layer,) = zoo_layers(net).values()
    assert all(p.dtype == torch.float32 for p in layer.parameterization.parameters())
    layer.parameterization.reset_parameters(0.5)
    x = torch.randn(3, 24, dtype=torch.bfloat16)
    expected = x.float() @ layer.effective_weight().T.float() + layer.bias.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        agree(net(x).float(), expected.detach(), 3e-2)
    assert net(x).dtype == torch.bfloat16
    agree(net(x).float(), expected.detach(), 3e-2)
    assert merge(net)[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["blocks.0.attn.qkv", "blocks.1.attn.qkv", "head"], "blocks.*.attn.qkv, head"),
        (["0", "2"], "0, 2"),
        (["blocks.0.mlp.0", "blocks.1.mlp.0", "blocks.0.mlp.2"], "blocks.*.mlp.0, blocks.*.mlp.2"),
        ([str(i) for i in range(13)], "*"),
        ([""], ""),
        ([], "none"),
    ],
)
def test_names_of_layers_are_listed_with_numbers_of_blocks_folded(names, listed):
    assert summary(iter(names)) == (listed or "none")
