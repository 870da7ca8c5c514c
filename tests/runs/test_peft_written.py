"""What is written for peft is held against the network: by the names that peft would find, and
number by number.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from test_peft import close, disturb, run, safetensors, theirs
from torch import Tensor, nn

from tasks import CausalLM, GlueClassifier
from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.layers.convert import convert
from zoo.parameterizations import DCT, LoRA, RandLoRA
from zoo.runs import peft
from zoo.runs.peft import lora, writing

pytestmark = [
    # peft calls transformers by a name that is going away.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
]


class Inner(nn.Module):
    """The names of the outer one, and one that ends as one of them does."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.norm, self.proj_norm = nn.Linear(8, 8), nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_norm(self.norm(self.proj(x)))


class Outer(nn.Module):
    """Layers whose names end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.proj, self.norm, self.last = (
            Inner(),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.proj(self.inner(x))))


def outer() -> nn.Module:
    torch.manual_seed(7)
    return Outer().requires_grad_(False)


@pytest.mark.parametrize("trained", [[], ["norm"], ["inner.norm", "last"]])
@pytest.mark.parametrize("names", [["proj"], ["inner.proj"], ["proj", "inner.proj"]])
def test_names_that_end_alike(names, trained, tmp_path):
    """peft finds modules by the end of their names; layers here differ in rank and scale."""
    mine, x = outer(), torch.randn(4, 8)
    state = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    for name in trained:
        mine.get_submodule(name).requires_grad_(True)
    mine = _only(mine, names)
    disturb(mine)
    errors = peft.write(tmp_path, mine, {}, backbone=state)
    assert not any(errors.values())
    assert set(errors) == set(names)
    close(theirs.PeftModel.from_pretrained(outer(), tmp_path)(x), mine(x))


def _only(network: nn.Module, names: list[str]) -> nn.Module:
    """With updates of exactly these layers: a glob would take those that end alike, too."""
    for i, name in enumerate(names):
        parent = network.get_submodule(name.rpartition(".")[0])
        holder = nn.ModuleDict({"x": parent.get_submodule(name.rpartition(".")[2])})
        convert(holder, functools.partial(LoRA, rank=2 + i), ["x"], start="update", scale=0.5 + i)
        setattr(parent, name.rpartition(".")[2], holder["x"])
    return network


def test_a_module_inside_of_one_that_ends_alike(tmp_path):
    network = nn.Sequential()
    network.add_module("x", nn.Linear(8, 8))
    network.add_module("a_b", nn.ModuleDict({"b": nn.Linear(8, 8)}))
    network.add_module("b", nn.Linear(8, 8))
    network.requires_grad_(False).get_submodule("b").requires_grad_(True)
    convert(network, functools.partial(LoRA, rank=2), ["x"], start="update")
    with pytest.raises(UserError, match=r"a_b\.b twice, by the end of its name: export --to dense"):
        peft.write(tmp_path, network, {})


# ---- A wrong one is refused ----------------------------------------------------------------------


def spoilt(monkeypatch: pytest.MonkeyPatch, key: str | None, factor: float = 1.001) -> None:
    """Have the first tensor whose name ends so written wrong, or left out if there is no factor."""
    write = writing.write_tensors

    def wrong(path: Path, tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(str(key)))
        write(
            path,
            {k: v * factor if k == name else v for k, v in tensors.items() if factor or k != name},
        )

    monkeypatch.setattr(writing, "write_tensors", wrong)


FACTORIES = {
    "LoRA": functools.partial(LoRA, rank=3),
    "RandLoRA": functools.partial(RandLoRA, rank=4),
    "DCT": functools.partial(DCT, ratio=0.5),
}
WRONG = [
    ("LoRA", "lora_A.weight", 1.01),
    ("LoRA", "lora_B.weight", 1.01),
    ("RandLoRA", "randlora_lambda", 1.01),
    ("RandLoRA", "randlora_gamma", 1.01),
    ("RandLoRA", "randlora_A", 1.01),
    ("RandLoRA", "randlora_B", 1.01),
    ("DCT", "lora_B.weight", 3.0),
    ("LoRA", "classifier.weight", 1.01),
    ("LoRA", "classifier.bias", 0.0),
]


@pytest.mark.parametrize(("kind", "key", "factor"), WRONG)
def test_every_tensor_is_compared(kind, key, factor, backbones, place, monkeypatch, capsys):
    torch.manual_seed(1)
    model = GlueClassifier(str(backbones("bert")), "rte", FACTORIES[kind]).eval()
    disturb(model)
    run(model, Path("run"))
    spoilt(monkeypatch, key, factor)
    refused(
        capsys,
        ["export", "run", "--to", "peft", "--output", "out"],
        "--to dense",
        "as a peft adapter",
    )


def test_a_network_that_is_not_the_backbone(backbones, tmp_path):
    """A frozen weight that somebody has changed is stored, where the backbone is known."""
    model = CausalLM(str(backbones("gpt2")), FACTORIES["LoRA"]).eval()
    disturb(model)
    with torch.no_grad():
        model.net.get_parameter("transformer.h.0.ln_1.weight").add_(1)
    peft.write(tmp_path, model.net, model.peft_fields(), backbone=model.backbone_state())
    assert read_json(tmp_path / peft.CONFIG)["modules_to_save"] == ["transformer.h.0.ln_1"]


@pytest.mark.parametrize(
    "change", [{"target_modules": ["value"]}, {"rank_pattern": {"query": 7}}, {"lora_alpha": 9}]
)
def test_what_the_config_says_is_compared(change, backbones, place, monkeypatch, capsys):
    model = GlueClassifier(str(backbones("bert")), "rte", FACTORIES["LoRA"]).eval()
    disturb(model)
    run(model, Path("run"))
    write = lora.write
    monkeypatch.setattr(lora, "write", lambda *a: (write(*a)[0] | change, *write(*a)[1:]))
    if "target_modules" in change:
        monkeypatch.setattr(writing, "_targets", lambda *_: change["target_modules"])
    refused(
        capsys,
        ["export", "run", "--to", "peft", "--output", "out"],
        "--to dense",
        "as a peft adapter",
    )


def test_bases_are_those_of_the_seed(tmp_path):
    """By which zoo finds them again."""
    mine: Any = convert(
        outer(), functools.partial(RandLoRA, rank=4, seed=3), ["inner.proj"], start="update"
    )
    peft.write(tmp_path, mine, {})
    assert read_json(tmp_path / peft.CONFIG)["projection_prng_key"] == 3
    assert safetensors.load_file(tmp_path / peft.TENSORS)["base_model.randlora_A"].shape == (
        4,
        1,
        8,
    )
    update: Any = peft.read(tmp_path).updates["inner.proj"]
    assert update.seed == 3
