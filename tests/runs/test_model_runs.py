"""What a network in memory changed, beside the weights that it had before."""

import copy
import functools
import pickle

import pytest
import torch
from every import factories
from networks import Kinds, Net, adapted, assert_same, disturb, of_kinds, state_of
from torch import nn

from zoo.errors import UserError
from zoo.layers.adapters import Adapters
from zoo.layers.convert import convert, merge, zoo_layers
from zoo.layers.swap import swap
from zoo.parameterizations import DCT, Dense, LoRA
from zoo.runs.updates import read

FACTORIES = factories(of_base=True)
HALF = functools.partial(DCT, ratio=0.5)


def plain_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Of the merged network's linear layers, in float32."""
    return {
        name: module.weight.detach().float()
        for name, module in merge(network).named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FACTORIES)
def test_dw_is_the_merged_weight_minus_what_was_there_before(name, dtype, bias):
    torch.manual_seed(1)
    network = Net(bias=bias).to(dtype).requires_grad_(False)
    before = {n: m.weight.float() for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    network = disturb(convert(network, FACTORIES[name], ["query", "value"], start="update"))
    state = state_of(network)
    source = read(network)
    after = plain_weights(network)
    assert (source.what, list(source.updates)) == ("dW", list(zoo_layers(network)))
    for layer, update in source.updates.items():
        rounding = 2e-6 if dtype == torch.float32 else 2e-2 * after[layer].abs().max().item()
        assert torch.allclose(
            update.matrix(), after[layer] - before[layer], atol=rounding, rtol=1e-4
        )
        assert update.matrix().dtype == torch.float32 and not update.left.requires_grad
    assert_same(state, state_of(network))


def test_a_copy_and_a_pickle_say_the_same():
    network = adapted()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), network.eval()):
        found = read(other).updates
        for layer, update in read(network).updates.items():
            assert torch.equal(found[layer].matrix(), update.matrix())


def test_tied_layers_have_one_update():
    network = Net().requires_grad_(False)
    network.blocks[1].query.weight = network.blocks[0].query.weight
    convert(network, functools.partial(LoRA, rank=2), ["query"], start="update")
    one, other = read(disturb(network)).updates.values()
    assert torch.equal(one.matrix(), other.matrix())


def test_a_factor_stays_one_and_the_scale_is_in_it():
    network = adapted(functools.partial(LoRA, rank=3), scale=0.25)
    for name, layer in zoo_layers(network).items():
        update = read(network).updates[name]
        assert update.right.shape[0] == 3
        assert torch.allclose(update.matrix(), layer.update(), atol=1e-6)


@pytest.mark.parametrize("start", ["random", "project"])
def test_without_a_frozen_weight_it_is_w_itself(start):
    network = adapted(start=start)
    source = read(network)
    assert source.what == "W" and source.notes == [
        "has no weight that training started from: W itself is looked at"
    ]
    after = plain_weights(network)
    for layer, update in source.updates.items():
        assert torch.allclose(update.matrix(), after[layer], atol=1e-6)


@pytest.mark.parametrize("name", ["DCT", "LoRA", "DoRA"])
def test_every_kind_of_layer_is_a_matrix(name):
    """A convolution's is (out, in / groups x kernel), an embedding's a row for each index."""
    torch.manual_seed(1)
    before = {key: p.clone() for key, p in Kinds().state_dict().items()}
    torch.manual_seed(1)
    network = of_kinds(FACTORIES[name]) if name != "DoRA" else without_foreign(FACTORIES[name])
    found = read(network).updates
    shapes = {key: update.shape for key, update in found.items()}
    expected = {"embedding": (11, 8), "grouped": (12, 12), "image": (4, 6), "head": (5, 12)}
    assert shapes == expected | ({} if name == "DoRA" else {"foreign": (12, 12)})
    after = {
        key: layer.effective_weight()
        for key, layer in zoo_layers(network).items()
        if key != "foreign"
    }
    for key, weight in after.items():
        dw = weight - before[f"{key}.weight"].flatten(1)
        assert torch.allclose(found[key].matrix(), dw, atol=1e-5), key
    assert not found["embedding"].matrix()[0].any()  # padding


def without_foreign(factory):
    network = Kinds().requires_grad_(False)
    names = ["embedding", "grouped", "image", "head"]
    return disturb(swap(network, dict.fromkeys(names, factory), start="update"))


def test_a_convolution_beside_the_plain_one_before():
    torch.manual_seed(1)
    before = Kinds()
    torch.manual_seed(1)
    network = without_foreign(HALF)
    found, own = read(network, before=before).updates, read(network).updates
    assert found.keys() == own.keys() - {"embedding"}  # left out unless it is named
    for key, update in found.items():
        assert torch.allclose(update.matrix(), own[key].matrix(), atol=1e-6)


