"""transformers' own loop: trained, interrupted, resumed, saved, loaded, switched and merged."""

import json
import os
import subprocess
import sys

import pytest
import torch
from networks import disturb
from trainers import IDS, SETTINGS, logits, trainer

import zoo
from zoo.api.transformers import SavePretrained
from zoo.layers.convert import zoo_layers

transformers = pytest.importorskip("transformers")


@pytest.fixture
def llama(backbones):
    folder = str(backbones("llama"))
    return lambda: transformers.AutoModelForCausalLM.from_pretrained(folder)


FIELDS = transformers.TrainingArguments.__dataclass_fields__
CHECKPOINTING = next(
    f for f in ("activation_checkpointing", "gradient_checkpointing") if f in FIELDS
)


class Stop(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= 2


@pytest.mark.parametrize("method", SETTINGS)
def test_trained_interrupted_resumed_saved_loaded_switched_and_merged(method, llama, tmp_path):
    cls, settings = getattr(zoo, method), SETTINGS[method]
    base = logits(llama())

    def new():
        torch.manual_seed(0)  # LoRA draws A
        return zoo.adapt(llama(), cls, targets="query_value", **settings)

    whole = new()
    assert torch.allclose(logits(whole), base, atol=1e-5)
    trainer(whole, tmp_path / "whole").train()
    trained = logits(whole)
    assert not torch.allclose(trained, base, atol=1e-2)

    first = new()
    trainer(first, tmp_path / "parts", callbacks=[Stop()]).train()
    last = tmp_path / "parts" / "checkpoint-2"
    names = {file.name for file in last.iterdir()}
    assert {"model.safetensors", "zoo_adapter.json", "README.md"} <= names
    assert "config.json" not in names  # nothing that could be taken for a whole network
    size = (last / "model.safetensors").stat().st_size
    assert size <= 4 * zoo.summary(first).coefficients + 2**16
    second = new()
    trainer(second, tmp_path / "parts").train(resume_from_checkpoint=str(last))
    assert torch.allclose(logits(second), trained, atol=1e-5)

    folder = zoo.save(second, tmp_path / "adapter")
    fresh = zoo.load(llama(), folder, name="one")
    assert torch.allclose(logits(fresh), trained, atol=1e-5)
    assert torch.allclose(
        logits(zoo.load(llama(), last.with_name("checkpoint-4"))), trained, atol=1e-5
    )
    zoo.adapt(fresh, zoo.LoRA, rank=1, name="two", targets="mlp")
    assert torch.allclose(logits(fresh), base, atol=1e-5)
    assert torch.allclose(logits(zoo.use(fresh, "one")), trained, atol=1e-5)
    with zoo.disabled(fresh):
        assert torch.equal(logits(fresh), base)
    plain = zoo.merged(fresh)
    assert torch.allclose(logits(plain), trained, atol=1e-4)
    plain.save_pretrained(tmp_path / "plain")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert torch.allclose(logits(again), logits(plain), atol=1e-6)


@pytest.mark.slow
def test_a_fresh_process_loads_what_was_saved(llama, tmp_path):
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="query_value")
    disturb(model)
    folder, out = zoo.save(model, tmp_path / "adapter"), tmp_path / "logits.pt"
    code = (
        "import sys, torch, transformers, zoo\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model = zoo.load(model, sys.argv[2]).eval()\n"
        "torch.save(model(torch.arange(3, 23)[None]).logits, sys.argv[3])\n"
    )
    path = llama().config._name_or_path
    subprocess.run([sys.executable, "-c", code, path, folder, out], check=True)
    assert torch.allclose(torch.load(out), logits(model), atol=1e-5)


def test_the_best_checkpoint_is_loaded_and_old_ones_are_removed(llama, tmp_path, caplog):
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="all")
    loop = trainer(
        model,
        tmp_path,
        load_best_model_at_end=True,
        save_total_limit=1,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=8,
        learning_rate=0.5,
    )
    loop.train()
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    best = loop.state.best_model_checkpoint
    assert os.path.basename(best) in kept and len(kept) <= 2
    assert torch.allclose(logits(model), logits(zoo.load(llama(), best)), atol=1e-5)
    assert "missing keys" not in caplog.text


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_reaches_every_coefficient(llama, tmp_path, reentrant):
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="all")
    plain = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="all")
    for each, more in (
        (model, {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}),
        (plain, {}),
    ):
        trainer(each, tmp_path / str(len(more)), max_steps=2, save_strategy="no", **more).train()
    for layer in zoo_layers(model).values():
        assert layer.parameterization.coef.detach().abs().sum() > 0
    assert torch.allclose(logits(model), logits(plain), atol=1e-5)


