"""What becomes of the layers that `convert` replaces: which it refuses, and what of the others
stays.
"""

import copy
import functools
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from every import OF_EACH_KIND, factories
from not_plain import COMPUTED, NOT_PLAIN
from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import convert, counts, merge, zoo_layers
from zoo.parameterizations import DCT, LoRA
from zoo.testing import agree

HALF = functools.partial(DCT, ratio=0.5)
CLASSES = factories(0.5, RandLoRA={})
STARTS = ["update", "random", "project"]


def moved(network):
    """The network, with coefficients that are not those of the start."""
    for layer in zoo_layers(network).values():
        layer.parameterization.reset_parameters(0.1)
    return network


# ---- Layers that are another function than their weight says -------------------------------------


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        *((kind, start) for kind in NOT_PLAIN for start in ("random", "project")),
        *((kind, "update") for kind in COMPUTED),
    ],
)
def test_a_layer_that_is_not_plain_is_refused_by_name(kind, start):
    """And nothing is converted: neither it nor the layer before it.

    As an update such a layer is taken (`test_foreign`), but where hooks set its weight.
    """
    network = nn.Sequential(nn.Linear(6, 6), NOT_PLAIN[kind](4, 6))
    with pytest.raises(UserError, match="1 is a .*: leave it out of the targets"):
        convert(network, HALF, ["*"], start=start)
    assert not zoo_layers(network)
    assert list(zoo_layers(convert(network, HALF, ["0"], start=start))) == ["0"]


def test_a_subclass_with_the_usual_forward_pass_is_plain_and_comes_back():
    attention = moved(convert(nn.MultiheadAttention(8, 2), HALF, ["*"], start="update"))
    assert (
        type(merge(attention).out_proj)
        is type(nn.MultiheadAttention(8, 2).out_proj)
        is not nn.Linear
    )


# ---- Hooks and attributes ------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_hooks_stay_and_their_handles_remove_them(start):
    network, seen = nn.Sequential(nn.Linear(6, 4)), []
    before = network[0].register_forward_pre_hook(lambda module, args: seen.append("before"))
    network[0].register_forward_hook(lambda module, args, output: output + 1)
    network[0].register_full_backward_hook(lambda module, grads, _: seen.append("back"))
    moved(convert(network, HALF, ["*"], start=start))
    x = torch.randn(3, 6, requires_grad=True)
    y = network(x)
    agree(
        y.detach(), F.linear(x, network[0].effective_weight(), network[0].bias).detach() + 1, 1e-5
    )
    y.sum().backward()
    assert seen == ["before", "back"]
    agree(merge(network)(x).detach(), y.detach(), 1e-5)
    before.remove()
    network(x)
    assert seen == ["before", "back", "before"]


def test_hooks_on_loading_know_the_layer_that_stands_there():
    """A hook that torch gives its module holds a weak reference to it."""
    network, seen = nn.Sequential(nn.Linear(6, 4)), []
    handle = network[0].register_load_state_dict_pre_hook(lambda module, *args: seen.append(module))
    convert(network, HALF, ["*"])
    others = merge(network), copy.deepcopy(network)
    for each in (network, *others):
        each.load_state_dict(each.state_dict())
        assert seen.pop() is each[0]
    handle.remove()
    network.load_state_dict(network.state_dict())
    assert not seen


def test_attributes_stay_and_come_back():
    network = nn.Sequential(nn.Linear(6, 4))
    network[0].tag, network[0].extra = "mine", nn.Parameter(torch.ones(2))
    network[0].register_buffer("steps", torch.zeros(1), persistent=False)
    network[0].inside = nn.Dropout(0.5)
    network.eval()
    convert(network, HALF, ["*"])
    for layer in (
        network[0],
        merge(network)[0],
        pickle.loads(pickle.dumps(network))[0],
        copy.deepcopy(network)[0],
    ):
        assert (
            layer.tag == "mine"
            and layer.extra.requires_grad
            and layer.steps.shape == (1,)
            and layer.inside.p == 0.5
        )
        assert not layer.training and "steps" not in layer.state_dict()
    assert set(vars(merge(network)[0])) == set(vars(nn.Linear(6, 4))) | {"tag"}


def test_an_attribute_that_means_something_else_is_refused():
    network = nn.Sequential(nn.Linear(6, 4))
    network[0].scale = 2.0
    with pytest.raises(UserError, match="0 has an attribute 'scale'"):
        convert(network, HALF, ["*"])
    assert type(network[0]) is nn.Linear


