"""Parity with Hugging Face's peft: the same factors give the same update, and files go both ways."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks import CausalLM, GlueClassifier
from tasks.finetuning import Tuning
from zoo import checkpoints, peft
from zoo.__main__ import main
from zoo.convert import convert, zoo_layers
from zoo.errors import UserError
from zoo.linear import ZooLinear
from zoo.module import ZooModule
from zoo.parameterizations import DCT, LoRA, RandLoRA

theirs: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")
safetensors: Any = pytest.importorskip("safetensors.torch")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft calls it
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # of a net of ours
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


# ---- Same factors, same update ---------------------------------------------------------------------------------------


def test_lora_is_that_of_peft():
    reference = theirs.get_peft_model(net(), theirs.LoraConfig(r=4, lora_alpha=10, target_modules=["0", "1", "2"]))
    disturb(reference)
    mine = convert(net(), functools.partial(LoRA, rank=4), ["layers.*"], start="update", scale=10 / 4)
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
    mine = convert(net(), functools.partial(RandLoRA, rank=5, alpha=100), [f"layers.{which}"], start="update")
    layer, other = mine.layers[which], reference.base_model.model.layers[which]
    p = layer.parameterization
    assert p.num_bases == other.num_bases
    with torch.no_grad():
        p.basis_A.copy_(other.randlora_A["default"][:, 0])
        columns = other.randlora_B["default"].flatten(1)  # column k N + n goes with row k of the n-th scaled A
        p.basis_B.copy_(columns.unflatten(1, (p.rank, p.num_bases)).mT.flatten(1))
        p.randlora_lambda.copy_(other.randlora_lambda["default"].mT)
        p.randlora_gamma.copy_(other.randlora_gamma["default"])
    close(layer.update(), other.get_delta_weight("default"))
    close(mine(inputs())[which], reference(inputs())[which])


@pytest.fixture(autouse=True)
def _bases_of_this_test_only():
    """Bases are shared copies: one that a test writes into must not reach another."""
    from zoo import bases

    bases.uniform_matrix.cache_clear()
    yield
    bases.uniform_matrix.cache_clear()


# ---- Written here, loaded by peft ------------------------------------------------------------------------------------

UPDATES = {
    "lora": (functools.partial(LoRA, rank=3), "LORA", 0.0),
    "randlora": (functools.partial(RandLoRA, rank=4), "RANDLORA", 0.0),
    "randlora, as the paper scales": (functools.partial(RandLoRA, rank=4, scaling="paper"), "RANDLORA", 0.0),
    "randlora, fewer bases": (functools.partial(RandLoRA, rank=4, num_bases=2), "RANDLORA", 0.0),
    "randlora, more bases": (functools.partial(RandLoRA, rank=4, num_bases=20), "LORA", None),
    "randlora, other ranks": (functools.partial(RandLoRA, ratio=0.5), "LORA", None),
    "dct": (functools.partial(DCT, ratio=0.5), "LORA", None),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # the bases, once in place of per layer
@pytest.mark.parametrize("name", UPDATES)
def test_peft_loads_what_is_written(name, tmp_path):
    factory, kind, error = UPDATES[name]
    mine = convert(net(), factory, ["layers.*"], start="update", scale=0.7)
    disturb(mine)
    errors = peft.write(tmp_path, mine, {}, rank=None if error == 0 or kind == "RANDLORA" else 16)
    assert peft.read_json(tmp_path / peft.CONFIG)["peft_type"] == kind
    assert max(errors.values()) < 1e-5  # rank 16 is full here
    loaded = theirs.PeftModel.from_pretrained(net(), tmp_path)
    for layer, other in zip(mine.layers, loaded.base_model.model.layers, strict=True):
        close(layer.update(), other.get_delta_weight("default"))
    for x, y in zip(mine(inputs()), loaded(inputs()), strict=True):
        close(x, y)


def test_randlora_bases_are_stored_once(tmp_path):
    mine = convert(net(), functools.partial(RandLoRA, rank=4), ["layers.*"], start="update")
    peft.write(tmp_path, mine, {})
    names = [name for name in safetensors.load_file(tmp_path / peft.TENSORS) if name.endswith(("_A", "_B"))]
    assert names == ["base_model.randlora_A", "base_model.randlora_B"]


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
def test_randlora_of_different_scales(tmp_path):
    overrides = {"layers.1": functools.partial(RandLoRA, rank=4, alpha=8), "layers.2": functools.partial(
        RandLoRA, rank=4, scaling="paper", num_bases=2)}
    mine = convert(net(), functools.partial(RandLoRA, rank=4), ["layers.*"], overrides, start="update")
    disturb(mine)
    peft.write(tmp_path, mine, {})
    assert peft.read_json(tmp_path / peft.CONFIG)["peft_type"] == "RANDLORA"
    for x, y in zip(mine(inputs()), theirs.PeftModel.from_pretrained(net(), tmp_path)(inputs()), strict=True):
        close(x, y)


@pytest.mark.parametrize("other", [{"rank": 5}, {"rank": 4, "seed": 1}])
def test_randlora_without_common_bases_is_truncated(other, tmp_path):
    overrides = {"layers.1": functools.partial(RandLoRA, **other)}
    mine = convert(net(), functools.partial(RandLoRA, rank=4), ["layers.*"], overrides, start="update")
    peft.write(tmp_path, mine, {})
    assert peft.read_json(tmp_path / peft.CONFIG)["peft_type"] == "LORA"


def test_randlora_of_different_sides_is_truncated(tmp_path):
    """Which column of B belongs to which base depends on the number of bases."""
    mine = convert(nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 6)).requires_grad_(False),
                   functools.partial(RandLoRA, rank=3), ["*"], start="update")
    peft.write(tmp_path, mine, {})
    assert peft.read_json(tmp_path / peft.CONFIG)["peft_type"] == "LORA"


def test_layers_of_different_rank_and_scale(tmp_path):
    overrides = {"layers.1": functools.partial(LoRA, rank=2), "layers.2": functools.partial(DCT, ratio=0.5)}
    mine = convert(net(), functools.partial(LoRA, rank=3), ["layers.*"], overrides, start="update", scale=0.7)
    disturb(mine)
    errors = peft.write(tmp_path, mine, {})
    config = peft.read_json(tmp_path / peft.CONFIG)
    assert config["rank_pattern"] == {"layers.1": 2, "layers.2": 8}
    assert errors["layers.0"] == errors["layers.1"] == 0
    loaded = theirs.PeftModel.from_pretrained(net(), tmp_path).base_model.model
    for name in ("layers.0", "layers.1"):
        close(mine.get_submodule(name).update(), loaded.get_submodule(name).get_delta_weight("default"))
    update = mine.layers[2].update()
    rest = (update - loaded.layers[2].get_delta_weight("default")).norm() / update.norm()
    torch.testing.assert_close(errors["layers.2"], rest.item(), rtol=1e-4, atol=0)


def test_truncation_is_the_best_one():
    layer = ZooLinear(DCT(12, 10, ratio=0.9), weight=torch.zeros(12, 10), scale=0.5)
    s = torch.linalg.svdvals(layer.update().detach())
    (a, b, scale), error = peft.lora_factors(layer, 4)
    assert (a.shape, b.shape) == ((4, 10), (12, 4))
    torch.testing.assert_close(error, (s[4:].norm() / s.norm()).item())
    torch.testing.assert_close((layer.update() - scale * b @ a).norm().item(), s[4:].norm().item())


def classifier(backbone: Path, **settings: Any) -> GlueClassifier:
    model = GlueClassifier(str(backbone), "rte", **{"parameterization": functools.partial(LoRA, rank=4), **settings})
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
@pytest.mark.parametrize("factory", [functools.partial(LoRA, rank=4), functools.partial(RandLoRA, rank=4)])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2"])
def test_exported_classifier_has_equal_logits(kind, factory, backbones, place, tmp_path):
    norm = {"gpt2": "ln_2", "distilbert": "sa_layer_norm"}.get(kind, "attention.output.LayerNorm")
    tuning = Tuning(preset="all", scale=0.5, train=[norm])
    model = classifier(backbones(kind), parameterization=factory, tuning=tuning)
    assert main(["export", str(run(model, tmp_path / "run")), "--to", "peft"]) == 0
    loaded = theirs.PeftModel.from_pretrained(base(backbones(kind)), tmp_path / "run" / "export-peft").eval()
    close(loaded(IDS).logits, model.net(IDS).logits)
    assert (loaded(IDS).logits - base(backbones(kind))(IDS).logits).abs().max() > 0.01


def test_targets_in_the_head_are_stored_whole(backbones, tmp_path):
    model = classifier(backbones("roberta"), targets=["query", "classifier.dense"])
    peft.write(tmp_path, model.net, model.peft_fields())
    loaded = theirs.PeftModel.from_pretrained(base(backbones("roberta")), tmp_path).eval()
    close(loaded(IDS).logits, model.net(IDS).logits)


def test_targets_with_a_trained_bias_are_stored_whole(backbones, tmp_path):
    model = classifier(backbones("bert"), tuning=Tuning(train=["1.attention.self.query"]))
    peft.write(tmp_path, model.net, model.peft_fields())
    config = peft.read_json(tmp_path / peft.CONFIG)
    assert config["modules_to_save"] == ["bert.encoder.layer.1.attention.self.query", "classifier"]
    loaded = theirs.PeftModel.from_pretrained(base(backbones("bert")), tmp_path).eval()
    close(loaded(IDS).logits, model.net(IDS).logits)
    model = classifier(backbones("bert"), tuning=Tuning(train=["query", "value"]))
    with pytest.raises(UserError, match="--to dense"):
        peft.write(tmp_path, model.net, model.peft_fields())


def test_exported_decoder_has_equal_logits(backbones, place, tmp_path):
    model = CausalLM(str(backbones("gpt2")), functools.partial(LoRA, rank=4)).eval()
    disturb(model)
    assert main(["export", str(run(model, tmp_path / "run")), "--to", "peft"]) == 0
    loaded = theirs.PeftModel.from_pretrained(base(backbones("gpt2"), "CausalLM"), tmp_path / "run" / "export-peft")
    close(loaded.eval()(IDS).logits, model(IDS))


# ---- Written by peft, imported here ----------------------------------------------------------------------------------


def peft_adapter(backbone: Path, folder: Path, kind: str = "SequenceClassification", **settings: Any) -> Tensor:
    """An adapter that peft made, and its logits."""
    torch.manual_seed(3)
    task = {"SequenceClassification": "SEQ_CLS", "CausalLM": "CAUSAL_LM"}[kind]
    model = theirs.get_peft_model(base(backbone, kind), theirs.LoraConfig(task_type=task, **settings)).eval()
    disturb(model)
    model.save_pretrained(folder)
    return model(IDS).logits


LAYERS = r".*layer\.[01]\.(attention\.self\.(query|value)|intermediate\.dense)"
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"r": 4, "lora_alpha": 12, "target_modules": ["query", "value"]}),
    "patterns": ("bert", {
        "r": 4, "lora_alpha": 6, "target_modules": LAYERS, "rank_pattern": {"query": 2, "0.intermediate.dense": 5},
        "alpha_pattern": {"layer.1.attention.self.value": 16}, "use_rslora": True,
    }),
    "more is trained": ("bert", {"r": 2, "target_modules": ["key"], "modules_to_save": ["pooler", "output.LayerNorm"]}),
    "roberta": ("roberta", {"r": 4, "target_modules": ["query"]}),
    "distilbert": ("distilbert", {"r": 4, "target_modules": ["q_lin", "lin1"]}),
    "gpt2": ("gpt2", {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_imported_classifier_has_equal_logits(name, backbones, place):
    kind, settings = ADAPTERS[name]
    logits = peft_adapter(backbones(kind), Path("adapter"), **settings)
    assert main(["import", "adapter", "--task", "rte"]) == 0
    model = checkpoints.rebuild(checkpoints.resolve("runs/adapter"))
    close(model.net(IDS).logits, logits)


def test_imported_decoder_has_equal_logits(backbones, place):
    settings = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    logits = peft_adapter(backbones("gpt2"), Path("adapter"), "CausalLM", **settings)
    assert main(["import", "adapter", "--output", "here"]) == 0
    close(checkpoints.rebuild(checkpoints.resolve("here"))(IDS), logits)


def test_factors_come_back_from_a_round_trip(backbones, place):
    """peft to zoo to peft: the same tensors."""
    logits = peft_adapter(backbones("bert"), Path("adapter"), **ADAPTERS["patterns"][1])
    assert main(["import", "adapter", "--task", "rte", "--output", "run"]) == 0
    assert main(["export", "run", "--to", "peft", "--output", "again"]) == 0
    before, after = peft.read_lora(Path("adapter")), peft.read_lora(Path("again"))
    assert before.factors.keys() == after.factors.keys()
    for name, (a, b, scale) in before.factors.items():
        close(after.factors[name].A, a)
        close(after.factors[name].scale * after.factors[name].B, scale * b)
    assert before.saved.keys() == after.saved.keys()
    assert all(torch.equal(before.saved[name], after.saved[name]) for name in before.saved)
    close(theirs.PeftModel.from_pretrained(base(backbones("bert")), "again").eval()(IDS).logits, logits)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"layers.1": 20, "0": 3}}])
def test_scale_is_that_of_peft(settings, tmp_path):
    config = theirs.LoraConfig(r=4, lora_alpha=6, target_modules=["0", "1", "2"], rank_pattern={"2": 2}, **settings)
    model = theirs.get_peft_model(net(), config)
    disturb(model)
    model.save_pretrained(tmp_path)
    read = peft.read_lora(tmp_path)
    assert list(read.factors) == ["layers.0", "layers.1", "layers.2"]
    for name, (a, b, scale) in read.factors.items():
        close(scale * b @ a, model.base_model.model.get_submodule(name).get_delta_weight("default"))


def test_an_imported_run_is_validated(backbones, glue, place):
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    assert main(["import", "adapter", "--task", "rte", "--output", "run"]) == 0
    options = ["--data.data_dir", str(glue), "--data.max_length", "32"]
    assert main(["validate", "--ckpt_path", "run", *options]) == 0
    assert json.loads(Path("adapter/adapter_config.json").read_text())["base_model_name_or_path"] in (
        Path("run/config.yaml").read_text()
    )


# ---- Bad input -------------------------------------------------------------------------------------------------------

Adapter = Callable[..., Path]


@pytest.fixture
def adapter(backbones, place) -> Adapter:
    """A good adapter, with some settings of its config replaced."""

    def make(**changes: Any) -> Path:
        peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
        config = Path("adapter/adapter_config.json")
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        return Path("adapter")

    return make


UNSUPPORTED = {
    "IA3": {"peft_type": "IA3"}, "RANDLORA": {"peft_type": "RANDLORA"}, "use_dora": {"use_dora": True},
    "bias 'all'": {"bias": "all"}, "lora_bias": {"lora_bias": True}, "'pissa'": {"init_lora_weights": "pissa"},
    "target_parameters": {"target_parameters": ["weight"]},
}


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], *words: str) -> None:
    """One line with these words, status 2, and nothing written."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert [word for word in words if word not in line] == [], line
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_adapter(what, adapter, capsys):
    adapter(**UNSUPPORTED[what])
    refused(capsys, ["import", "adapter", "--task", "rte"], "'adapter'", what, "plain LoRA")


