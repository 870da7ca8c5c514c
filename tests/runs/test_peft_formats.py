"""peft's formats, read and written as themselves: its own network, with every option it has."""

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_peft import SHAPES, close, disturb, inputs, net, safetensors, theirs
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.convert import convert, zoo_layers
from zoo.parameterizations import (
    OFT,
    AdaLoRA,
    Circulant,
    DoRA,
    Fourier,
    HiRA,
    Householder,
    Kronecker,
    LoHa,
    MiSS,
    Sparse,
    VeRA,
)
from zoo.runs import peft
from zoo.runs.peft.reading import READERS
from zoo.runs.updates import read

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    # So it says of its own adapters.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]
LAYERS = ["0", "1", "2"]
HALF = {"1": 2}
"""A pattern of one of the three layers."""
CONFIGS: dict[str, list[dict[str, Any]]] = {
    "LoKr": [
        {"r": 2},
        {"r": 8, "init_weights": "lycoris", "use_effective_conv2d": True},
        {"r": 2, "alpha": 5, "decompose_both": True, "decompose_factor": 4, "rank_dropout": 0.1},
        {"r": 1, "rank_pattern": HALF, "alpha_pattern": {"1": 3}, "module_dropout": 0.1},
        {"rank_dropout_scale": True, "rank_pattern": HALF},
    ],
    "LoHa": [
        {"r": 2, "use_effective_conv2d": True, "rank_dropout": 0.1, "module_dropout": 0.1},
        {"r": 3, "alpha": 7, "rank_pattern": HALF, "alpha_pattern": HALF, "init_weights": False},
    ],
    "Vera": [
        {"r": 3, "projection_prng_key": 7, "vera_dropout": 0.1, "save_projection": True},
        {"r": 5, "d_initial": 0.3, "bias": "vera_only", "init_weights": False},
        {"r": 600},  # more than there are weights in the largest layer
    ],
    "FourierFT": [
        {"n_frequency": 30},
        {
            **{"n_frequency": 30, "n_frequency_pattern": {"1": 20}, "bias": "all"},
            **{"scaling": -7.5, "random_loc_seed": 3, "init_weights": True},
        },
    ],
    "C3A": [
        {"block_size": 4, "init_weights": "gaussian"},
        {"block_size": 4, "block_size_pattern": {"1": 6}, "bias": "c3a_only"},
    ],
    "OFT": [
        {"oft_block_size": 4},
        {"r": 3, "oft_block_size": 0, "use_cayley_neumann": False, "module_dropout": 0.1},
        {"oft_block_size": 4, "block_share": True, "bias": "oft_only", "init_weights": False},
        {"oft_block_size": 4, "coft": True, "eps": 0.5, "num_cayley_neumann_terms": 3},
    ],
    "HRA": [{"r": 4}, {"r": 4, "apply_GS": True, "bias": "all", "init_weights": False}],
    "Hira": [
        {"r": 3},
        {"r": 3, "rank_pattern": HALF, "hira_dropout": 0.1, "init_weights": "gaussian"},
    ],
    "Shira": [{"r": 2}, {"r": 1, "random_seed": 3, "mask_type": "random", "init_weights": False}],
    "Miss": [
        {"r": 5, "miss_dropout": 0.1, "bias": "all"},
        {"r": 4, "init_weights": "mini", "mini_r": 6},
    ],
    "AdaLora": [
        {"init_r": 3, "target_r": 2, "total_step": 9, "tinit": 1, "tfinal": 1, "deltaT": 2},
        {"init_r": 3, "total_step": 9, "lora_alpha": 0, "beta1": 0.5, "beta2": 0.5, "bias": "all"},
        {"init_r": 3, "total_step": 9, "lora_alpha": 5, "rank_pattern": {}, "orth_reg_weight": 0.1},
    ],
    "Lora": [
        {"r": 3, "use_dora": True},
        {"r": 3, "use_dora": True, "lora_alpha": 16, "use_rslora": True, "bias": "all"},
        {"r": 3, "lora_bias": True, "bias": "lora_only", "rank_pattern": HALF, "lora_dropout": 0.1},
        {"r": 3, "use_dora": True, "rank_pattern": HALF, "alpha_pattern": {"1": 3}},
        {"r": 2, "target_modules": ["0"], "target_parameters": ["layers.1.weight"]},
    ],
}
"""By peft's class, settings that make its options another than they are by default."""
ADAPTERS = [(kind, i) for kind, each in CONFIGS.items() for i in range(len(each))]
OF_OTHER_TESTS = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"} | {
    *("modules_to_save", "fan_in_fan_out", "inference_mode", "task_type", "auto_mapping"),
    *("peft_type", "peft_version", "base_model_name_or_path", "revision"),
}


def adapter(kind: str, which: int, folder: Path) -> tuple[nn.Module, Any]:
    """An adapter of peft's with nothing at its start, and its model."""
    network = net()
    settings = {"target_modules": LAYERS, **CONFIGS[kind][which]}
    config = getattr(theirs, f"{kind}Config")(**copy.deepcopy(settings))
    model = theirs.get_peft_model(copy.deepcopy(network), config).eval()
    disturb(model)
    if "rank_pattern" in settings and kind == "AdaLora":
        left = {"0": [True, False, True], "1": [False] * 3, "2": [True] * 3}
        for name, kept in left.items():
            e = model.get_submodule(f"base_model.model.layers.{name}").lora_E["default"]
            e.data[~torch.tensor(kept)] = 0
        config.rank_pattern = {f"layers.{name}.lora_E": kept for name, kept in left.items()}
    with torch.no_grad():
        model(inputs())  # constrained OFT moves its parameters
    model.save_pretrained(folder)
    return network, model


def merged(network: nn.Module, found: Any) -> nn.Module:
    """The network with what was read of an adapter."""
    state = network.state_dict()
    for name, update in found.updates.items():
        base = state[f"{name}.weight"].clone()
        assert update.fits(tuple(base.shape)) and not update.fits((1, 2))
        state[f"{name}.weight"] += update.matrix(tuple(base.shape), base)
    for name, tensor in found.saved.items():
        state[name].copy_(tensor)
    for name, change in found.changed.items():
        state[name].copy_(change(state[name]))
    return network


def all_close(ours: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for mine, want in zip(ours(inputs()), model(inputs()), strict=True):
            close(mine, want)


@pytest.mark.parametrize(("kind", "which"), ADAPTERS)
def test_an_adapter_of_peft_is_read(kind, which, tmp_path):
    """Outputs are peft's, of every layer, with every option."""
    network, model = adapter(kind, which, tmp_path)
    all_close(merged(network, peft.read(tmp_path)), model)


def test_every_option_of_peft_is_in_an_adapter():
    """A new one of a format that is read, in a later peft, fails here until someone looks at it."""
    unread = {"Lora": {*(field.name for field in dataclasses.fields(theirs.LoraConfig))}}
    for kind, each in CONFIGS.items():
        options = {field.name for field in dataclasses.fields(getattr(theirs, f"{kind}Config"))}
        lora = unread["Lora"] if kind == "AdaLora" else set()
        seen = {key for settings in each for key in settings}
        if kind != "Lora":  # whose others are in tests of their own, or refused
            assert options - lora - OF_OTHER_TESTS - seen == set(), kind


WRITTEN = [
    ("LOKR", Kronecker, {"terms": 1}),
    ("LOKR", Kronecker, {"terms": 1, "rank": 1, "factor": 4, "decompose_both": True}),
    ("LOHA", LoHa, {"rank": 2}),
    ("VERA", VeRA, {"rank": 5}),
    ("VERA", VeRA, {"rank": 5, "cut_from": [24, 24], "seed": 4}),
    ("FOURIERFT", Fourier, {"coefficients": 20, "shared": True, "seed": 3}),
    ("C3A", Circulant, {"block": 4}),
    ("OFT", OFT, {"block": 4}),
    ("OFT", OFT, {"block": 4, "terms": 5}),
    ("HRA", Householder, {"rank": 4}),
    ("HIRA", HiRA, {"rank": 3}),
    ("SHIRA", Sparse, {"coefficients": 17}),
    ("MISS", MiSS, {"rank": 5}),
    ("MISS", MiSS, {"rank": 5, "mini_r": 4}),
    ("ADALORA", AdaLoRA, {"rank": 4}),
    ("LORA", DoRA, {"rank": 3}),
]
"""Classes that peft has a format for."""


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("kind", "cls", "settings"), WRITTEN)
def test_an_update_is_written_as_itself(kind, cls, settings, scale, tmp_path):
    """peft's outputs of the file are ours, and read again it is of the class that wrote it."""
    if scale != 1 and cls in (OFT, Householder):
        pytest.skip("rotations of a scale are none, and become LoRA")
    network = net()
    base = copy.deepcopy(network)
    ours = convert(network, functools.partial(cls, **settings), LAYERS, start="update", scale=scale)
    disturb(ours)
    if cls is AdaLoRA:
        zoo_layers(ours)["layers.0"].parameterization.lora_E.data[1:3] = 0
        zoo_layers(ours)["layers.1"].parameterization.lora_E.data.zero_()
    assert not any(peft.write(tmp_path, ours, {}).values())
    assert json.loads((tmp_path / peft.CONFIG).read_text())["peft_type"] == kind
    all_close(ours, theirs.PeftModel.from_pretrained(base, tmp_path).eval())
    for name, update in peft.read(tmp_path).updates.items():
        mine = zoo_layers(ours)[name].parameterization
        again: Any = update.factory()(*mine.shape)
        assert type(again) is (cls if cls is not Sparse else type(again))
        with torch.no_grad():
            w0 = zoo_layers(ours)[name].base
            update.fill_(again, w0, 1.0)
            close(again.effective(w0), zoo_layers(ours)[name].effective_weight())


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Kronecker, {"terms": 2}),
        (Fourier, {"coefficients": 20}),
        (Sparse, {"ratio": 0.99}),  # one r has more places than the square layer
    ],
)
def test_what_peft_has_no_format_for_becomes_lora(cls, settings, tmp_path):
    ours = convert(net(), functools.partial(cls, **settings), LAYERS, start="update")
    disturb(ours)
    assert all(peft.write(tmp_path, ours, {}).values())
    assert json.loads((tmp_path / peft.CONFIG).read_text())["peft_type"] == "LORA"


