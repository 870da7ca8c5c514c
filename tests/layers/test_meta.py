"""A network made on the meta device is, once it has coefficients, the one that they came from."""

import copy

import pytest
import torch
from every import factories
from torch import nn

from zoo.bases import seeds as bases
from zoo.layers.convert import convert
from zoo.parameterizations import DCT, WeightParameterization
from zoo.testing import agree

FACTORIES = factories()


def network(kind, start):
    layers = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 12, bias=False))
    return convert(layers, FACTORIES[kind], ["*"], start=start)


def trained(kind, start):
    net = network(kind, start)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def empty(kind, start):
    with torch.device("meta"):
        return network(kind, start)


@pytest.mark.parametrize("start", ["random", "update"])
@pytest.mark.parametrize("kind", FACTORIES)
def test_a_network_leaves_the_meta_device_by_every_way(kind, start):
    """Assigned, moved empty and loaded, or by a functional call: outputs and gradients are those of
    the original.
    """
    net, x = trained(kind, start), torch.randn(3, 12)
    expected = net(x).detach()
    state = copy.deepcopy(net.state_dict())
    agree(
        torch.func.functional_call(empty(kind, start), state, (x,)).detach(),
        expected,
        0.0,
        "a functional call",
    )
    for training in (True, False):
        assigned, emptied = empty(kind, start), empty(kind, start).to_empty(device="cpu")
        assigned.load_state_dict(state, assign=True)
        emptied.load_state_dict(state)
        for name, other in (("assigned", assigned), ("emptied", emptied)):
            agree(other.train(training)(x).detach(), expected, 0.0, name)


@pytest.mark.parametrize("kind", FACTORIES)
def test_rates_of_an_empty_network_are_those_of_its_start(kind):
    """From scratch as its class is constructed; not those of an update."""
    made = empty(kind, "random")[0].parameterization
    drawn = FACTORIES[kind](16, 12)
    assert made.lr_mults() == pytest.approx(drawn.lr_mults(), rel=0.2)
    update = empty(kind, "update")[0].parameterization
    drawn.reset_parameters(0.0)
    assert update.lr_mults() == pytest.approx(drawn.lr_mults(), rel=0.2)


@pytest.mark.parametrize("kind", FACTORIES)
def test_an_assigned_dtype_is_that_of_the_network(kind):
    """Float64 coefficients give a float64 W to its last digit, not that of float32 bases."""
    net = trained(kind, "random")
    exact = copy.deepcopy(net).double()
    net.load_state_dict(copy.deepcopy(exact.state_dict()), assign=True)
    x = torch.randn(3, 12).double()
    agree(net(x).detach(), exact(x).detach(), 1e-12)


@pytest.mark.parametrize("kind", FACTORIES)
def test_nothing_is_computed_on_the_meta_device(kind, monkeypatch):
    """Neither where a map is made there nor where it moves there: a QR of 4096 would take half a
    minute.
    """
    parameterization = FACTORIES[kind](64, 48)
    real = []
    draw = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda a: real.append(a.device.type) or draw(a))
    bases.haar_matrix.cache_clear()
    parameterization.to("meta").for_layer("a")
    with torch.device("meta"):
        FACTORIES[kind](64, 48)
    assert set(real) <= {"meta"}
    assert all(b.is_meta for b in parameterization.buffers())


class Inner(WeightParameterization):
    """Coefficients in a module of its own, and a fixed matrix."""

    def __init__(self, m, n, seed=0):
        super().__init__(m, n, seed)
        self.inner = nn.Linear(n, m, bias=False)
        self.reset_buffers()

    def reset_buffers(self):
        like = self.inner.weight
        self.register_buffer("fixed", torch.eye(self.out_features).to(like), persistent=False)

    def weight(self):
        return self.fixed @ self.inner.weight

    def reset_parameters(self, std): ...

    def project_(self, target): ...


def test_buffers_follow_the_coefficients_of_a_module_within():
    p, x = Inner(4, 3), torch.randn(2, 3)
    with torch.device("meta"):
        q, r = Inner(4, 3), Inner(4, 3)
    q.load_state_dict(p.state_dict(), assign=True)
    agree(q(x), p(x), 0.0)
    agree(torch.func.functional_call(r, p.state_dict(), (x,)), p(x), 0.0)
    q.load_state_dict(copy.deepcopy(p).double().state_dict(), assign=True)
    assert q.weight().dtype == torch.float64


def test_buffers_stay_where_their_parameters_do():
    """Loading coefficients in place, and assigning others of the same kind, rebuild nothing."""
    p = DCT(8, 6, ratio=0.5)
    before = p.revision
    p.load_state_dict(copy.deepcopy(p.state_dict()))
    p.load_state_dict(copy.deepcopy(p.state_dict()), assign=True)
    p.coef = nn.Parameter(torch.randn(24))
    assert p.revision == before
