"""Parity with Hugging Face's peft: equal factors give equal updates, and files go both ways."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from every import thinned
from torch import Tensor, nn

from tasks import CausalLM, GlueClassifier
from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.layers.convert import convert
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import DCT, HiRA, LoRA, RandLoRA, VeRA
from zoo.runs import checkpoints, peft
from zoo.training.module import ZooModule

theirs: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")
safetensors: Any = pytest.importorskip("safetensors.torch")

pytestmark = [
    # peft calls transformers by a name that is going away.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # A network of this test has no config file.
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]
SHAPES = [(12, 12), (24, 12), (12, 24)]
"""Of a weight: square, tall, wide."""
IDS = torch.arange(5, 35).view(3, 10)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, b.abs().max().item()))


def disturb(model: nn.Module) -> None:
    """Give everything that is trained other values, so that no update is zero."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)


class Net(nn.Module):
    """One layer of each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for m, n in SHAPES)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, xs, strict=True)]


def net() -> nn.Module:
    torch.manual_seed(7)
    return Net().requires_grad_(False)


def inputs() -> list[Tensor]:
    return [torch.randn(5, n, generator=torch.Generator().manual_seed(n)) for _, n in SHAPES]


# ---- Same factors, same update -------------------------------------------------------------------


def test_lora_is_that_of_peft():
    reference = theirs.get_peft_model(
        net(), theirs.LoraConfig(r=4, lora_alpha=10, target_modules=["0", "1", "2"])
    )
    disturb(reference)
    mine = convert(
        net(), functools.partial(LoRA, rank=4), ["layers.*"], start="update", scale=10 / 4
    )
    for layer, other in zip(mine.layers, reference.base_model.model.layers, strict=True):
        with torch.no_grad():
            layer.parameterization.lora_A.copy_(other.lora_A["default"].weight)
            layer.parameterization.lora_B.copy_(other.lora_B["default"].weight)
        close(layer.update(), other.get_delta_weight("default"))
    for x, y in zip(mine(inputs()), reference(inputs()), strict=True):
        close(x, y)


@pytest.mark.parametrize("which", range(3))
def test_randlora_is_that_of_peft(which):
    """With its bases in place of ours; a layer alone, whose sides are those of the bases."""
    reference = theirs.get_peft_model(
        net(), theirs.RandLoraConfig(r=5, randlora_alpha=100, target_modules=[str(which)])
    )
    disturb(reference)
    mine = convert(
        net(), functools.partial(RandLoRA, rank=5, alpha=100), [f"layers.{which}"], start="update"
    )
    layer, other = mine.layers[which], reference.base_model.model.layers[which]
    p = layer.parameterization
    assert p.num_bases == other.num_bases
    with torch.no_grad():
        p.basis_A.copy_(other.randlora_A["default"][:, 0])
        # Column k N + n goes with row k of the n-th scaled A.
        columns = other.randlora_B["default"].flatten(1)
        p.basis_B.copy_(columns.unflatten(1, (p.rank, p.num_bases)).mT.flatten(1))
        p.randlora_lambda.copy_(other.randlora_lambda["default"].mT)
        p.randlora_gamma.copy_(other.randlora_gamma["default"])
    close(layer.update(), other.get_delta_weight("default"))
    close(mine(inputs())[which], reference(inputs())[which])


@pytest.fixture(autouse=True)
def _bases_of_this_test_only():
    """Bases are shared copies: one that a test writes into must not reach another."""
    from zoo.bases import seeds as bases

    bases.uniform_matrix.cache_clear()
    yield
    bases.uniform_matrix.cache_clear()


# ---- Written here, loaded by peft ----------------------------------------------------------------

UPDATES = {
    "lora": (functools.partial(LoRA, rank=3), "LORA", 0.0),
    "randlora": (functools.partial(RandLoRA, rank=4), "RANDLORA", 0.0),
    "randlora, as the paper scales": (
        functools.partial(RandLoRA, rank=4, scaling="paper"),
        "RANDLORA",
        0.0,
    ),
    "randlora, fewer bases": (functools.partial(RandLoRA, rank=4, num_bases=2), "RANDLORA", 0.0),
    "randlora, more bases": (functools.partial(RandLoRA, rank=4, num_bases=20), "LORA", None),
    "randlora, other ranks": (functools.partial(RandLoRA, ratio=0.5), "LORA", None),
    "dct": (functools.partial(DCT, ratio=0.5), "LORA", None),
}


# The bases are there once, and not in each layer.
@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize("name", UPDATES)
def test_peft_loads_what_is_written(name, tmp_path):
    factory, kind, error = UPDATES[name]
    mine = convert(net(), factory, ["layers.*"], start="update", scale=0.7)
    disturb(mine)
    errors = peft.write(tmp_path, mine, {}, rank=None if error == 0 or kind == "RANDLORA" else 16)
    assert read_json(tmp_path / peft.CONFIG)["peft_type"] == kind
    assert max(errors.values()) < 1e-5  # rank 16 is full here
    loaded = theirs.PeftModel.from_pretrained(net(), tmp_path)
    for layer, other in zip(mine.layers, loaded.base_model.model.layers, strict=True):
        close(layer.update(), other.get_delta_weight("default"))
    for x, y in zip(mine(inputs()), loaded(inputs()), strict=True):
        close(x, y)


def test_randlora_bases_are_stored_once(tmp_path):
    mine = convert(net(), functools.partial(RandLoRA, rank=4), ["layers.*"], start="update")
    peft.write(tmp_path, mine, {})
    names = [
        name
        for name in safetensors.load_file(tmp_path / peft.TENSORS)
        if name.endswith(("_A", "_B"))
    ]
    assert names == ["base_model.randlora_A", "base_model.randlora_B"]


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
def test_randlora_of_different_scales(tmp_path):
    overrides = {
        "layers.1": functools.partial(RandLoRA, rank=4, alpha=8),
        "layers.2": functools.partial(RandLoRA, rank=4, scaling="paper", num_bases=2),
    }
    mine = convert(
        net(), functools.partial(RandLoRA, rank=4), ["layers.*"], overrides, start="update"
    )
    disturb(mine)
    peft.write(tmp_path, mine, {})
    assert read_json(tmp_path / peft.CONFIG)["peft_type"] == "RANDLORA"
    for x, y in zip(
        mine(inputs()), theirs.PeftModel.from_pretrained(net(), tmp_path)(inputs()), strict=True
    ):
        close(x, y)


@pytest.mark.parametrize("other", [{"rank": 5}, {"rank": 4, "seed": 1}])
def test_randlora_without_common_bases_is_truncated(other, tmp_path):
    overrides = {"layers.1": functools.partial(RandLoRA, **other)}
    mine = convert(
        net(), functools.partial(RandLoRA, rank=4), ["layers.*"], overrides, start="update"
    )
    peft.write(tmp_path, mine, {})
    assert read_json(tmp_path / peft.CONFIG)["peft_type"] == "LORA"


def test_randlora_of_different_sides_is_truncated(tmp_path):
    """Which column of B belongs to which base depends on the number of bases."""
    mine = convert(
        nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 6)).requires_grad_(False),
        functools.partial(RandLoRA, rank=3),
        ["*"],
        start="update",
    )
    peft.write(tmp_path, mine, {})
    assert read_json(tmp_path / peft.CONFIG)["peft_type"] == "LORA"


def test_layers_of_different_rank_and_scale(tmp_path):
    overrides = {
        "layers.1": functools.partial(LoRA, rank=2),
        "layers.2": functools.partial(DCT, ratio=0.5),
    }
    mine = convert(
        net(), functools.partial(LoRA, rank=3), ["layers.*"], overrides, start="update", scale=0.7
    )
    disturb(mine)
    errors = peft.write(tmp_path, mine, {})
    config = read_json(tmp_path / peft.CONFIG)
    assert config["rank_pattern"] == {"layers.1": 2, "layers.2": 8}
    assert errors["layers.0"] == errors["layers.1"] == 0
    loaded = theirs.PeftModel.from_pretrained(net(), tmp_path).base_model.model
    for name in ("layers.0", "layers.1"):
        close(
            mine.get_submodule(name).update(),
            loaded.get_submodule(name).get_delta_weight("default"),
        )
    update = mine.layers[2].update()
    rest = (update - loaded.layers[2].get_delta_weight("default")).norm() / update.norm()
    torch.testing.assert_close(errors["layers.2"], rest.item(), rtol=1e-4, atol=0)


def test_truncation_is_the_best_one():
    layer = ZooLinear(DCT(12, 10, ratio=0.9), weight=torch.zeros(12, 10), scale=0.5)
    s = torch.linalg.svdvals(layer.update().detach())
    found, error = peft.lora_factors(layer, 4)
    assert (found.A.shape, found.B.shape) == ((4, 10), (12, 4))
    torch.testing.assert_close(error, (s[4:].norm() / s.norm()).item())
    left = layer.update() - found.matrix((12, 10))
    torch.testing.assert_close(left.norm().item(), s[4:].norm().item())


def classifier(backbone: Path, **settings: Any) -> GlueClassifier:
    model = GlueClassifier(
        str(backbone), "rte", **{"parameterization": functools.partial(LoRA, rank=4), **settings}
    )
    disturb(model)
    return model.eval()


def base(backbone: Path, kind: str = "SequenceClassification") -> Any:
    network = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(backbone)
    network.config.pad_token_id = 0
    return network.eval()


def run(model: ZooModule, folder: Path) -> Path:
    """A run's folder with a checkpoint of a model."""
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoints.snapshot(model), folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize(
    "factory", [functools.partial(LoRA, rank=4), functools.partial(RandLoRA, rank=4)]
)
@pytest.mark.parametrize("kind", thinned(["bert", "roberta", "distilbert", "gpt2"], 3))
def test_exported_classifier_has_equal_logits(kind, factory, backbones, place, tmp_path):
    norm = {"gpt2": "ln_2", "distilbert": "sa_layer_norm"}.get(kind, "attention.output.LayerNorm")
    tuning = Tuning(preset="all", scale=0.5, train=[norm])
    model = classifier(backbones(kind), parameterization=factory, tuning=tuning)
    assert main(["export", str(run(model, tmp_path / "run")), "--to", "peft"]) == 0
    loaded = theirs.PeftModel.from_pretrained(
        base(backbones(kind)), tmp_path / "run" / "export-peft"
    ).eval()
    close(loaded(IDS).logits, model.net(IDS).logits)
    assert (loaded(IDS).logits - base(backbones(kind))(IDS).logits).abs().max() > 0.01