def test_adapter_for_another_backbone(adapter, backbones, capsys):
    argv = ["import", str(adapter()), "--task", "rte", "--backbone"]
    refused(capsys, [*argv, str(backbones("gpt2"))], "another backbone", "no bert.encoder.layer.0", "attn.c_attn")
    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=8)
    config.save_pretrained("small")
    refused(capsys, [*argv, "small"], "another backbone", "attention.self.query", "(32, 32)", "(16, 16)")


def test_adapter_for_another_task(adapter, capsys):
    argv = ["import", str(adapter())]
    refused(capsys, argv, "SEQ_CLS", "--task")
    refused(capsys, [*argv, "--task", "mnli"], "classifier", "(2", "(3", "--task")
    refused(capsys, [*argv, "--task", "no"], "'no'")


def test_decoder_has_no_task(backbones, place, capsys):
    peft_adapter(backbones("gpt2"), Path("adapter"), "CausalLM", target_modules=["c_attn"], fan_in_fan_out=True)
    refused(capsys, ["import", "adapter", "--task", "rte"], "CAUSAL_LM", "drop --task")


def test_adapter_of_another_kind(adapter, capsys):
    adapter(task_type="SEQ_2_SEQ_LM")
    refused(capsys, ["import", "adapter"], "SEQ_2_SEQ_LM", "SEQ_CLS", "CAUSAL_LM")


