"""Presets: the layers of the blocks that a preset names, and nothing but these, in every
architecture that has one.
"""

import subprocess
import sys

import pytest
import torch
from architectures import configuration
from every import thinned
from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import linear_layers
from zoo.layers.names import matches
from zoo.layers.presets import PRESETS, preset_targets

transformers = pytest.importorskip("transformers")

QUERY_VALUE = {
    "query",
    "value",
    "q",
    "v",
    "q_proj",
    "v_proj",
    "q_lin",
    "v_lin",
    "query_proj",
    "value_proj",
}
FUSED = {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj"}
POSITIONS = {"pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj"}
HEADS = ("AutoModelForSequenceClassification", "AutoModelForCausalLM", "AutoModel")


def networks(kind: str) -> list[nn.Module]:
    """With every head that it can have, on the meta device."""
    config = configuration(kind)
    autos = [getattr(transformers, head) for head in HEADS]
    with torch.device("meta"):
        return [auto.from_config(config) for auto in autos if type(config) in auto._model_mapping]


@pytest.mark.parametrize("kind", thinned(PRESETS, 4))
def test_a_preset_names_these_layers_and_no_other(kind):
    """Told from the place of a layer: in a block or not, in its attention or not, and by its last
    name.
    """
    found = networks(kind)
    assert found
    for network in found:
        names = list(linear_layers(network))
        blocks = {
            name
            for name in names
            if any(part.isdigit() for part in name.split("."))
            and name.rpartition(".")[2] not in POSITIONS
            and ".bottleneck." not in name
        }
        attention = {name for name in blocks if "att" in name.rpartition(".")[0].lower()}
        expected = {
            "query_value": {
                name for name in attention if name.rpartition(".")[2] in QUERY_VALUE | FUSED
            },
            "attention": attention,
            "mlp": blocks - attention,
            "all": blocks,
        }
        for preset, layers in expected.items():
            targets = preset_targets(network, preset)
            assert (
                {name for name in names if any(matches(name, target) for target in targets)}
                == layers
                != set()
            )
            assert all(any(matches(name, target) for name in names) for target in targets)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("modernbert", ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]),
        ("phi3", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        (
            "deberta",
            ["in_proj", "attention.output.dense", "intermediate.dense", "*[0-9].output.dense"],
        ),
        ("falcon", ["query_key_value", "self_attention.dense", "dense_h_to_4h", "dense_4h_to_h"]),
    ],
)
def test_query_value_is_the_layer_that_makes_all_three(kind, layers):
    (network, *_) = networks(kind)
    assert preset_targets(network, "query_value") == layers[:1]
    assert preset_targets(network, "all") == layers


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("t5", {"feed_forward_proj": "gated-gelu"}),
        ("falcon", {"new_decoder_architecture": True}),
        ("gpt2", {"add_cross_attention": True}),
        ("bert", {"is_decoder": True, "add_cross_attention": True}),
    ],
)
def test_every_glob_of_a_preset_matches_in_variants_of_an_architecture(kind, settings):
    config = configuration(kind, **settings)
    with torch.device("meta"):
        network = transformers.AutoModel.from_config(config)
    names = [name for name in linear_layers(network) if "pooler" not in name]
    for preset in ("query_value", "attention", "mlp", "all"):
        for target in preset_targets(network, preset):
            assert any(matches(name, target) for name in names), target


def test_an_architecture_without_presets_is_named_with_its_layers():
    with torch.device("meta"):
        network = transformers.AutoModel.from_config(configuration("fnet"))
    with pytest.raises(
        UserError, match=r"no preset for a fnet.*encoder.layer.\*.intermediate.dense"
    ):
        preset_targets(network, "all")


def test_presets_need_neither_tasks_nor_what_tasks_need():
    code = (
        "import sys, zoo.layers.presets; "
        "print({'tasks', 'transformers', 'lightning'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )
