"""Networks of other tasks, loops of other libraries: Trainer, Accelerate, compile, a plain loop."""

import subprocess
import sys
import textwrap

import pytest
import torch
from networks import disturb
from trainers import SETTINGS, trainer

import zoo
from zoo.layers.convert import zoo_layers

transformers = pytest.importorskip("transformers")

IDS = torch.randint(5, 60, (8, 10), generator=torch.Generator().manual_seed(0))


def tokens(folder):
    make = transformers.AutoModelForTokenClassification.from_pretrained
    return make(folder, num_labels=3), {"labels": IDS % 3}


def questions(folder):
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    return model, {"start_positions": IDS[:, 0] % 10, "end_positions": IDS[:, 1] % 10}


def masked_words(folder):
    return transformers.AutoModelForMaskedLM.from_pretrained(folder), {"labels": IDS}


def summaries(_):
    config = transformers.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config), {"labels": IDS}


def pictures(_):
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config), {"labels": IDS[:, 0] % 3}


TASKS = {
    "tokens": (tokens, ["classifier"]),
    "questions": (questions, ["qa_outputs"]),
    "masked words": (masked_words, []),
    "summaries": (summaries, []),
    "pictures": (pictures, ["classifier"]),
}


def built(task, backbones):
    make, heads = TASKS[task]
    torch.manual_seed(0)  # heads are drawn
    model, labels = make(backbones("bert"))
    if task == "pictures":
        x = {"pixel_values": torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
    else:
        x = {"input_ids": IDS}
    return model, x | labels, heads


def outputs(model, batch):
    model.eval()
    with torch.no_grad():
        found = model(**batch)
    return next(value for name, value in found.items() if "logits" in name), found.loss


@pytest.mark.parametrize("task", TASKS)
def test_heads_of_any_task_are_trained_saved_and_loaded(task, backbones, tmp_path):
    model, batch, heads = built(task, backbones)
    base = outputs(model, batch)[0]
    zoo.adapt(model, zoo.DCT, ratio=0.1)
    besides = {
        name.split(".")[0] for name in zoo.trainable(model) if "parameterization" not in name
    }
    assert besides == set(heads)
    # Heads are no target; nor is an output layer.
    assert not any(name.split(".")[0] in (*heads, "lm_head", "cls") for name in zoo_layers(model))
    trainer(model, tmp_path, batch).train()
    after = outputs(model, batch)[0]
    assert not torch.allclose(after, base, atol=1e-3)
    with zoo.disabled(model):
        assert torch.equal(outputs(model, batch)[0], base)
    fresh = zoo.load(built(task, backbones)[0], tmp_path / "checkpoint-4")
    assert torch.allclose(outputs(fresh, batch)[0], after, atol=1e-5)
    assert torch.allclose(outputs(zoo.merged(model), batch)[0], after, atol=1e-4)


@pytest.mark.parametrize("method", ["LoRA", "DCT", "DoRA"])
def test_a_compiled_network_computes_the_same(method, backbones):
    model, batch, _ = built("tokens", backbones)
    disturb(zoo.adapt(model, getattr(zoo, method), targets="query_value", **SETTINGS[method]))
    compiled = torch.compile(model, backend="aot_eager")
    model.train()
    torch.manual_seed(0)
    for p in model.modules():
        if isinstance(p, torch.nn.Dropout):
            p.p = 0.0
    loss = model(**batch).loss
    gradients = torch.autograd.grad(loss, list(zoo.trainable(model).values()))
    other = compiled(**batch).loss
    assert torch.allclose(loss, other, atol=1e-5)
    for a, b in zip(
        gradients, torch.autograd.grad(other, list(zoo.trainable(model).values())), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


ACCELERATE = """
import sys, torch, zoo
from accelerate import Accelerator

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
zoo.adapt(net, zoo.DCT, ratio=0.5, targets="*")
accelerator = Accelerator(cpu=True)
data = [(torch.randn(8), torch.randn(2)) for _ in range(32)]
loader = torch.utils.data.DataLoader(data, batch_size=4)
optimizer = torch.optim.AdamW(zoo.param_groups(net, lr=0.01))
net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
for x, y in loader:
    loss = torch.nn.functional.mse_loss(net(x), y)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
plain = accelerator.unwrap_model(net)
everywhere = accelerator.gather(next(iter(zoo.trainable(plain).values()))[None])
assert len(everywhere) == 2 and torch.equal(everywhere[0], everywhere[1])
if accelerator.is_main_process:
    zoo.save(plain, sys.argv[1])
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_of_accelerate_train_one_adapter(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "loop.py"
    script.write_text(textwrap.dedent(ACCELERATE))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *command, str(script), str(tmp_path / "a")], check=True, timeout=90
    )
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    zoo.load(net, tmp_path / "a")
    coef = net[0].parameterization.coef
    assert coef.abs().sum() > 0