def test_a_layer_that_is_switched_off_has_no_update():
    network = adapted(functools.partial(LoRA, rank=2))
    layers = list(zoo_layers(network).values())
    layers[0].enabled = False
    assert len(read(network).updates) == len(layers) - 1
    for layer in layers:
        layer.enabled = False
    with pytest.raises(UserError, match="the updates of 'Net' are switched off: look at it outsi"):
        read(network)


def test_beside_the_network_before_it_is_dw_of_all_matrices():
    """Of one that was trained in full, of one that starts from a projection, and of an adapter."""
    for trained in (
        lambda net: disturb(net),
        lambda net: disturb(convert(net, Dense, ["query", "value"], start="project")),
        lambda net: disturb(convert(net.requires_grad_(False), HALF, ["query"], start="update")),
    ):
        torch.manual_seed(2)
        before = Net()
        network = trained(copy.deepcopy(before))
        source = read(network, before=before)
        after = plain_weights(network)
        changed = {
            name: after[name] - module.weight
            for name, module in before.named_modules()
            if isinstance(module, nn.Linear) and not torch.equal(after[name], module.weight)
        }
        assert source.what == "dW" and source.updates.keys() == changed.keys()
        for name, update in source.updates.items():
            assert torch.allclose(update.matrix(), changed[name], atol=1e-6)
        assert source.conditions["before"] == "Net"


def test_a_network_and_a_file_are_a_pair(tmp_path):
    before = Net()
    torch.save(before.state_dict(), tmp_path / "before.bin")
    after = disturb(copy.deepcopy(before))
    torch.save(after.state_dict(), tmp_path / "after.bin")
    expected = read(after, before=before).updates
    for pair in (
        (after, str(tmp_path / "before.bin")),
        (str(tmp_path / "after.bin"), before),
        (str(tmp_path / "after.bin"), str(tmp_path / "before.bin")),
    ):
        found = read(pair[0], before=pair[1]).updates
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name].matrix(), expected[name].matrix()) for name in expected)


def test_mistakes_are_one_line():
    network = adapted()
    with pytest.raises(UserError, match=r"^'Net' has no layer that zoo parameterized: adapt it "):
        read(Net())
    with pytest.raises(UserError, match=r"'nothing' matches no layer; there are: blocks\.\*\.que"):
        read(network, layers=["nothing"])
    with pytest.raises(UserError, match="'Net' has no update to analyse: dW is 0"):
        read(convert(Net(), functools.partial(LoRA, rank=2), ["query"], start="update"))
    with pytest.raises(UserError, match="is on the meta device, without numbers"):
        read(copy.deepcopy(network).to("meta"))
    with pytest.raises(UserError, match="'Net' and 'Net' are equal, nothing changed"):
        read(network, before=copy.deepcopy(network))
    with pytest.raises(UserError, match="'Linear' and 'Net' have no matrix in common"):
        read(nn.Linear(3, 3), before=network)
    with pytest.raises(UserError, match=r"query is \(12, 12\) in 'Net' and \(8, 8\) in 'Net'"):
        read(Net(), before=Net(width=8))
    with torch.no_grad():
        next(iter(zoo_layers(network).values())).parameterization.coef[0] = float("nan")
    with pytest.raises(UserError, match=r"blocks\.0\.query holds NaN or infinite values in 'Net'"):
        read(network)


def test_several_adapters_are_looked_at_as_they_are_in_use():
    """By their weights; and of none there is nothing."""
    network = Net().requires_grad_(False)
    before = network.blocks[0].query.weight.clone()
    convert(network, HALF, ["query"], start="update")
    for layer in zoo_layers(network).values():
        one, m, n = layer.parameterization, *layer.parameterization.shape
        maps = {"a": one, "b": LoRA(m, n, rank=2)}
        layer.parameterization = Adapters(maps, {"a": 1.0, "b": 2.0})
        layer.parameterization.use({"a": 0.5, "b": 0.25})
    disturb(network)
    source = read(network)
    assert source.parameterization == "DCT+LoRA"
    a, b = zoo_layers(network)["blocks.0.query"].parameterization.maps.values()
    expected = 0.5 * a.weight() + 0.25 * 2.0 * b.weight()
    assert torch.allclose(source.updates["blocks.0.query"].matrix(), expected, atol=1e-6)
    after = zoo_layers(network)["blocks.0.query"].effective_weight()
    assert torch.allclose(after - before, expected, atol=1e-6)
    for layer in zoo_layers(network).values():
        layer.parameterization.use({})
    with pytest.raises(UserError, match="the updates of 'Net' are switched off"):
        read(network)
