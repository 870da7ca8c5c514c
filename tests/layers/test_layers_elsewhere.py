"""A layer that a network also has where no module is registered: `convert` cannot put another one
there.
"""

import functools

import pytest
import torch
from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import convert, zoo_layers
from zoo.parameterizations import DCT

HALF = functools.partial(DCT, ratio=0.5)


def held(kind):
    """A network that calls its layer through something that is no module."""
    network = nn.Module()
    network.first, network.second = nn.Linear(6, 6), nn.Linear(6, 6)
    if kind == "compiled":
        network.first = torch.compile(network.first, backend="eager")
        return network
    first = network.first
    network.calls = {
        "list": [nn.ReLU(), first],
        "dictionary": {"a": {"b": first}},
        "tuple": ((first,),),
        "method": first.forward,
        "another method": [first.__call__],
        "set": {first},
    }[kind]
    return network


@pytest.mark.parametrize(
    "kind", ["list", "dictionary", "tuple", "method", "another method", "set", "compiled"]
)
def test_a_layer_that_is_elsewhere_too_is_refused(kind):
    """It would stay there as it is, and its update be ignored."""
    network = held(kind)
    with pytest.raises(
        UserError, match=r"first.* is in .*(calls|_callable) too, .*: leave it out of the targets"
    ):
        convert(network, HALF, ["*"])
    assert not zoo_layers(network)
    assert list(zoo_layers(convert(network, HALF, ["second"]))) == ["second"]
