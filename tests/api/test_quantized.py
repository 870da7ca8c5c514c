"""Networks that bitsandbytes or torchao quantized, under transformers' Trainer and by hand."""

import pytest
import torch
from trainers import IDS, SETTINGS, logits, trainer

import zoo
from zoo.layers.convert import zoo_layers

transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what quantizers call in torch


@pytest.fixture
def quantized(tmp_path):
    """A small Llama whose linear layers are bitsandbytes' 4-bit ones, of blocks of 64."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=64, **sizes, **heads)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")

    def load():
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
        return transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=config, device_map="cpu"
        ).eval()

    return load


@pytest.mark.parametrize("method", ["LoRA", "DCT", "DoRA"])
def test_a_quantized_network_is_trained_saved_loaded_and_merged(method, quantized, tmp_path):
    base = logits(quantized())
    model = zoo.adapt(quantized(), getattr(zoo, method), targets="all", **SETTINGS[method])
    assert torch.allclose(logits(model), base, atol=1e-4)
    trainer(model, tmp_path / "run").train()
    after = logits(model)
    assert not torch.allclose(after, base, atol=1e-3)
    last = tmp_path / "run" / "checkpoint-4"
    names = {file.name for file in last.iterdir()}
    assert "zoo_adapter.json" in names and "adapter_config.json" not in names
    assert (last / "model.safetensors").stat().st_size < 2**16
    fresh = zoo.load(quantized(), last)
    assert torch.allclose(logits(fresh), after, atol=1e-4)
    with zoo.disabled(model):
        assert torch.equal(logits(model), base)
    plain = zoo.merged(model)
    assert not zoo_layers(plain)
    # In eval mode bitsandbytes multiplies in bfloat16 on a CPU; in train mode as it was told.
    assert torch.allclose(logits(plain), after, atol=0.02)
    exact = model.train()(IDS).logits.detach()
    assert torch.allclose(logits(plain), exact, atol=1e-4)
    zoo.remove(model, "default")
    assert torch.equal(logits(model), base)