def test_targets_in_the_head_are_stored_whole(backbones, tmp_path):
    model = classifier(backbones("roberta"), targets=["query", "classifier.dense"])
    peft.write(tmp_path, model.net, model.peft_fields())
    loaded = theirs.PeftModel.from_pretrained(base(backbones("roberta")), tmp_path).eval()
    close(loaded(IDS).logits, model.net(IDS).logits)


@pytest.mark.parametrize(
    ("train", "factory", "bias"),
    [
        (["1.attention.self.query"], None, "lora_only"),
        (["query", "value"], None, "lora_only"),
        (["bias"], None, "all"),
        (["query.bias", "value.bias"], functools.partial(HiRA, rank=2), None),
        (["query.bias", "*LayerNorm"], functools.partial(VeRA, rank=2), "vera_only"),
    ],
)
def test_trained_biases_have_pefts_setting(train, factory, bias, backbones, tmp_path):
    """Where the format has none, modules with a trained bias are stored whole, or it is refused."""
    settings = {} if factory is None else {"parameterization": factory}
    model = classifier(backbones("bert"), tuning=Tuning(train=train), **settings)
    if bias is None:
        with pytest.raises(UserError, match="--to dense"):
            peft.write(tmp_path, model.net, model.peft_fields())
        return
    peft.write(tmp_path, model.net, model.peft_fields())
    config = read_json(tmp_path / peft.CONFIG)
    assert config["bias"] == bias
    norms = any("LayerNorm" in name for name in config["modules_to_save"])
    assert norms == ("*LayerNorm" in train)
    loaded = theirs.PeftModel.from_pretrained(base(backbones("bert")), tmp_path).eval()
    close(loaded(IDS).logits, model.net(IDS).logits)


def test_exported_decoder_has_equal_logits(backbones, place, tmp_path):
    model = CausalLM(str(backbones("gpt2")), functools.partial(LoRA, rank=4)).eval()
    disturb(model)
    assert main(["export", str(run(model, tmp_path / "run")), "--to", "peft"]) == 0
    loaded = theirs.PeftModel.from_pretrained(
        base(backbones("gpt2"), "CausalLM"), tmp_path / "run" / "export-peft"
    )
    close(loaded.eval()(IDS).logits, model(IDS))


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"layers.1": 20, "0": 3}}]
)
def test_scale_is_that_of_peft(settings, tmp_path):
    config = theirs.LoraConfig(
        r=4, lora_alpha=6, target_modules=["0", "1", "2"], rank_pattern={"2": 2}, **settings
    )
    model = theirs.get_peft_model(net(), config)
    disturb(model)
    model.save_pretrained(tmp_path)
    read = peft.read(tmp_path)
    assert list(read.updates) == ["layers.0", "layers.1", "layers.2"]
    for name, update in read.updates.items():
        wanted = model.base_model.model.get_submodule(name).get_delta_weight("default")
        close(update.matrix(SHAPES[0]), wanted)
