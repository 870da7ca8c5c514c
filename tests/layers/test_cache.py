"""The weight that a layer keeps in eval mode: built once, always the right one, and never in what
is stored.
"""

import copy
import functools
import io
import pickle
import weakref

import pytest
import torch
from every import factories
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tasks.char_lm.module import CharLM
from zoo.layers.convert import zoo_layers
from zoo.layers.kept import Watch
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import (
    DCT,
    Dense,
    LoRA,
    OrthonormalSubspace,
    RandLoRA,
    WeightParameterization,
)
from zoo.testing import agree

FACTORIES = factories(0.5, of_base=True, RandLoRA={})
KINDS = [
    (name, update)
    for name, factory in FACTORIES.items()
    for update in (False, True)
    if update or not factory.func.needs_base
]


def layer(name="DCT", update=True, dtype=torch.float32):
    p = FACTORIES[name](16, 24)
    p.reset_parameters(0.0 if p.needs_base else 0.3)
    if p.needs_base:
        torch.manual_seed(0)
        for q in p.parameters():
            q.data.add_(0.1 * torch.randn_like(q))
    base = torch.randn(16, 24, dtype=dtype) if update else None
    return ZooLinear(p, torch.randn(16, dtype=dtype), base, scale=0.7).eval()


@pytest.fixture
def built(monkeypatch):
    """One entry each time that a DCT or Dense weight is built."""
    calls = []
    for cls in (OrthonormalSubspace, Dense):
        weight = cls.weight
        monkeypatch.setattr(
            cls, "weight", lambda self, weight=weight: calls.append(self) or weight(self)
        )
    return calls


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(("name", "update"), KINDS)
def test_kept_equals_built(name, update, amp):
    """eval(x) = train(x), the first time and again, in every precision; to the bit, where training
    builds W as well.
    """
    for dtype in (torch.float32, torch.bfloat16) if update else (torch.float32,):
        net, x = layer(name, update, dtype), torch.randn(3, 24, dtype=dtype)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            expected = net.train()(x)
            net.eval()
            first = net(x)
            if type(net.parameterization).forward_update is WeightParameterization.forward_update:
                assert torch.equal(first, expected)
            agree(first, expected, 2e-2 if expected.dtype == torch.bfloat16 else 1e-5)
            assert torch.equal(net(x), first)
            assert (net._kept.weight is not None) == net.parameterization.builds_weight


def test_w_is_built_once(built):
    net, x = layer(), torch.randn(3, 24)
    for context in (torch.no_grad, torch.inference_mode, torch.no_grad):
        with context():
            for _ in range(3):
                net(x)
    assert len(built) == 1


def step(net, **kind):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **kind)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def twice(net):
    """Other memory, and then other memory again, which may be where the first was."""
    trained = list(net.parameterization.parameters())
    for _ in range(2):
        vector_to_parameters(parameters_to_vector(trained) + 1, trained)


def inference(net):
    with torch.inference_mode():
        net.parameterization.coef.add_(1)


def double(net):
    net.parameterization.double()
    net.weight = nn.Parameter(net.base.double(), requires_grad=False)
    net.parameterization.float()
    net.weight = nn.Parameter(net.base.float() + 1, requires_grad=False)


