"""Decoders whose linear layers have no bias, from the command line: trained, scored, continued and
exported.
"""

import json

import pytest
import torch
from every import thinned
from fits import fit

from zoo.__main__ import main
from zoo.layers.convert import zoo_layers
from zoo.runs.checkpoints import rebuild, resolve
from zoo.testing import agree

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = torch.arange(5, 35).view(3, 10)
METHODS = {
    "BlockDCT": ["--model.parameterization.ratio=0.3", "--model.parameterization.block=8"],
    "DCT": ["--model.parameterization.ratio=0.3"],
    "RandLoRA": ["--model.parameterization.rank=4"],
}


@pytest.fixture
def decode(backbones, text):
    """Return options with which a fit of a decoder of this kind takes a second."""

    def options(kind: str, method: str) -> list[str]:
        words = {
            "model.backbone": backbones(kind),
            "data.corpus": text,
            "data.batch_size": 4,
            "data.block_size": 16,
            "trainer.precision": "32-true",
            "trainer.max_steps": 6,
            "trainer.val_check_interval": 3,
            "model.parameterization": method,
        }
        return [*(f"--{key}={value}" for key, value in words.items()), *METHODS[method]]

    return options


# peft calls transformers by a name that is going away.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "method"),
    thinned(
        [("gemma3_text", "DCT"), ("llama", "RandLoRA"), ("qwen3", "BlockDCT")],
        lambda kind, method: kind == "llama",
    ),
)
def test_trained_scored_continued_and_exported(kind, method, place, decode, backbones, capsys):
    """With the frozen weights in bfloat16: a plain network and a peft adapter that are what was
    trained.
    """
    words = ["--model.tuning.preset=all", "--model.tuning.dtype=bfloat16"]
    folder = fit(*decode(kind, method), *words, config="causal_lm_lora.yaml")
    summary = json.loads((folder / "summary.json").read_text())
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    assert f"{summary['loss']:.4f}" in capsys.readouterr().out.split()
    assert (
        main(["generate", "--ckpt_path", str(folder), "--prompt", "the fox", "--length", "5"]) == 0
    )
    assert capsys.readouterr().out.startswith("the fox")
    network = rebuild(resolve(str(folder))).net.eval()
    assert len(zoo_layers(network)) == 14

    assert main(["export", str(folder), "--to", "dense"]) == 0
    dense = transformers.AutoModelForCausalLM.from_pretrained(folder / "export-dense")
    assert dense.dtype == torch.bfloat16
    with torch.no_grad():
        agree(dense(IDS).logits, network(IDS).logits, 0.02)

    assert main(["export", str(folder), "--to", "peft", "--rank", "32"]) == 0
    plain = transformers.AutoModelForCausalLM.from_pretrained(backbones(kind), dtype=torch.float32)
    before = {name: plain.get_submodule(name).weight.clone() for name in zoo_layers(network)}
    merged = peft.PeftModel.from_pretrained(plain, folder / "export-peft").merge_and_unload()
    for name, layer in zoo_layers(network).items():
        update = layer.update().detach()
        assert update.abs().max() > 0
        agree(merged.get_submodule(name).weight.detach() - before[name], update, 1e-3)