@pytest.mark.parametrize("name", [peft.CONFIG, peft.TENSORS])
def test_adapter_is_truncated(name, adapter, capsys):
    path = adapter() / name
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(capsys, ["import", "adapter", "--task", "rte"], name, "use another one")
    path.unlink()
    refused(capsys, ["import", "adapter", "--task", "rte"], "no peft adapter", f"no {name}")


def test_adapter_is_damaged(adapter, capsys):
    path = adapter(alpha_pattern={"(": 3}) / peft.TENSORS
    refused(capsys, ["import", "adapter", "--task", "rte"], "alpha_pattern")
    tensors = safetensors.load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    safetensors.save_file(tensors | {name: torch.ones(3)}, path)
    refused(capsys, ["import", "adapter", "--task", "rte"], "attention.self.query", "(r, in)")
    safetensors.save_file({"lora": torch.ones(3)}, path)
    refused(capsys, ["import", "adapter", "--task", "rte"], "no layers")
    safetensors.save_file({f"{peft.PREFIX}embeddings.lora_embedding_A": torch.ones(3)}, path)
    refused(capsys, ["import", "adapter", "--task", "rte"], "lora_embedding_A", "linear layers")


def test_no_adapter_there(place, capsys):
    refused(capsys, ["import", "nowhere", "--task", "rte"], "'nowhere'", "no peft adapter")


def test_output_is_there(adapter, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("")
    refused(capsys, ["import", str(adapter()), "--task", "rte", "--output", "full"], "'full'", "--output")


def test_adapter_in_place_of_a_run(adapter, capsys):
    refused(capsys, ["validate", "--ckpt_path", str(adapter())], "peft adapter", "zoo import adapter")


def test_a_network_without_base_weights(backbones, place, capsys):
    model = classifier(backbones("bert"), tuning=Tuning(full=True))
    assert all(layer.weight is None for layer in zoo_layers(model.net).values())
    run(model, Path("run"))
    refused(capsys, ["export", "run", "--to", "peft"], "no frozen weight", "--to dense")
