"""`torch.func` and `torch.export` of whole networks, whatever their parameterization."""

import functools

import pytest
import torch
from every import factories, thinned
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from zoo.bases import cosine
from zoo.layers.batched import build_together
from zoo.layers.convert import convert, zoo_layers
from zoo.parameterizations import BlockDCT
from zoo.testing import agree

# Which never builds W.
FACTORIES = {**factories(), "products": functools.partial(BlockDCT, ratio=0.1, block=16)}


def network(kind, start="random"):
    torch.manual_seed(0)
    n = 256 if kind == "products" else 12
    return convert(
        nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.Linear(n, n, bias=False)),
        FACTORIES[kind],
        ["*"],
        start=start,
    ).double(), n


def loss_of(net):
    return lambda values, x: functional_call(net, values, (x,)).square().sum()


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("kind", FACTORIES)
def test_transforms_of_a_network(kind, together):
    """Per-example gradients are a loop's, the Jacobian is autograd's, and a batch of networks is
    each of them.
    """
    net, n = network(kind)
    if together:
        build_together(net)
    x, values = torch.randn(3, 2, n).double(), dict(net.named_parameters())
    found = vmap(grad(loss_of(net)), in_dims=(None, 0))(values, x)
    for i, rows in enumerate(x):
        for (name, g), alone in zip(
            found.items(),
            torch.autograd.grad(net(rows).square().sum(), net.parameters()),
            strict=True,
        ):
            agree(g[i], alone, 1e-9, name)
    agree(jacrev(net)(x[0, 0]), torch.autograd.functional.jacobian(net, x[0, 0]))
    several = {name: torch.stack([p, 2 * p]) for name, p in values.items()}
    many = vmap(lambda v: functional_call(net, v, (x[0],)))(several)
    agree(many[0], net(x[0]))
    agree(many[1], functional_call(net, {name: 2 * p for name, p in values.items()}, (x[0],)))


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("kind", ["DCT", "RandLoRA", "BlockDCT"])
def test_second_derivatives(kind, together):
    """The Hessian of a loss in the coefficients is autograd's, alone and built together."""
    net, n = network(kind)
    if together:
        build_together(net)
    x, loss = torch.randn(2, n).double(), loss_of(net)
    name, p = next(iter(net.named_parameters()))
    others = dict(net.named_parameters())
    one = lambda v: loss({**others, name: v}, x)  # noqa: E731
    agree(jacrev(grad(one))(p), torch.autograd.functional.hessian(one, p), 1e-9)


@pytest.mark.parametrize("fft", ["", "blocked"])
@pytest.mark.parametrize("kind", thinned(["DCT", "RowDCT", "products", "RandLoRA"], 2))
def test_an_exported_program_has_the_gradients_of_its_network(kind, fft, monkeypatch):
    """As an update, for a number of rows that it was not made with; FFTs in pieces, too."""
    if fft:
        monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
        monkeypatch.setitem(cosine.BLOCKED_FROM, "cpu", 0)
        monkeypatch.setitem(cosine.BLOCK, "cpu", 20)
    net, n = network(kind, "update")
    shapes = {"input": {0: torch.export.Dim("rows")}}
    program = torch.export.export(
        net, (torch.randn(4, n).double(),), dynamic_shapes=shapes
    ).module()
    x, results = torch.randn(40, n).double(), []
    for run in (program, net):
        trained = {name: p for name, p in run.named_parameters() if p.requires_grad}
        y = run(x)
        results.append(
            (
                y.detach(),
                dict(zip(trained, torch.autograd.grad(y.sum(), trained.values()), strict=True)),
            )
        )
    agree(results[0][0], results[1][0])
    for name, g in results[1][1].items():
        agree(results[0][1][name], g, what=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", ["random", "update"])
@pytest.mark.parametrize("kind", FACTORIES)
def test_an_ensemble_has_the_buffers_of_each_member(kind, start, training):
    """`stack_module_state` stacks bases and positions too; members have other seeds, and so other
    ones.

    But for blocks, whose positions are not all in buffers.
    """
    seeds = (0, 0) if kind in ("BlockDCT", "products") else (0, 1)
    members = [
        convert(
            nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16, bias=False)),
            functools.partial(FACTORIES[kind], seed=seed),
            ["*"],
            start=start,
        )
        for seed in seeds
    ]
    for member in members:
        for layer in zoo_layers(member).values():
            layer.parameterization.reset_parameters(0.2)
        build_together(member.train(training))
    state = torch.func.stack_module_state(members)
    x = torch.randn(3, 16)

    def outputs(parameters, buffers):
        return torch.func.functional_call(members[0], (parameters, buffers), (x,))

    y = torch.func.vmap(outputs)(*state)
    gradients = torch.func.vmap(torch.func.grad(lambda *state: outputs(*state).square().sum()))(
        *state
    )
    for i, member in enumerate(members):
        agree(y[i].detach(), member(x).detach(), 1e-5)
        member(x).square().sum().backward()
        for name, p in member.named_parameters():
            if p.requires_grad:
                agree(gradients[name][i].detach(), p.grad, 1e-4)


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("kind", ["DCT", "RandLoRA"])
def test_an_exported_program_can_be_saved(kind, recompute, tmp_path):
    """In training too, where weights would be built together or again."""
    net = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    build_together(convert(net, FACTORIES[kind], ["*"], recompute=recompute).train())
    x = torch.randn(3, 12)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "program.pt2")
    agree(torch.export.load(tmp_path / "program.pt2").module()(x).detach(), net(x).detach(), 1e-5)