# ---- Layers with several names, and weights with several layers ----------------------------------


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList([nn.Sequential(self.first)])

    def forward(self, x):
        return self.blocks[0](self.first(x).tanh())


class Tied(nn.Module):
    """Two layers with one weight, and biases of their own."""

    def __init__(self, embedding=False):
        super().__init__()
        self.first = nn.Embedding(9, 6) if embedding else nn.Linear(6, 9)
        self.second = nn.Linear(6, 9)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh()[..., :6])


def names(network, layer):
    return [
        name for name, module in network.named_modules(remove_duplicate=False) if module is layer
    ]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("target", ["first", "blocks.*", "*"])
def test_a_layer_with_two_names_stays_one(target, start):
    network, x = Twice(), torch.randn(3, 6)
    dense = sum(p.numel() for p in network.parameters())
    moved(convert(network, HALF, [target], start=start))
    assert (
        names(network, network.first) == ["first", "blocks.0.0"] and len(zoo_layers(network)) == 1
    )
    assert counts(network)["total"] == dense and counts(network)["coefficients"] == 18
    plain = merge(network)
    assert names(plain, plain.first) == ["first", "blocks.0.0"] and type(plain.first) is nn.Linear
    agree(plain(x).detach(), network(x).detach(), 1e-5)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", CLASSES)
def test_layers_that_share_a_weight_share_its_parameterization(name, start):
    network, x = Tied(), torch.randn(3, 6)
    dense = sum(p.numel() for p in network.parameters())
    before = network(x).detach()
    convert(network, CLASSES[name], ["*"], start=start)
    first, second = network.first, network.second
    assert first.parameterization is second.parameterization and first.base is second.base
    assert first.bias is not second.bias
    if start == "update":
        agree(network(x).detach(), before, 1e-5)
    one = sum(p.numel() for p in first.parameterization.parameters())
    assert counts(network)["total"] == dense and counts(network)["coefficients"] == one
    moved(network)
    network(x).sum().backward()
    plain = merge(network)
    assert (
        plain.first.weight is plain.second.weight
        and sum(p.numel() for p in plain.parameters()) == dense
    )
    agree(plain(x).detach(), network(x).detach(), 1e-5)
    again = copy.deepcopy(network).double()
    assert (
        again.first.parameterization is again.second.parameterization
        and again.first.base is again.second.base
    )


def test_layers_that_share_a_weight_cannot_differ():
    with pytest.raises(
        UserError, match="second and first have one weight, and would get different"
    ):
        convert(Tied(), HALF, ["*"], {"second": functools.partial(LoRA, rank=1)})


@pytest.mark.parametrize("start", ["random", "project"])
@pytest.mark.parametrize(
    ("network", "targets"), [(Tied(True), ["*"]), (Tied(), ["second"]), (Tied(), ["first"])]
)
def test_a_tie_to_what_stays_is_refused_from_scratch(network, targets, start):
    """They would be untied, and the model be another one."""
    with pytest.raises(
        UserError,
        match="has the weight of (first|second), which stays as it is: they would be untied",
    ):
        convert(network, HALF, targets, start=start)
    assert not zoo_layers(network)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_base_of_an_update_stays_tied(frozen):
    """y = x (E + s W)^T, E the embedding that it is: where that trains, so does the base, and
    gradients add up.
    """
    network, ids = Tied(True), torch.arange(6).view(2, 3)
    if frozen:
        network.requires_grad_(False)
    dense = sum(p.numel() for p in network.parameters())
    moved(convert(network, HALF, ["second"], start="update"))
    assert network.second.base is network.first.weight
    assert counts(network)["total"] == dense
    network(ids).square().sum().backward()
    if frozen:
        assert network.first.weight.grad is None
    else:
        plain = Tied(True)
        plain.second.weight = nn.Parameter((network.second.effective_weight()).detach())
        plain.first.weight = nn.Parameter(network.first.weight.detach())
        plain.second.bias = nn.Parameter(network.second.bias.detach())
        plain(ids).square().sum().backward()
        agree(network.first.weight.grad, plain.first.weight.grad + plain.second.weight.grad, 1e-5)
    with torch.no_grad():
        network.first.weight.add_(1)
    agree(merge(network)(ids).detach(), network(ids).detach(), 1e-5)


