"""What every map of W0 is refused for by name, and where it stands in for W."""

import gc
import weakref

import pytest
import torch
from every import factories
from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import convert, merge, zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DoRA, HiRA, LoRA, OfBase, Product, Sum
from zoo.runs.model_runs import own_update
from zoo.testing import agree

FACTORIES = {
    name: factory
    for name, factory in factories(of_base=True).items()
    if issubclass(factory.func, OfBase)
}
ALONE = "changes a frozen weight and has none of its own"


def test_there_are_seven():
    assert list(FACTORIES) == ["DoRA", "HiRA", "Householder", "IA3", "LoRAXS", "OFT", "PiSSA"]


@pytest.mark.parametrize("start", ["random", "project"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", FACTORIES)
def test_from_scratch_is_one_line(name, start, device):
    with torch.device(device):
        net = nn.Sequential(nn.Linear(8, 12))
    bases = "; from scratch it takes base random or warm" if start == "random" else ""
    words = f"^0: {name} {ALONE}: use it to fine-tune, as an update{bases}$"
    with pytest.raises(UserError, match=words):
        convert(net, FACTORIES[name], ["*"], start=start)
    assert isinstance(net[0], nn.Linear)


@pytest.mark.parametrize("whole", [Sum, Product])
def test_it_is_no_part_of_another(whole):
    settings = {"parts": [LoRA, DoRA]} if whole is Sum else {"left": HiRA}
    with pytest.raises(ValueError, match=rf"(parts\.1|left) \((DoRA|HiRA)\) {ALONE}"):
        whole(8, 12, ratio=0.5, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_network_trains_is_looked_into_and_merged(name, dtype):
    """It starts as it was; only coefficients move; what is looked into is W' - W0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8)).to(dtype)
    x, target = torch.randn(16, 8).to(dtype), torch.randn(16, 8).to(dtype)
    before = net(x).detach()
    bases = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    convert(net.requires_grad_(False), FACTORIES[name], ["*"], start="update")
    agree(net(x).detach(), before, 1e-5 if dtype == torch.float32 else 2e-2)
    rates = [
        {"params": [p], "lr": 0.01 * layer.parameterization.lr_mults()[key]}
        for layer in zoo_layers(net).values()
        for key, p in layer.parameterization.named_parameters()
    ]
    optimizer, losses = torch.optim.Adam(rates), []
    for _ in range(20):
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    for layer, base in zip(zoo_layers(net).values(), bases, strict=True):
        assert torch.equal(layer.base, base) and layer.update().any()
        w = layer.parameterization.effective(base).detach()
        agree(own_update(layer).matrix(), (w - base).float(), 1e-5)
    trained = net.eval()(x).detach()
    agree(merge(net)(x).detach(), trained, 1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("name", FACTORIES)
def test_rates_follow_the_size_of_w0(name):
    """Ten times W0, and coefficients that multiply it move by a tenth, for the same step of W.

    DoRA's factors stand beside W0, and PiSSA's are its roots.
    """
    rates = []
    for size in (1.0, 10.0):
        torch.manual_seed(0)
        net = nn.Linear(8, 12)
        with torch.no_grad():
            net.weight.mul_(size)
        layer = convert(net, FACTORIES[name], ["*"], start="update")
        rates.append(layer.parameterization.lr_mults())
    for key, rate in rates[0].items():
        times = {"DoRA": 0.1 if key == "lora_magnitude" else 1, "PiSSA": 10**-0.5}.get(name, 0.1)
        assert rates[1][key] == pytest.approx(rate * times, rel=1e-5)


def test_updates_with_factors_are_looked_into_by_them():
    """W' = W0 + s L R of PiSSA, LoRAXS and Householder; the others have none."""
    for name, factory in FACTORIES.items():
        base = torch.randn(9, 8).double()
        p = factory(9, 8).double().for_base(base)
        with torch.no_grad():
            for q in p.parameters():
                q.add_(torch.randn_like(q))
        found = p.factors(base)
        assert (found is not None) == (name in ("PiSSA", "LoRAXS", "Householder"))
        update = own_update(ZooLinear(p, None, base, 0.7))
        assert (update.right is None) == (found is None)
        agree(update.matrix().double(), (p.effective(base, 0.7) - base).detach(), 1e-5)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_model_that_is_deleted_gives_its_memory_back_at_once(name):
    """What follows from W0 is in no cycle that waits for garbage to be collected."""
    net = convert(nn.Sequential(nn.Linear(6, 4)), FACTORIES[name], ["*"], start="update")
    gc.collect()
    gc.disable()
    try:
        net(torch.randn(3, 6))
        left = [weakref.ref(part) for part in (*net.parameters(), *net.modules())]
        del net
        assert [reference() for reference in left if reference() is not None] == []
    finally:
        gc.enable()
