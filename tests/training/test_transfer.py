"""Starts and rates that follow from a smaller network: the rule, and that sizes stop growing."""

import copy
import functools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from every import factories, thinned
from fits import equal, fit
from torch import nn

from tasks.char_lm.module import network
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.merge import merge
from zoo.layers.transfer import BaseSizes, Factors, rates_of, scale_from_base_
from zoo.parameterizations import (
    DCT,
    BlockDCT,
    Dense,
    LoRA,
    RandomOrthonormal,
    Sparse,
)
from zoo.training.optimizers import OptimizerConfig, build, groups_of

HALF = functools.partial(DCT, ratio=0.5)
VOCABULARY, BLOCK, HEAD = 11, 8, 16
LR, DECAY = 0.01, 0.1


def gpt(width, layers=2, base=None, head=HEAD):
    torch.manual_seed(0)
    sizes = base if base is None else BaseSizes(*base)
    return network(VOCABULARY, BLOCK, layers, width, width // head, 0.0, sizes)


def mlp(width, depth=1, bias=True):
    """A network with torch's own start, whose blocks are no ModuleList of known names."""
    hidden = [nn.Sequential(nn.Linear(width, width, bias), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(nn.Linear(4, width, bias), *hidden, nn.Linear(width, 3, bias))


def grouped(net, name="adamw"):
    """By parameter its group."""
    config = OptimizerConfig(name=name, lr=LR, weight_decay=DECAY)
    names = {p: key for key, p in net.named_parameters()}
    return {names[p]: group for group in groups_of(net, config) for p in group["params"]}


def slope(sizes, values):
    """The exponent of values in sizes, by least squares."""
    x, y = (torch.tensor([math.log(v) for v in each]) for each in (sizes, values))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


# ---- The rule ------------------------------------------------------------------------------------


def test_at_the_bases_own_sizes_nothing_changes():
    """Weights, outputs and groups are to the bit those of a network without a base."""
    ids = torch.randint(VOCABULARY, (3, BLOCK))
    for base in ((64, 2), (64, 2, HEAD)):
        nets = [convert(gpt(64, 2, sizes), HALF, ["blocks.*"]) for sizes in (None, base)]
        assert equal(*(net.state_dict() for net in nets))
        assert torch.equal(*(net(ids) for net in nets))
        for name in ("adamw", "muon"):
            plain, scaled = ({**grouped(net, name)} for net in nets)
            strip = [
                {
                    key: {k: v for k, v in group.items() if k != "params"}
                    for key, group in each.items()
                }
                for each in (plain, scaled)
            ]
            assert strip[0] == strip[1]
            assert not any("eps" in group for group in strip[0].values())


def test_the_rule_by_kind_of_layer():
    """W of hidden layers n^-1/2 and 1 / n, of heads 1 / n; branches' last ones 1 / lam besides."""
    rho, lam = 4.0, 3.0
    net, plain = gpt(256, 6, (64, 2)), gpt(256, 6)
    groups = {name: grouped(net, name) for name in ("adamw", "muon")}
    heads = {"head"}
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        last = name.endswith("proj")
        branch = 1 / lam if last else 1.0
        start = branch * (math.sqrt(lam) if last else 1) * (1 / rho if name in heads else rho**-0.5)
        wanted = start * plain.get_submodule(name).weight
        torch.testing.assert_close(layer.weight, wanted, rtol=1e-6, atol=0)
        for optimizer, by_name in groups.items():
            of_muon = optimizer == "muon" and not name.startswith("head")
            group = by_name[f"{name}.weight"]
            rate = LR * branch / rho
            assert group["lr"] == pytest.approx(rate), (name, optimizer, of_muon)
            assert group["lr"] * group["weight_decay"] == pytest.approx(LR * DECAY)
            assert group.get("eps", 1e-8) == pytest.approx(
                1e-8 / (1 if name in heads else rho * lam)
            )
            bias = by_name[f"{name}.bias"]
            assert (bias["lr"], bias["weight_decay"]) == pytest.approx((LR * branch, 0.0))
    others = [
        key
        for key in groups["adamw"]
        if "norm" in key or key in ("token.weight", "position.weight")
    ]
    assert len(others) == 28
    assert {groups["adamw"][key]["lr"] for key in others} == {LR}
    for key in ("token.weight", "position.weight", "norm.weight"):
        assert torch.equal(net.get_parameter(key), plain.get_parameter(key))


def test_muons_rate_makes_its_step_of_spectral_norm_sqrt_m_over_n():
    """0.2 lr sqrt(max(m, n)) M is as sqrt(m / n) for every shape, a head's and a tall one's too."""
    net = convert(gpt(256, 2, (64, 2)), HALF, ["blocks.*", "head"])
    base = convert(gpt(64), HALF, ["blocks.*", "head"])
    wide, tuned = grouped(net, "muon"), grouped(base, "muon")
    for name in zoo_layers(net):
        rates = [each[f"{name}.parameterization.coef"] for each in (wide, tuned)]
        assert all(rate["muon"] for rate in rates)
        sizes = [each.get_submodule(name).parameterization.shape for each in (net, base)]
        steps = [
            0.2 * rate["lr"] * max(shape) ** 0.5 for rate, shape in zip(rates, sizes, strict=True)
        ]
        wanted = [(m / n) ** 0.5 for m, n in sizes]
        assert steps[0] / steps[1] == pytest.approx(wanted[0] / wanted[1]), name
        shrinks = rates[0]["lr"] * rates[0]["weight_decay"]
        assert shrinks == pytest.approx(LR * DECAY)
    assert wide["head.parameterization.coef"]["lr"] == pytest.approx(LR / 4)


@pytest.mark.parametrize(("name", "make"), thinned(list(factories(0.3, of_base=True).items()), 4))
def test_every_map_takes_the_layers_factors(name, make):
    """Rates of coefficients are lr lr_mult / rho, and W has the rms of what it replaces."""
    kept = "random" if getattr(getattr(make, "func", make), "needs_base", False) else None
    plain, scaled = (
        convert(gpt(64, 2, sizes), make, ["blocks.*"], base=kept) for sizes in (None, (32, 1))
    )
    ours, theirs = grouped(scaled), grouped(plain)
    for key, layer in zoo_layers(scaled).items():
        branch = 0.5 if key.endswith("proj") else 1.0
        assert layer.transfer.adamw == branch / 2
        other = plain.get_submodule(key).parameterization.lr_mults()
        for part, mult in layer.parameterization.lr_mults().items():
            path = f"{key}.parameterization.{part}"
            assert ours[path]["lr"] == pytest.approx(LR * mult * branch / 2, rel=0.05)
            assert theirs[path]["lr"] == pytest.approx(LR * other[part], rel=0.05)
            assert ours[path]["lr"] * ours[path]["weight_decay"] == pytest.approx(LR * DECAY)
        if kept is None and name != "Product":
            sizes = [
                each.effective_weight().detach().square().mean().sqrt()
                for each in (layer, plain.get_submodule(key))
            ]
            start = branch * (2**0.5 if branch != 1 else 1) * 2**-0.5
            assert float(sizes[0] / sizes[1]) == pytest.approx(start, rel=0.2)


def test_a_merged_layer_and_a_copy_keep_their_factors():
    net = convert(gpt(64, 2, (32, 1)), HALF, ["blocks.*"])
    wanted = {key: layer.transfer for key, layer in zoo_layers(net).items()}
    copied = copy.deepcopy(net)
    merged = merge(net)
    for each in (copied, merged):
        found = {key: each.get_submodule(key).transfer for key in wanted}
        assert found == wanted and len({p for p in rates_of(each)}) == 18


def test_a_kept_base_and_a_dense_phase_train_at_the_layers_rates():
    """W0 in a dense phase is a dense weight of the layer, for AdamW and for Muon."""
    net = convert(
        gpt(64, 2, (32, 2)), functools.partial(LoRA, rank=2), ["blocks.*"], base="warm", dense=True
    )
    for optimizer in ("adamw", "muon"):
        group = grouped(net, optimizer)["blocks.0.attn.qkv.weight"]
        factor = 2**-0.5 if optimizer == "muon" else 0.5
        assert group["lr"] == pytest.approx(LR * factor)
        assert group["muon"] == (optimizer == "muon")


def test_attentions_scale():
    """Scores are q k^T sqrt(d0) / d where heads grow, and as ever where they do not."""
    assert gpt(64, 2, (32, 2)).blocks[0].attn.scale is None
    grown = gpt(64, 2, (32, 2, 16), head=32)
    assert grown.blocks[0].attn.scale == pytest.approx(16**0.5 / 32)
    attention, x = grown.blocks[0].attn, torch.randn(2, BLOCK, 64)
    q, k, v = attention.qkv(x).view(2, BLOCK, 3, 2, 32).permute(2, 0, 3, 1, 4)
    scores = (q @ k.mT / 8).masked_fill(torch.ones(BLOCK, BLOCK).triu(1).bool(), -math.inf)
    wanted = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scale)
    torch.testing.assert_close(attention.proj(fused.transpose(1, 2).flatten(2)), wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_any_network_with_torchs_own_start(bias):
    """Of a std that is n^-1/2 by itself nothing is left to scale but the head's."""
    torch.manual_seed(0)
    wide = mlp(256, bias=bias)
    before = copy.deepcopy(wide.state_dict())
    with torch.device("meta"):
        base = mlp(64, bias=bias)
    factors = scale_from_base_(wide, base, drawn="fan_in")
    assert {name: each.adamw for name, each in factors.items()} == {"0": 1, "1.0": 0.25, "2": 0.25}
    assert factors["0"] == Factors(1, 1, 1, 1)
    after = wide.state_dict()
    assert torch.equal(after["2.weight"], before["2.weight"] / 2)
    assert all(torch.equal(after[key], before[key]) for key in before if key != "2.weight")


# ---- What it is for ------------------------------------------------------------------------------


def sizes_after(net, optimizer="adamw", steps=2, lr=1e-3):
    """Train; return the mean |dW|_2 sqrt(n / m), and the rms change of the last block's output."""
    ids = torch.randint(VOCABULARY, (4, BLOCK + 1), generator=torch.Generator().manual_seed(0))
    layers, seen = zoo_layers(net), []
    handle = net.blocks[-1].register_forward_hook(lambda *a: seen.append(a[-1].detach()))
    before = {key: layer.effective_weight().detach().clone() for key, layer in layers.items()}
    optimize = build(net, OptimizerConfig(name=optimizer, lr=lr, weight_decay=0.0), fused=False)
    for _ in range(steps):
        optimize.zero_grad()
        F.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimize.step()
    net(ids[:, :-1])
    handle.remove()
    logs = []
    for key, layer in layers.items():
        m, n = layer.parameterization.shape
        moved = layer.effective_weight().detach() - before[key]
        logs.append(math.log(torch.linalg.matrix_norm(moved, 2) * (n / m) ** 0.5))
    return math.exp(sum(logs) / len(logs)), float((seen[-1] - seen[0]).square().mean().sqrt())


@pytest.mark.parametrize(
    ("make", "optimizer"),
    thinned(
        [
            *((Dense, o) for o in ("adamw", "muon")),
            *((HALF, o) for o in ("adamw", "muon")),
            *((functools.partial(RandomOrthonormal, ratio=0.1), o) for o in ("adamw", "muon")),
            *((functools.partial(BlockDCT, ratio=0.5), o) for o in ("adamw", "muon")),
            (functools.partial(LoRA, ratio=0.5), "adamw"),
            (functools.partial(Sparse, ratio=0.1), "muon"),
        ],
        lambda make, _: make in (Dense, HALF),
    ),
)
def test_a_steps_size_does_not_grow_with_the_width(make, optimizer):
    """|dW|_2 sqrt(n / m) and the stream's change are of exponent 0, and grow without the rule."""
    widths = (32, 64, 128)
    found = {}
    for base in (None, (32, 2)):
        sizes = [
            sizes_after(convert(gpt(width, 2, base), make, ["blocks.*"]), optimizer)
            for width in widths
        ]
        found[base] = [slope(widths, each) for each in zip(*sizes, strict=True)]
    spectral, stream = found[(32, 2)]
    assert abs(spectral) < (0.15 if make in (Dense, HALF) else 0.25) and abs(stream) < 0.25
    assert found[None][0] > 0.4 and found[None][1] > 0.45


def test_the_last_blocks_change_does_not_grow_with_the_depth():
    depths = (2, 4, 8)
    found = {}
    for base in (None, (32, 2)):
        nets = (convert(gpt(32, depth, base), Dense, ["blocks.*"]) for depth in depths)
        found[base] = slope(depths, [sizes_after(net)[1] for net in nets])
    assert found[(32, 2)] < 0.1 and found[None] > 0.4


# ---- Mistakes ------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A network whose head is its embedding."""

    def __init__(self, width, logit_scale=1.0):
        super().__init__()
        self.logit_scale = logit_scale
        self.token, self.hidden = nn.Embedding(5, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids):
        return self.logit_scale * self.head(self.hidden(self.token(ids)))


def test_a_tied_head_needs_a_factor_on_the_logits():
    """Its weight keeps an embedding's start and rate, and the logits are divided by rho."""
    net = Tied(64, 2.0)
    with pytest.raises(UserError, match="head shares its weight with an embedding"):
        scale_from_base_(net, Tied(16))
    with pytest.raises(UserError, match="logits='logit_scale'"):
        scale_from_base_(net, Tied(16), logits="nothing")
    before = net.head.weight.detach().clone()
    factors = scale_from_base_(net, Tied(16), logits="logit_scale")
    assert net.logit_scale == 0.5 and torch.equal(net.head.weight, before)
    assert factors["head"] == Factors(1, 1, 1, 1) and factors["hidden"].adamw == 0.25


class Attending(nn.Module):
    """Has a matrix of the width's square in no linear layer."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1)


@pytest.mark.parametrize(
    ("network", "base", "options", "said"),
    [
        (lambda: mlp(16), lambda: mlp(32), {}, "must not be wider"),
        (lambda: gpt(32, 1), lambda: gpt(32, 2), {}, "must not be deeper"),
        (lambda: gpt(32, 4), lambda: gpt(32, 2), {}, "residual=\\['\\*proj'\\]"),
        (lambda: gpt(32, 4), lambda: gpt(32, 2), {"residual": ["c_proj"]}, "residual="),
        (lambda: mlp(32), lambda: nn.Sequential(nn.Linear(4, 3)), {}, "1.0 is not in the base"),
        (lambda: mlp(32), lambda: gpt(32), {}, "0 is not in the base"),
        (lambda: Attending(32), lambda: Attending(16), {}, "in_proj_weight grows"),
        (lambda: convert(mlp(32), HALF, ["1.0"]), lambda: mlp(16), {}, "parameterized layers"),
    ],
)
def test_what_has_no_base_is_refused_and_unchanged(network, base, options, said):
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=said) as raised:
        scale_from_base_(net, base(), **options)
    assert "\n" not in str(raised.value)
    assert equal(before, net.state_dict())
    assert not rates_of(net)


def test_a_network_with_a_base_from_the_command_line(place, small, capsys):
    """It trains, says so, goes on to the bit, and is not gone on with without its base."""
    base = ["--model.base_sizes.width=8", "--model.base_sizes.layers=1"]
    folder = fit(*small, *base, "--trainer.max_steps=6")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["identity"]["method"]["model.base_sizes.width"] == 8
    last = str(folder / "checkpoints" / "last.ckpt")
    argv = ["fit", "--config", "dct_half.yaml", *small, "--ckpt_path", last]
    argv.append("--trainer.max_steps=8")
    refused(capsys, [*argv, "--model.base_sizes=null"], "base_sizes", "begin a new run")
    refused(capsys, [*argv, "--model.base_sizes.width=4"], "base_sizes", "'width': 4")
    assert main(argv) == 0  # a run that goes on has its own settings where nothing is said
    assert "width: 8" in (folder / "config.yaml").read_text()
    plain = fit(*small)
    argv[argv.index(last)] = str(plain / "checkpoints" / "last.ckpt")
    refused(capsys, [*argv, *base], "base_sizes", "None")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 32, "layers": 1}, ["base_sizes", "larger", "16"]),
        ({"width": 8, "layers": 3}, ["base_sizes", "larger"]),
        ({"width": 0, "layers": 1}, ["base_sizes.width", "at least 1"]),
        ({"width": 8, "layers": 1, "head": -1}, ["base_sizes.head", "at least 1"]),
    ],
)
def test_mistakes_on_the_command_line(place, small, capsys, options, said):
    argv = ["fit", "--config", "dct_half.yaml", *small]
    refused(capsys, [*argv, *(f"--model.base_sizes.{k}={v}" for k, v in options.items())], *said)