CHANGES = {
    "in place": lambda net: net.parameterization.coef.add_(1),
    "in inference mode": inference,
    "reset_parameters": lambda net: net.parameterization.reset_parameters(1.0),
    "project_": lambda net: net.parameterization.project_(torch.randn(16, 24)),
    "AdamW": lambda net: step(net, foreach=False),
    "AdamW for each": lambda net: step(net, foreach=True),
    "a state dict": lambda net: net.load_state_dict(
        {k: v + 1 for k, v in net.state_dict().items()}
    ),
    "an assigned state dict": lambda net: net.load_state_dict(
        {k: v + 1 for k, v in net.state_dict().items()}, assign=True
    ),
    "a vector of parameters": twice,
    "another parameter": lambda net: setattr(
        net.parameterization, "coef", nn.Parameter(torch.randn(192))
    ),
    "another parameterization": lambda net: setattr(
        net, "parameterization", DCT(16, 24, ratio=0.1)
    ),
    "other positions": lambda net: net.parameterization.for_layer("other"),
    "another seed": lambda net: (
        setattr(net.parameterization, "seed", 5),
        net.parameterization.reset_buffers(),
    ),
    "W0": lambda net: net.base.mul_(2),
    "another W0": lambda net: setattr(
        net, "weight", nn.Parameter(torch.randn(16, 24), requires_grad=False)
    ),
    "s": lambda net: setattr(net, "scale", 2.0),
    "dtypes": double,
    "data, and eval again": lambda net: (net.parameterization.coef.data.add_(1), net.eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change):
    """eval(x) = x (W0 + s W)^T + b, of the parameters of now."""
    net, x = layer(), torch.randn(3, 24)
    with torch.no_grad():
        before = net(x)
        CHANGES[change](net)
        after = net(x)
        expected = x @ (net.base + net.scale * net.parameterization.weight()).mT + net.bias
    agree(after, expected, 1e-5)
    assert (after - before).abs().max() > 1e-3


def test_an_attribute_that_the_weight_follows_from_is_seen():
    """Of a subclass: no buffer and no parameter tells of it."""

    class Gain(DCT):
        gain = 1.0

        def weight(self):
            return self.gain * super().weight()

    net, x = ZooLinear(Gain(16, 24, ratio=0.5)).eval(), torch.randn(3, 24)
    with torch.no_grad():
        once = net(x)
        net.parameterization.gain = 2.0
        agree(net(x), 2 * once, 1e-5)


@pytest.mark.parametrize("name", ["weight", "expand", "synthesize", "analyze"])
def test_a_method_of_one_instance_is_not_replaced_in_silence(name):
    """What stands for it, a batch or a product without W, would pass it by."""
    with pytest.raises(
        TypeError, match=f"{name} of one DCT cannot be replaced: define it in a subclass"
    ):
        setattr(DCT(16, 24, ratio=0.5), name, lambda *_: torch.zeros(16, 24))


def test_what_version_counters_miss_is_not_seen():
    """As documented: a write through `.data` needs a call of eval or train."""
    net, x = layer(), torch.randn(3, 24)
    with torch.no_grad():
        before = net(x)
        net.parameterization.coef.data.add_(1)
        assert torch.equal(net(x), before)
        assert not torch.equal(net.eval()(x), before)


@pytest.mark.parametrize("update", [False, True])
def test_precision_is_that_of_the_call(update):
    """One layer called in float32, under autocast and back: W is kept in the dtype of each."""
    net, x = layer(update=update), torch.randn(3, 24)
    with torch.no_grad():
        wide = net(x)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                assert net(x).dtype == net._kept.weight.dtype == torch.bfloat16
            assert torch.equal(net(x), wide)
        if update:
            net.bias = None
            assert net(x.double().bfloat16()).dtype == net._kept.weight.dtype == torch.bfloat16


def test_training_in_eval_mode_keeps_nothing():
    """A fused optimizer's step, which no version counter tells of, may follow."""
    net, x = layer(), torch.randn(3, 24)
    net(x).sum().backward()
    with torch.no_grad():
        before = net(x)
        step(net, fused=True)
        after = net(x)
        assert (after - before).abs().max() > 1e-3 and torch.equal(after, net.eval()(x))
        assert net._kept.weight is not None


def test_nothing_is_kept_where_a_gradient_is_asked_for():
    net, x = layer(), torch.randn(3, 24)
    with torch.no_grad():
        net(x)
    net(x).sum().backward()
    assert net._kept.weight is None and net.parameterization.coef.grad.abs().max() > 0
    with torch.no_grad():
        net.train()(x)
    assert net._kept.weight is None


def test_gradients_of_x_go_through_a_kept_weight():
    """Of a frozen layer, W built in inference mode or not."""
    net, x = layer().requires_grad_(False), torch.randn(3, 24)
    with torch.inference_mode():
        net(x)
    kept = net._kept.weight
    (grad,) = torch.autograd.grad(net(x.requires_grad_()).sum(), x)
    assert net._kept.weight is kept
    agree(grad, net.effective_weight().sum(0).expand(3, 24), 1e-5)


def test_functional_calls_have_their_own_parameters():
    net, x = layer("Dense"), torch.randn(3, 24)
    other = {name: p.detach() + 1 for name, p in net.named_parameters()}
    with torch.no_grad():
        before = net(x)
        called = torch.func.functional_call(net, other, (x,))
        stack = torch.stack([net.parameterization.coef, other["parameterization.coef"]])
        names = {name: None if name != "parameterization.coef" else 0 for name in other}
        several = torch.func.vmap(
            functools.partial(torch.func.functional_call, net), in_dims=(names, None)
        )
        both = several({**other, "parameterization.coef": stack}, x)
        assert torch.equal(net(x), before)
    expected = copy.deepcopy(net)
    expected.load_state_dict(other)
    agree(called, expected(x).detach(), 1e-6)
    agree(both[1], called, 1e-6)
    assert (both[0] - called).abs().max() > 1e-3


def test_parameters_without_versions_are_not_watched():
    with torch.inference_mode():
        net, x = layer(), torch.randn(3, 24)
        first = net(x)
        net.parameterization.coef.add_(1)
        assert net._kept.weight is None and not torch.equal(net(x), first)
    with pytest.raises(ValueError, match="coef cannot be watched"):
        Watch(net.parameterization)


def test_a_watch_holds_the_memory_it_saw():
    """So that nothing else can come to lie at an address that it compares with."""
    p = nn.ParameterList([torch.zeros(1000)])
    seen, watch = StorageWeakRef(p[0].untyped_storage()), Watch(p)
    p[0].data = torch.ones(1000)
    assert not watch.unchanged() and not seen.expired()
    del watch
    assert seen.expired()


class Own(WeightParameterization):
    """A user's map with a path of its own."""

    def __init__(self, m, n):
        super().__init__(m, n)
        self.coef = nn.Parameter(torch.randn(m, 1))

    def weight(self):
        return self.coef.expand(-1, self.in_features)

    def forward(self, x, bias=None):
        return x.sum(-1, keepdim=True) * self.coef.mT

    def reset_parameters(self, std):
        """Nobody asks for it here."""

    def project_(self, target):
        """Nor for this."""


def test_paths_that_build_no_weight_are_left_alone(built):
    assert not LoRA(16, 24, rank=2).builds_weight and not Own(16, 24).builds_weight
    assert DCT(16, 24, ratio=0.1).builds_weight and RandLoRA(16, 24).builds_weight
    net, x = ZooLinear(Own(16, 24)).eval(), torch.randn(3, 24)
    with torch.no_grad():
        assert torch.equal(net(x), net.parameterization(x)) and net._kept.weight is None


def test_recompute_keeps_nothing_here_either(built):
    net, x = layer(), torch.randn(3, 24)
    net.recompute = True
    with torch.no_grad():
        first = net(x)
        assert torch.equal(net(x), first) and net._kept.weight is None and len(built) == 2


def test_nothing_kept_is_stored_or_copied():
    net, x = layer(), torch.randn(3, 24)
    names, fresh = list(net.state_dict()), len(pickle.dumps(net))
    with torch.no_grad():
        net(x)
    assert net._kept.weight is not None
    assert list(net.state_dict()) == names and len(pickle.dumps(net)) == fresh
    saved = io.BytesIO()
    torch.save(net, saved)
    saved.seek(0)
    for other in (
        copy.deepcopy(net),
        copy.copy(net),
        pickle.loads(pickle.dumps(net)),
        torch.load(saved, weights_only=False),
    ):
        assert other._kept.weight is None
        with torch.no_grad():
            assert torch.equal(other(x), net(x))


def lightning(net):
    """As its validation loop ends."""
    for module in net.modules():
        module.training = True
    net(torch.randn(3, 24))


@pytest.mark.parametrize("end", [nn.Module.train, nn.Module.eval, nn.Module.double, lightning])
def test_its_memory_is_free_again(end):
    net = nn.Sequential(layer())
    with torch.no_grad():
        net(torch.randn(3, 24))
    kept = weakref.ref(net[0]._kept.weight)
    assert kept() is not None
    end(net)
    assert kept() is None


def test_compiled_networks_keep_nothing():
    """And change nothing, whether the layer kept a weight before or not."""
    net, x = layer(), torch.randn(3, 24)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        first = compiled(x)
        assert net._kept.weight is None
        net.parameterization.coef.add_(1)
        agree(compiled(x), net(x), 1e-6)
        assert (compiled(x) - first).abs().max() > 1e-3


def test_sampling_builds_each_weight_once(built):
    model = CharLM(
        "ab \n", functools.partial(DCT, ratio=0.5), block_size=8, layers=2, width=8, heads=2
    ).eval()
    built.clear()
    text = model.generate("a", 10)
    assert len(text) == 11 and len(built) == len(zoo_layers(model)) == 8


@torch.no_grad()
def test_a_map_within_a_map_is_watched():
    """Its buffers and attributes, too, are what W follows from."""

    class Outer(WeightParameterization):
        def __init__(self, m, n):
            super().__init__(m, n)
            self.inner = DCT(m, n, ratio=0.5)

        def weight(self):
            return 2 * self.inner.weight()

        def reset_parameters(self, std): ...

        def project_(self, target): ...

    layer, x = ZooLinear(Outer(6, 5)).eval(), torch.randn(3, 5)
    before = layer(x)
    layer.parameterization.inner.for_layer("another")
    assert not torch.allclose(layer(x), before)
    assert torch.allclose(layer(x), x @ layer.parameterization.weight().T, atol=1e-6)