def test_ranks_are_in_the_trainers_own_tensorboard(llama, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = zoo.adapt(llama(), zoo.LoRA, rank=2, targets="query_value")
    loop = trainer(
        model,
        tmp_path,
        callbacks=[zoo.hf.RankCallback(every_n_steps=2, energy_every_n_steps=4)],
        report_to="tensorboard",
    )
    loop.train()
    (folder,) = {file.parent for file in tmp_path.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "train/loss" in tags
    layer = "model.layers.0.self_attn.q_proj"
    seen = events.Scalars(f"stable_rank/update.{layer}")
    assert [event.step for event in seen] == [0, 2, 4]
    W = zoo_layers(model)[layer].update().detach()
    s = torch.linalg.svdvals(W)
    assert seen[-1].value == pytest.approx((s.square().sum() / s[0] ** 2).item(), rel=1e-3)
    assert any(f"stable_rank/update.{layer}" in row for row in loop.state.log_history)
    assert [event.step for event in events.Scalars(f"k90/{layer}")] == [0, 4]


def test_generation_with_a_cache_is_that_of_the_merged_network(llama):
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="all")
    disturb(model, 0.5).eval()
    words = {"max_new_tokens": 8, "do_sample": False, "use_cache": True}
    assert torch.equal(model.generate(IDS, **words), zoo.merged(model).generate(IDS, **words))


def test_a_classifiers_head_is_trained_and_saved_with_it(backbones, tmp_path):
    folder = str(backbones("bert"))
    new = transformers.AutoModelForSequenceClassification.from_pretrained
    model = zoo.adapt(new(folder, num_labels=3), zoo.DCT, ratio=0.1, targets="query_value")
    assert {"classifier.weight", "classifier.bias"} <= set(zoo.trainable(model))
    disturb(model)
    model.save_pretrained(tmp_path / "a")
    other = zoo.load(new(folder, num_labels=3), tmp_path / "a")
    assert torch.equal(logits(other), logits(model))
    with pytest.raises(zoo.UserError, match="classifier"):
        zoo.load(new(folder, num_labels=2), tmp_path / "a")


def test_a_network_without_adapters_saves_itself(llama, tmp_path):
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1)
    assert isinstance(model.save_pretrained, SavePretrained)
    zoo.remove(model, "default")
    model.save_pretrained(tmp_path)
    assert "config.json" in {file.name for file in tmp_path.iterdir()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_copies_and_pickles_save_themselves(llama, tmp_path):
    import copy
    import pickle

    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="query_value")
    for i, other in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        with torch.no_grad():
            for p in zoo.trainable(other).values():
                p.fill_(i + 1.0)
        other.save_pretrained(tmp_path / str(i))
        assert torch.equal(logits(zoo.load(llama(), tmp_path / str(i))), logits(other))
        state = {name: torch.full_like(p, 7.0) for name, p in zoo.trainable(other).items()}
        assert not other.load_state_dict(state, strict=True).missing_keys
        assert all((p == 7).all() for p in zoo.trainable(other).values())
    assert all((p == 0).all() for p in zoo.trainable(model).values())


def test_a_checkpoint_of_the_adapter_in_use_is_loaded_beside_others(llama, tmp_path):
    """A layer then keeps it under its name, which no checkpoint has."""
    model = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="query_value", name="one")
    zoo.adapt(model, zoo.LoRA, rank=2, targets="mlp", name="two")
    zoo.use(model, "one")
    trainer(model, tmp_path).train()
    after = logits(model)
    again = zoo.adapt(llama(), zoo.DCT, ratio=0.1, targets="query_value", name="one")
    zoo.adapt(again, zoo.LoRA, rank=2, targets="mlp", name="two")
    zoo.use(again, "one")
    trainer(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.allclose(logits(again), after, atol=1e-6)


@pytest.mark.parametrize("start", ["update", "second", "scratch"])
@pytest.mark.parametrize("fault", ["seed", "selection", "targets"])
def test_a_checkpoint_of_another_basis_is_not_gone_on_with(fault, start, llama, tmp_path):
    """The Trainer reads its tensors alone, and their sizes may be equal."""

    def net(**settings):
        settings = {"ratio": 0.1, "targets": "query_value"} | settings
        if start == "scratch":
            return zoo.parameterize(llama(), zoo.DCT, **settings)
        net = llama() if start == "update" else zoo.adapt(llama(), zoo.LoRA, rank=1, name="one")
        return zoo.adapt(net, zoo.DCT, name="two", **settings)

    trainer(net(), tmp_path / "a", max_steps=2).train()
    checkpoint = str(tmp_path / "a" / "checkpoint-2")
    other = {"seed": {"seed": 7}, "selection": {"selection": "zigzag"}, "targets": {}}[fault]
    if fault == "targets":
        other = {"targets": ["q_proj", "k_proj", "v_proj"]}
    trainer(net(), tmp_path / "b").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(zoo.UserError, match="other bases"):
        trainer(net(**other), tmp_path / "c").train(resume_from_checkpoint=checkpoint)
    assert zoo.load(llama(), checkpoint)