# ---- Looked into without a backbone --------------------------------------------------------------

ALONE = {"LoKr", "LoHa", "C3A", "AdaLora"}
"""Formats whose tensors say all of dW; LoRA besides DoRA is in test_updates."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_analyze_reads_what_needs_no_backbone(kind, tmp_path):
    """And names the way to the others."""
    network, model = adapter(kind, 0, tmp_path)
    if kind in ALONE:
        for name, update in read(str(tmp_path)).updates.items():
            layer = model.get_submodule(f"base_model.model.{name}")
            close(update.matrix(), layer.get_delta_weight("default").detach())
    else:
        with pytest.raises(UserError, match="only the backbone knows.*: make it a run with zoo"):
            read(str(tmp_path))


def test_a_small_file_of_a_huge_matrix(tmp_path):
    adapter("LoHa", 0, tmp_path)
    sides = {f"w{i}_a": torch.ones(60_000, 1) for i in (1, 2)}
    sides |= {f"w{i}_b": torch.ones(1, 60_000) for i in (1, 2)}
    huge = {f"base_model.model.layers.0.hada_{name}": side for name, side in sides.items()}
    safetensors.save_file(huge, tmp_path / peft.TENSORS)
    with pytest.raises(UserError, match="60,000 x 60,000 .* too large"):
        read(str(tmp_path))


class Experts(nn.Module):
    """Two stacks of matrices of the same module, as fused experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 12))
        self.down = nn.Parameter(torch.randn(3, 12, 8))


def test_fused_experts_are_updates_of_their_own(tmp_path):
    """Of each matrix, by the order in which the module has them."""
    config = theirs.LoraConfig(
        r=2, lora_alpha=3, target_modules=["0"], target_parameters=["experts.up", "experts.down"]
    )
    network = nn.ModuleDict({"0": nn.Linear(4, 4), "experts": Experts()})
    model = theirs.get_peft_model(network, config)
    disturb(model)
    model.save_pretrained(tmp_path)
    updates = peft.read(tmp_path).updates
    down = model.get_submodule("base_model.model.experts")
    for i, wrapper in enumerate((down.base_layer, down)):
        for e, dw in enumerate(wrapper.get_delta_weight("default").detach()):
            mine: Any = updates.pop(f"experts.parameter{i}.{e}")
            close(mine.matrix(mine.shape), dw)
    assert list(updates) == ["0"]
    assert len(read(str(tmp_path)).updates) == 7


# ---- What is damaged -----------------------------------------------------------------------------

VALUES: list[object] = [None, -1, 0, 2.5, True, "x", "(((", [], [1], {}, {"(": 1}, {"1": "x"}, 1e99]


def damages(config: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[tuple[Any, Any]]:
    """Keys with values of other types, unknown keys, and every part missing or of other sizes."""
    for i, key in enumerate(config):
        for k in range(3):  # each value at some key of each type
            yield config | {key: VALUES[(i + 5 * k) % len(VALUES)]}, tensors
        yield {k: v for k, v in config.items() if k != key}, tensors
    yield config | {"peft_version": "9.9", "of_tomorrow": {"x": [1]}}, tensors
    for name, tensor in tensors.items():
        yield config, {k: v for k, v in tensors.items() if k != name}
        for other in (tensor[:0], tensor[:-1], tensor[None], tensor.flatten(), -tensor):
            yield config, tensors | {name: other.contiguous()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_adapter_is_read_or_named_in_one_line(kind, tmp_path):
    network, _ = adapter(kind, len(CONFIGS[kind]) - 1, tmp_path)
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    tensors = safetensors.load_file(tmp_path / peft.TENSORS)
    one = {
        name: t for name, t in tensors.items() if "layers.0" in name or "base_model.vera" in name
    }
    read_fine = 0
    for settings, parts in damages(config, one):
        (tmp_path / peft.CONFIG).write_text(json.dumps(settings))
        safetensors.save_file(parts, tmp_path / peft.TENSORS)
        try:
            found = peft.read(tmp_path)
            shapes = {f"layers.{i}": shape for i, shape in enumerate(SHAPES)}
            fit = [u for name, u in found.updates.items() if u.fits(shapes[name])]
            for update in fit:
                update.matrix(SHAPES[0], torch.ones(SHAPES[0]))
            read_fine += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, error
    assert read_fine > len(config)  # most of a config is about training


def test_readers_are_those_of_the_tests():
    kinds = {
        getattr(theirs, f"{kind}Config")().peft_type.value for kind in CONFIGS if kind != "AdaLora"
    }
    assert kinds | {"ADALORA", "RANDLORA"} == set(READERS)
