"""TRL's SFTTrainer trains an adapter as it trains any network."""

import pytest
import torch
from trainers import arguments, logits

import zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # of what trl calls in other libraries
trl = pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")


def test_sft_trains_saves_and_resumes_an_adapter(backbones, tmp_path):
    folder = backbones("llama")

    def new():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        return zoo.adapt(model, zoo.DCT, ratio=0.1, targets="query_value")

    def loop(model):
        return trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(**arguments(tmp_path / "run", max_length=16, bf16=False)),
            train_dataset=datasets.Dataset.from_dict({"text": ["the film was good"] * 8}),
            processing_class=tokenizer,
        )

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = new()
    base = logits(model)
    loop(model).train()
    after = logits(model)
    assert not torch.allclose(after, base, atol=1e-3)
    assert all("parameterization" in name for name in zoo.trainable(model))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    other = zoo.load(plain, tmp_path / "run" / "checkpoint-4")
    assert torch.allclose(logits(other), after, atol=1e-5)
