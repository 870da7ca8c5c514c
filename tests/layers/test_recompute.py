"""W built again in backward: the same gradients, for the bytes of x and the time of one more
rebuild.
"""

import copy
import functools

import pytest
import torch
from operations import Operations
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tasks.char_lm.module import CharLM
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA, RowDCT, Sparse, Sum
from zoo.runs import checkpoints
from zoo.testing import agree

M, N, T = 200, 168, 5  # large enough for the fast transform
KINDS = {
    "DCT": functools.partial(DCT, ratio=0.3),
    "RowDCT": functools.partial(RowDCT, ratio=0.3),
    "Sparse": functools.partial(Sparse, ratio=0.3),
    "RandLoRA": RandLoRA,
    "Dense": Dense,
    "LoRA": functools.partial(LoRA, rank=3),
}


def layer(kind="DCT", update=False, recompute=True):
    torch.manual_seed(1)
    p = KINDS[kind](M, N)
    p.reset_parameters(0.1)
    base = torch.randn(M, N) if update else None
    return ZooLinear(p, torch.randn(M), base, scale=0.7 if update else 1.0, recompute=recompute)


def gradients(net, x, amp=False, forward=None):
    """Of x and of everything that is trained."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = net(x) if forward is None else forward(x)
    trained = [p for p in net.parameters() if p.requires_grad]
    return torch.autograd.grad(y.float().sin().sum(), [x, *trained])


def same(actual, expected):
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def operations(net, amp=False):
    """Of a forward, of its backward, and the bytes that autograd keeps in between besides x and the
    parameters.
    """
    x = torch.randn(T, N).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp), Operations() as forward:
        y = net(x)
    held = forward.held(x, y, *net.parameters(), *net.buffers())
    with Operations() as backward:
        y.backward(torch.ones_like(y))
    return forward, backward, held


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_to_the_bit(kind, update, amp):
    """dL/dx = dL/dy (W0 + s W), W built again."""
    x = torch.randn(2, T, N)
    expected = gradients(layer(kind, update, recompute=False), x, amp)
    assert same(gradients(layer(kind, update), x, amp), expected)
    assert max(g.abs().max() for g in expected[2:]) > 0


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("kind", ["DCT", "RowDCT", "Sparse", "RandLoRA"])
def test_backward_keeps_x_alone(kind, update):
    """Bytes beside x and the parameters: 4 mn with W kept, nothing with W built again; 2 mn + 2 Tn
    in bfloat16.
    """
    if kind != "RandLoRA":  # which has factors as well, and chooses
        assert operations(layer(kind, update, recompute=False))[2] == 4 * M * N
    assert operations(layer(kind, update))[2] == 0
    if kind == "DCT":
        assert (
            operations(layer(kind, update, recompute=False), amp=True)[2] == 2 * M * N + 2 * T * N
        )
        assert operations(layer(kind, update), amp=True)[2] == 0


@pytest.mark.parametrize("update", [False, True])
def test_no_product_is_repeated(update):
    """Three products a step, as ever, and one transform more."""
    plain, again = (
        operations(layer("DCT", update, recompute=False)),
        operations(layer("DCT", update)),
    )
    for steps, rebuilds in ((plain, 0), (again, 1)):
        assert [step.count("mm", "addmm") for step in steps[:2]] == [1, 2]
        assert [step.count("_fft_c2r") for step in steps[:2]] == [2, 2 * rebuilds]


def test_w_is_not_built_again_where_x_needs_no_gradient(monkeypatch):
    net, built = layer(update=True), []
    weight = DCT.weight
    monkeypatch.setattr(DCT, "weight", lambda self: built.append(1) or weight(self))
    net(torch.randn(T, N)).sum().backward()
    assert len(built) == 1 and net.parameterization.coef.grad.abs().max() > 0


def test_matrix_free_paths_are_left_alone():
    assert not layer("LoRA").parameterization.builds_weight
    assert operations(layer("LoRA"))[1].count("mm", "addmm") == 4  # none but those of the gradients


def test_backward_refuses_coefficients_that_changed_since():
    net = layer()
    y = net(torch.randn(T, N).requires_grad_())
    with torch.no_grad():
        net.parameterization.coef.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_inside_a_network_whose_activations_are_computed_again(reentrant):
    """Gradient checkpointing of the network on top: it then keeps no x of these layers either."""

    def net(recompute):
        first, second = layer(recompute=recompute), layer(update=True, recompute=recompute)
        return nn.Sequential(first, nn.Linear(M, N), nn.Tanh(), second)

    x, plain, again = torch.randn(T, N).requires_grad_(), net(False), net(True)
    again.load_state_dict(plain.state_dict())
    plain(x).sin().sum().backward()
    with Operations() as forward:
        y = checkpoint(again, x, use_reentrant=reentrant)
    assert forward.held(x, y, *again.parameters(), *again.buffers()) == 0
    y.sin().sum().backward()
    assert same(
        [p.grad for p in again.parameters() if p.requires_grad],
        [p.grad for p in plain.parameters() if p.requires_grad],
    )


def test_second_derivatives():
    net = layer(update=True).double()
    x = torch.randn(2, N, dtype=torch.double).requires_grad_()
    found = []
    for recompute in (False, True):
        net.recompute = recompute
        (grad,) = torch.autograd.grad(net(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, net.parameterization.coef]))
    agree(found[1][0], found[0][0], 1e-12)
    agree(found[1][1], found[0][1], 1e-12)


def test_under_ddp(tmp_path):
    x, plain = torch.randn(T, N), nn.Sequential(layer(recompute=False), nn.Tanh(), nn.Linear(M, N))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        again = copy.deepcopy(plain)
        again[0].recompute = True
        for net in (plain, DistributedDataParallel(again)):
            net(x.requires_grad_()).sin().sum().backward()
        assert same([p.grad for p in again.parameters()], [p.grad for p in plain.parameters()])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["DCT", "RandLoRA"])
def test_compiles(kind):
    """Without a graph break."""
    net, x = layer(kind, update=True), torch.randn(T, N)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(net, x, forward=compiled), gradients(net, x), strict=True):
        agree(a, b, 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
def test_a_scaled_update_that_is_a_product_compiles_to_itself():
    """inductor makes one product of torch.add(W0, A B, alpha=s), and forgets s."""
    # Enough rows for W to be built.
    net, x = (layer("RandLoRA", update=True, recompute=False), torch.randn(600, N))
    torch._dynamo.reset()
    agree(torch.compile(net)(x), net(x), 1e-5)


def test_what_a_map_drops_is_the_same_again():
    """Rebuilt in backward, W meets the numbers of x that it met in the forward pass."""
    drops = functools.partial(LoRA, rank=3, dropout=0.5)
    sparse = functools.partial(Sparse, ratio=0.3)
    net, x = ZooLinear(Sum(M, N, parts=[drops, sparse]), None, torch.randn(M, N)), torch.randn(T, N)
    found = []
    for recompute in (False, True):
        net.recompute = recompute
        torch.manual_seed(2)
        found.append(gradients(net, x))
    assert net.parameterization.builds_weight and same(*found)


def test_convert_and_tasks_hand_it_on():
    net = convert(
        nn.Sequential(nn.Linear(8, 6)), KINDS["DCT"], ["*"], start="update", recompute=True
    )
    assert net[0].recompute and "recompute=True" in repr(net)
    task = CharLM("ab", KINDS["DCT"], layers=1, width=8, heads=2)
    assert not any(found.recompute for found in zoo_layers(task.net).values())
    task.recompute, task.targets = True, ["*"]
    assert task.parameterize(nn.Sequential(nn.Linear(8, 6)))[0].recompute


@pytest.mark.parametrize("config", ["dct_half.yaml", "glue_rte dct_8"])
def test_an_option_of_every_task(config, trained, small, tune):
    """A run with it ends at the same coefficients, and its checkpoint says so."""
    options = small if config == "dct_half.yaml" else tune
    plain, again = (
        trained("plain", config, *options),
        trained("again", config, *options, "--model.recompute=true"),
    )
    states = [checkpoints.load(checkpoints.resolve(run)) for run in (plain, again)]
    assert [state["hyper_parameters"]["recompute"] for state in states] == [False, True]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    assert same(states[1]["state_dict"].values(), states[0]["state_dict"].values())
    rebuilt = checkpoints.rebuild(checkpoints.resolve(again))
    assert all(found.recompute for found in zoo_layers(rebuilt.net).values())
