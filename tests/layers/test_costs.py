"""The cost of a network is what torch counts of its linear layers, forward and backward."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from zoo.layers import costs
from zoo.layers.batched import build_together
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.costs import checkpoint_bytes, cost_facts, layer_cost, network_cost
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, BlockDCT, Dense, LoRA, RandLoRA
from zoo.parameterizations.cost import Cost, counted


def frozen(layer):
    return layer.requires_grad_(False)


def make_base():
    return torch.randn(24, 24)


LAYERS = {
    "plain": lambda: nn.Linear(24, 24),
    "plain, frozen": lambda: frozen(nn.Linear(24, 24)),
    "plain, its bias trained": lambda: frozen(nn.Linear(24, 24)).bias.requires_grad_() is None,
    "dense": lambda: ZooLinear(Dense(24, 24)),
    "built": lambda: ZooLinear(DCT(24, 24, ratio=0.3), torch.zeros(24)),
    "built, an update": lambda: ZooLinear(DCT(24, 24, ratio=0.3), None, make_base(), 0.5),
    "built, scaled": lambda: ZooLinear(DCT(24, 24, ratio=0.3), scale=0.5),
    "built, recomputed": lambda: ZooLinear(DCT(24, 24, ratio=0.3), recompute=True),
    "built, of a trained base": lambda: ZooLinear(
        DCT(24, 24, ratio=0.3), None, nn.Parameter(make_base())
    ),
    "factors": lambda: ZooLinear(LoRA(24, 24, rank=2)),
    "factors, an update": lambda: ZooLinear(LoRA(24, 24, rank=2), None, make_base(), 2.0),
    "factors, scaled": lambda: ZooLinear(LoRA(24, 24, rank=2), scale=0.5),
    "factors, recomputed": lambda: ZooLinear(LoRA(24, 24, rank=2), recompute=True),
    "factors, scaled, recomputed": lambda: ZooLinear(
        LoRA(24, 24, rank=2), scale=0.5, recompute=True
    ),
    "factors, of a trained base": lambda: ZooLinear(
        LoRA(24, 24, rank=2), None, nn.Parameter(make_base())
    ),
    "blocks": lambda: ZooLinear(BlockDCT(24, 24, ratio=0.05, block=12)),
    "random bases": lambda: ZooLinear(RandLoRA(24, 24, num_bases=1, rank=1), None, make_base()),
}
LAYERS["plain, its bias trained"] = lambda: _bias_alone(nn.Linear(24, 24))


def _bias_alone(layer):
    layer.weight.requires_grad_(False)
    return layer


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_takes_what_torch_counts(kind):
    layer = LAYERS[kind]()
    x = torch.randn(7, 24, requires_grad=True)
    trained = [p for p in layer.parameters() if p.requires_grad]
    assert layer_cost(layer, 7)[:2] == counted(partial(layer, x), [x, *trained])


def test_a_network_is_the_sum_of_its_layers():
    """Each once, whatever else is in it; as Conv1D too, which keeps W transposed."""
    conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
    shared = nn.Linear(24, 24)
    net = nn.Sequential(
        nn.Embedding(30, 24),
        *(make() for make in LAYERS.values()),
        shared,
        nn.LayerNorm(24),
        shared,
        conv1d(8, 24),
    )
    each = [layer_cost(layer, 7) for layer in [*net[1:18], shared, net[-1]]]
    assert network_cost(net, 7) == Cost(*(sum(part) for part in zip(*each, strict=True)))
    assert layer_cost(net[-1], 7) == Cost(7 * 8 * 24, 14 * 8 * 24, 8 * 24)
    assert network_cost(nn.LayerNorm(4), 7) == Cost(0, 0, 0)


@pytest.mark.parametrize("together", [False, True])
def test_layers_that_are_handed_a_weight_multiply_by_it(together):
    """Blocks alone are multiplied without W for few rows; and tied layers have one W."""
    maps = [BlockDCT(96, 96, ratio=0.3).for_layer(name) for name in "ab"]
    net = nn.Sequential(*(ZooLinear(p) for p in (*maps, maps[0])))
    if together:
        build_together(net)
    x = torch.randn(20, 96, requires_grad=True)
    found = counted(partial(net, x), [x, *net.parameters()])
    assert network_cost(net, 20)[:2] == found
    built = 2 * maps[0].building()[0] + 3 * 20 * 96 * 96
    assert (found[0] == built) == together


def test_facts_are_of_a_row():
    """Building W is spread over the rows of a batch, and bytes are those of the precision."""
    net = convert(nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)), two_rates, ["0"])
    (built, back), mn = zoo_layers(net)["0"].parameterization.building(), 24 * 16
    plain = 16 * 4
    facts = cost_facts(net, 10, "32-true", tokens=1000)
    assert facts == {
        "rows": 10,
        "forward_flops": 2 * (mn + plain) + round(2 * built / 10),
        "training_flops": round(2 * (3 * (mn + plain) + (built + back) / 10)),
        "total_training_flops": 2000 * 3 * (mn + plain) + 200 * (built + back),
        "checkpoint_bytes": 4 * sum(p.numel() for p in net.parameters()),
        "decode_bytes": 4 * (mn + plain),
    }
    assert cost_facts(net, 10, "bf16-mixed")["decode_bytes"] == 2 * (mn + plain)
    assert cost_facts(net, 10, "64-true")["decode_bytes"] == 8 * (mn + plain)
    unknown = cost_facts(net, None, "32-true")
    assert (unknown["rows"], unknown["total_training_flops"]) == (1024, None)


def two_rates(m, n):
    return DCT(m, n, ratio=0.3)


def test_a_checkpoint_has_what_is_trained_once():
    net = nn.Sequential(nn.Linear(4, 4), frozen(nn.Linear(4, 4)), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert checkpoint_bytes(net) == 4 * (16 + 4 + 4)
    assert checkpoint_bytes(copy.deepcopy(net).bfloat16()) == 2 * (16 + 4 + 4)


def test_the_precision_of_training_decides_the_path():
    """Blocks are multiplied without W at another number of rows in half precision."""
    net = nn.Sequential(ZooLinear(BlockDCT(96, 96, ratio=0.5)))
    found = {
        precision: [
            cost_facts(net, rows, precision)["forward_flops"] for rows in range(50, 400, 25)
        ]
        for precision in ("32-true", "bf16-mixed")
    }
    assert found["32-true"] != found["bf16-mixed"]
    assert costs.number_bytes("16-mixed") == 2
    assert cost_facts(net.to("meta"), 50, "bf16-mixed") == {
        **cost_facts(nn.Sequential(ZooLinear(BlockDCT(96, 96, ratio=0.5))), 50, "32-true"),
        "decode_bytes": 2 * 96 * 96,
    }
