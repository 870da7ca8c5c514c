"""`zoo import`: what peft wrote has equal logits as a run; anything else is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from test_peft import IDS, base, classifier, close, disturb, run, safetensors, theirs, transformers
from torch import Tensor

from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.layers.convert import zoo_layers
from zoo.runs import checkpoints, peft

# peft calls transformers by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def peft_adapter(
    backbone: Path, folder: Path, kind: str = "SequenceClassification", **settings: Any
) -> Tensor:
    """An adapter that peft made, and its logits."""
    torch.manual_seed(3)
    task = {"SequenceClassification": "SEQ_CLS", "CausalLM": "CAUSAL_LM"}[kind]
    model = theirs.get_peft_model(
        base(backbone, kind), theirs.LoraConfig(task_type=task, **settings)
    ).eval()
    disturb(model)
    model.save_pretrained(folder)
    return model(IDS).logits


LAYERS = r".*layer\.[01]\.(attention\.self\.(query|value)|intermediate\.dense)"
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"r": 4, "lora_alpha": 12, "target_modules": ["query", "value"]}),
    "patterns": (
        "bert",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": LAYERS,
            "rank_pattern": {"query": 2, "0.intermediate.dense": 5},
            "alpha_pattern": {"layer.1.attention.self.value": 16},
            "use_rslora": True,
        },
    ),
    "more is trained": (
        "bert",
        {"r": 2, "target_modules": ["key"], "modules_to_save": ["pooler", "output.LayerNorm"]},
    ),
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
    before, after = peft.read(Path("adapter")), peft.read(Path("again"))
    assert before.updates.keys() == after.updates.keys()
    for name, update in before.updates.items():
        mine: Any = after.updates[name]
        close(mine.A, update.A)
        close(mine.scale * mine.B, update.scale * update.B)
    assert before.saved.keys() == after.saved.keys()
    assert all(torch.equal(before.saved[name], after.saved[name]) for name in before.saved)
    close(
        theirs.PeftModel.from_pretrained(base(backbones("bert")), "again").eval()(IDS).logits,
        logits,
    )


def test_an_imported_run_is_validated(backbones, glue, place):
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    assert main(["import", "adapter", "--task", "rte", "--output", "run"]) == 0
    options = ["--data.data_dir", str(glue), "--data.max_length", "32"]
    assert main(["validate", "--ckpt_path", "run", *options]) == 0
    assert json.loads(Path("adapter/adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] in (Path("run/config.yaml").read_text())


# ---- Bad input -----------------------------------------------------------------------------------

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
    "'IA3'": {"peft_type": "IA3"},
    "peft_type ['LORA']": {"peft_type": ["LORA"]},
    "'pissa'": {"init_lora_weights": "pissa"},
    "use_bdlora": {"use_bdlora": {"blocks": 2}},
    "no layers": {"peft_type": "LOHA"},
    "lora_A.weight (4, 32), lora_B.weight (32, 4)": {"use_dora": True},
    "lora_B.weight (32, 4)": {"lora_bias": True},
    "bias is damaged, 'some'": {"bias": "some"},
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_adapter(what, adapter, capsys):
    adapter(**UNSUPPORTED[what])
    refused(capsys, ["import", "adapter", "--task", "rte"], "adapter", what)


def test_adapter_for_another_backbone(adapter, backbones, capsys):
    argv = ["import", str(adapter()), "--task", "rte", "--backbone"]
    refused(
        capsys,
        [*argv, str(backbones("gpt2"))],
        "another backbone",
        "no bert.encoder.layer.0",
        "attn.c_attn",
    )
    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=8)
    config.save_pretrained("small")
    refused(
        capsys, [*argv, "small"], "another backbone", "attention.self.query", "(32, 32)", "(16, 16)"
    )


def test_adapter_for_another_task(adapter, capsys):
    argv = ["import", str(adapter())]
    refused(capsys, argv, "SEQ_CLS", "--task")
    refused(capsys, [*argv, "--task", "mnli"], "classifier", "(2", "(3", "--task")
    refused(capsys, [*argv, "--task", "no"], "'no'", "as --task")
    refused(
        capsys, [*argv, "--task", "rte", "--backbone", "./nowhere"], "'./nowhere'", "as --backbone"
    )


def test_decoder_has_no_task(backbones, place, capsys):
    peft_adapter(
        backbones("gpt2"),
        Path("adapter"),
        "CausalLM",
        target_modules=["c_attn"],
        fan_in_fan_out=True,
    )
    refused(capsys, ["import", "adapter", "--task", "rte"], "CAUSAL_LM", "drop --task")


@pytest.mark.parametrize("kind", ["SEQ_2_SEQ_LM", ["SEQ_CLS"]])
def test_adapter_of_another_kind(kind, adapter, capsys):
    adapter(task_type=kind)
    refused(capsys, ["import", "adapter"], str(kind), "SEQ_CLS", "CAUSAL_LM")


@pytest.mark.parametrize("alpha", [0, float("inf"), "eight"])
def test_adapter_of_no_scale(alpha, adapter, capsys):
    adapter(lora_alpha=alpha)
    refused(capsys, ["import", "adapter", "--task", "rte"], "lora_alpha")


def test_adapter_without_its_head(adapter, capsys):
    path = adapter() / peft.TENSORS
    safetensors.save_file(
        {k: v for k, v in safetensors.load_file(path).items() if "classifier" not in k}, path
    )
    refused(capsys, ["import", "adapter", "--task", "rte"], "no classifier.weight", "random")


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
    words = "attention.self.query is damaged", "lora_A.weight (3,)"
    refused(capsys, ["import", "adapter", "--task", "rte"], *words)
    safetensors.save_file({"lora": torch.ones(3)}, path)
    refused(capsys, ["import", "adapter", "--task", "rte"], "no layers")
    safetensors.save_file({f"{peft.PREFIX}embeddings.lora_embedding_A": torch.ones(3)}, path)
    refused(capsys, ["import", "adapter", "--task", "rte"], "lora_embedding_A", "linear layers")


def test_no_adapter_there(place, capsys):
    refused(capsys, ["import", "nowhere", "--task", "rte"], "no adapter 'nowhere'")


def test_output_is_there(adapter, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("")
    refused(
        capsys,
        ["import", str(adapter()), "--task", "rte", "--output", "full"],
        "'full'",
        "--output",
    )


def test_adapter_in_place_of_a_run(adapter, capsys):
    refused(
        capsys, ["validate", "--ckpt_path", str(adapter())], "peft adapter", "zoo import adapter"
    )


def test_a_network_without_base_weights(backbones, place, capsys):
    model = classifier(backbones("bert"), tuning=Tuning(full=True))
    assert all(layer.base is None for layer in zoo_layers(model.net).values())
    run(model, Path("run"))
    refused(capsys, ["export", "run", "--to", "peft"], "no frozen weight", "--to dense")