def test_biases_stay_the_same_parameters():
    """A bias that two layers share, or that an optimizer has already."""
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    network[1].bias = network[0].bias
    bias = network[0].bias
    convert(network, HALF, ["*"])
    assert network[0].bias is network[1].bias is bias


# ---- Where a model is used in other ways than by itself ------------------------------------------


def replicated(module):
    """What `nn.DataParallel` makes of a module on each device: its parameters are plain tensors
    there.
    """
    replica = module._replicate_for_data_parallel()
    for key, child in module._modules.items():
        replica._modules[key] = None if child is None else replicated(child)
    for key, p in module._parameters.items():
        if p is None:
            replica._parameters[key] = None
        else:
            setattr(replica, key, p * 1.0)
    for key, buffer in module._buffers.items():
        setattr(replica, key, None if buffer is None else buffer.clone())
    return replica


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("name", CLASSES)
def test_replicas_of_data_parallel_compute_the_same(name, start, training, bias):
    network, x = nn.Sequential(nn.Linear(6, 4, bias), nn.Linear(4, 4, bias)), torch.randn(3, 6)
    moved(convert(network, CLASSES[name], ["*"], start=start)).train(training)
    parameters = [p for p in network.parameters() if p.requires_grad]
    expected = network(x)
    actual = replicated(network)(x)
    agree(actual.detach(), expected.detach(), 1e-5)
    for a, b in zip(
        torch.autograd.grad(actual.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        agree(a, b, 1e-5)
    with torch.no_grad():
        agree(replicated(network)(x), expected.detach(), 1e-5)
        replica = replicated(network)
        agree(x @ replica[0].weight.T, x @ network[0].weight.T, 1e-5)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_that_is_a_linear_layer_itself(name, start):
    model, x = nn.Linear(6, 4, bias=False), torch.randn(3, 6)
    layer = moved(convert(model, CLASSES[name], ["*"], start=start)).eval()
    with torch.no_grad():
        agree(layer(x), x @ layer.effective_weight().T, 1e-5)
    assert type(merge(layer)) is nn.Linear and counts(layer)["total"] == 24
    agree(merge(layer)(x).detach(), layer(x).detach(), 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", ["update", "random"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_forward_pass_on_the_meta_device_has_the_shape(name, start, training):
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4, bias=False))
        convert(network, CLASSES[name], ["*"], start=start).train(training)
        y = network(torch.randn(3, 6))
        weight = network[0].weight.T
    assert y.is_meta and y.shape == (3, 4) and weight.shape == (6, 4)
    with torch.no_grad():
        assert network(torch.randn(2, 3, 6, device="meta")).shape == (2, 3, 4)


@pytest.mark.parametrize("name", CLASSES)
def test_plain_ddp_is_told_of_every_fixed_buffer(name):
    """It would broadcast them at each forward pass; they are named as they are at the time,
    whatever rebuilt them.
    """
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    convert(network, CLASSES[name], ["0"])
    for module in (
        network,
        network.double(),
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
    ):
        ignored = set(module._ddp_params_and_buffers_to_ignore)
        there = module.named_buffers(remove_duplicate=False)  # parts of a product may share a side
        assert ignored == {name for name, _ in there if name.startswith("0.")}
    assert not hasattr(merge(network), "_ddp_params_and_buffers_to_ignore")


@pytest.mark.parametrize("name", (*OF_EACH_KIND, "Sum"))
def test_a_model_that_is_deleted_gives_its_memory_back_at_once(name):
    """No cycle waits for garbage to be collected: for a large model that is an out-of-memory."""
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4))
    convert(network, CLASSES[name], ["*"])
    gc.collect()
    gc.disable()
    try:
        for train in (True, False):
            network.train(train)(torch.randn(3, 6))
        with torch.no_grad():
            network(torch.randn(3, 6))
        left = [weakref.ref(p) for p in (*network.parameters(), *network.modules())]
        del network
        assert [reference() for reference in left if reference() is not None] == []
    finally:
        gc.enable()


def test_plain_ddp_broadcasts_what_is_not_fixed_and_nothing_else(tmp_path):
    """Beside the bases of a RandomOrthonormal layer, its coefficients' gradients are small."""
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    convert(network, CLASSES["RandomOrthonormal"], ["0"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(network)
        assert {id(b) for b in wrapped.modules_buffers} == {id(b) for b in network[1].buffers()}
        wrapped(torch.randn(3, 6)).sum().backward()
        assert network[0].parameterization.coef.grad is not None
    finally:
        torch.distributed.destroy_process_group()
