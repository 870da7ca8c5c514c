"""Networks that bitsandbytes or torchao quantized, under transformers' Trainer and by hand."""

import pytest
import torch

import zoo
from zoo.layers.convert import zoo_layers

transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what quantizers call in torch

IDS = torch.arange(3, 23)[None]


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        ids = torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


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


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("method", ["LoRA", "DCT", "DoRA"])
def test_a_quantized_network_is_trained_saved_loaded_and_merged(method, quantized, tmp_path):
    base = logits(quantized())
    settings = {"ratio": 0.1} if method == "DCT" else {"rank": 2}
    model = zoo.adapt(quantized(), getattr(zoo, method), targets="all", **settings)
    assert torch.allclose(logits(model), base, atol=1e-4)
    loop = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=0.1,
            save_steps=2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Texts(),
    )
    loop.train()
    after = logits(model)
    assert not torch.allclose(after, base, atol=1e-3)
    last = tmp_path / "run" / "checkpoint-2"
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
