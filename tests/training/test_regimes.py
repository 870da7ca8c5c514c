"""Regimes from scratch: a kept base, dense steps, restarts; and all of them go on exactly."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from lightning.pytorch import Callback, Trainer, seed_everything

from tasks import CharData, CharLM, GlueClassifier, GlueData
from zoo.errors import UserError
from zoo.layers.anew import end_dense_phases, merge_updates
from zoo.layers.convert import convert, zoo_layers
from zoo.layers.costs import cost_facts
from zoo.parameterizations import DCT, DoRA, LoRA, PiSSA
from zoo.runs.checkpoints import rebuild
from zoo.runs.updates import read
from zoo.training.callbacks import ReLoRA
from zoo.training.optimizers import OptimizerConfig
from zoo.training.trainer import equip

STEPS = 7
RANDOM, WARM, PUFFERFISH = (
    {"base": "random"},
    {"base": "warm", "dense_steps": 3},
    {"dense_steps": 3},
)
REGIMES: dict[str, tuple[Any, dict[str, Any], list[Any]]] = {
    "random": (LoRA, RANDOM, []),
    "warm": (functools.partial(LoRA, dropout=0.2), WARM, []),
    "pufferfish": (LoRA, PUFFERFISH, []),
    "pufferfish-batched": (DCT, PUFFERFISH | {"name": "muon"}, []),
    "restarts": (LoRA, RANDOM, [{"every": 2, "warmup": 2}]),
    "all": (DoRA, WARM, [{"every": 2, "warmup": 1, "prune_method": "random", "prune_ratio": 0.5}]),
    "all-sides": (PiSSA, WARM, [{"every": 2, "warmup": 0, "prune_ratio": 0.2}]),
}


GONE_ON_FROM = {"random": (3,), "restarts": (2, 3), "all": (2, 3, 5, 6), "all-sides": (3, 5, 6)}
"""Steps before, at and after the end of a dense phase, at 3, and a restart, at 5; else at 2."""


class Each(Callback):
    """Keeps a checkpoint of each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.begun: dict[str, torch.Tensor] = {}
        """What W is as the first step after a dense phase begins."""

    def on_before_zero_grad(self, trainer, module, *_: Any) -> None:
        if trainer.global_step == module.dense_steps:
            self.begun = effective(module)

    def on_train_batch_end(self, trainer, module, *_: Any) -> None:
        if (trainer.fit_loop.epoch_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
            self.weights[trainer.global_step] = effective(module)


def effective(module: CharLM) -> dict[str, torch.Tensor]:
    layers = zoo_layers(module.net).items()
    return {name: layer.effective_weight().detach().clone() for name, layer in layers}


def build(data: CharData, regime: str) -> tuple[CharLM, list[Callback]]:
    kind, settings, restarts = REGIMES[regime]
    settings = dict(settings)
    optimizer = OptimizerConfig(settings.pop("name", "adamw"), lr=0.02, warmup=2)
    make = functools.partial(kind, lora_rank=3)
    sizes = {"block_size": 8, "width": 16, "heads": 2, "layers": 2}
    seed_everything(3, verbose=False)
    model = CharLM(data.vocabulary, make, optimizer=optimizer, seed=3, **sizes, **settings)
    return model, [ReLoRA(**each) for each in restarts]


def train(
    text: Path, regime: str, callbacks: list[Callback], path: Path | None = None, **more: Any
) -> tuple[CharLM, Trainer]:
    """Train to the last step, from the first one or from a checkpoint."""
    data = CharData(str(text), batch_size=2, block_size=8, seed=3)
    model, own = build(data, regime)
    return model, train_with(model, data, [*own, *callbacks], path, **more)


def train_with(
    model: CharLM, data: CharData, callbacks: list[Callback], path: Path | None = None, **more: Any
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **more,
    )
    equip(trainer, resume=True)
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return trainer


quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*lr_scheduler.step"
)


@quiet
@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_goes_on_exactly_from_any_step(regime, text, tmp_path):
    """Before, at and after the end of the dense phase and a restart: weights, moments, rates."""
    more = {"accumulate_grad_batches": 2} if regime == "all" else {}
    whole, trainer = train(text, regime, [Each(tmp_path)], **more)
    optimizer = trainer.optimizers[0].state_dict()
    for step in GONE_ON_FROM.get(regime, (2, 3, 4)):
        again, other = train(text, regime, [], tmp_path / f"{step}.ckpt", **more)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (step, name)
        found = other.optimizers[0].state_dict()
        assert found["param_groups"] == optimizer["param_groups"], step
        for key, state in optimizer["state"].items():
            assert all(torch.equal(v, found["state"][key][k]) for k, v in state.items()), step
        assert found["state"].keys() == optimizer["state"].keys()


@quiet
@pytest.mark.parametrize("regime", ["random", "warm", "pufferfish", "all-sides"])
def test_a_checkpoint_of_any_phase_is_read(regime, text, tmp_path):
    """It holds what is counted, and is the network that it was; what waits is not in it."""
    model, _ = train(text, regime, [each := Each(tmp_path)])
    for step in (2, STEPS):
        path = tmp_path / f"{step}.ckpt"
        again = rebuild(path)
        built = {name: layer.effective_weight() for name, layer in zoo_layers(again.net).items()}
        assert all(torch.equal(w, each.weights[step][name]) for name, w in built.items())
        assert again.describe() == model.describe()
        state, source = torch.load(path, weights_only=True)["state_dict"], read(str(path))
        dense = step == 2 and model.dense_steps > 0
        parts = {".parameterization." in name for name in state}
        assert parts == ({False} if dense else {False, True})
        assert source.what == ("W" if dense or regime == "pufferfish" else "dW")
        held = sum(p.numel() * p.element_size() for p in state.values())
        facts = cost_facts(again.net, 16, "32-true")
        assert dense or held == facts["checkpoint_bytes"]
        assert facts == cost_facts(model.net, 16, "32-true")
        for name, update in source.updates.items():
            layer = zoo_layers(again.net)[name]
            base = 0 if source.what == "W" else layer.base
            assert torch.allclose(base + update.matrix(), built[name], atol=1e-6)


@quiet
def test_a_restart_changes_no_output_and_begins_anew(text, tmp_path):
    """W0 has the merged update, W is 0, another A was drawn, few moments are left, rates rise."""
    rates: list[float] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            self.layer = module.net.blocks[0].mlp.fc
            state = trainer.optimizers[0].state.get(self.layer.parameterization.lora_A, {})
            now = {
                "weight": self.layer.effective_weight().detach().clone(),
                "A": self.layer.parameterization.lora_A.detach().clone(),
                "update": self.layer.update().norm().item(),
                "base": self.layer.base.clone(),
                **{key: v.clone() for key, v in state.items() if key != "step"},
            }
            self.seen = [*getattr(self, "seen", []), now]

    first, second = Look(), Look()  # before the restart and after it
    data = CharData(str(text), batch_size=2, block_size=8, seed=3)
    model, _ = build(data, "restarts")
    train_with(model, data, [first, ReLoRA(every=3, warmup=2, prune_ratio=0.9), second])
    before, after = first.seen[3], second.seen[3]
    assert torch.allclose(after["weight"], before["weight"], atol=1e-7)
    assert before["update"] > 0 == after["update"] and not torch.equal(before["A"], after["A"])
    assert torch.equal(after["base"], after["weight"])
    assert torch.equal(second.seen[0]["base"], first.seen[3]["base"])  # frozen until then
    count = after["A"].numel()
    kept = after["exp_avg"] != 0
    assert kept.sum() == count - round(0.9 * count)
    assert torch.equal(kept, after["exp_avg_sq"] != 0)
    assert before["exp_avg"][kept].abs().min() >= before["exp_avg"][~kept].abs().max()
    share = [model.optimizer_config.share(step, STEPS) for step in range(STEPS)]
    teeth = [1, 1, 1, 0.5, 1, 1, 0.5]
    peak = rates[2] / share[1]
    found = [rate / peak for rate in rates[::2]]
    assert found == pytest.approx([a * b for a, b in zip(share, teeth, strict=True)])


@quiet
def test_after_dense_steps_w_is_their_best_approximation(text, tmp_path):
    whole, _ = train(text, "pufferfish", [each := Each(tmp_path)])
    assert whole.net.blocks[0].mlp.fc.base is None
    for name, layer in zoo_layers(rebuild(tmp_path / "3.ckpt").net).items():
        u, s, vh = torch.linalg.svd(layer.base, full_matrices=False)
        r = whole.net.get_submodule(name).parameterization.rank
        best = (u[:, :r] * s[:r]) @ vh[:r]
        assert torch.allclose(each.begun[name], best, atol=1e-6)


RELORA = ["--trainer.callbacks+=ReLoRA", "--trainer.callbacks.warmup=1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.dense_steps=6"], ["dense_steps", "less than the 6 steps"]),
        (["--model.base=cold"], ["base", "random", "warm"]),
        (
            ["--model.dense_steps=2", *RELORA, "--trainer.callbacks.every=2"],
            ["ReLoRA", "blocks.0.attn.qkv", "--model.base random"],
        ),
        (
            [
                "--model.base=warm",
                "--model.dense_steps=2",
                *RELORA,
                "--trainer.callbacks.every=4",
            ],
            ["ReLoRA.every", "4 steps", "2 dense", "got 4"],
        ),
        (["--model.parameterization=DoRA"], ["DoRA", "from scratch", "base random or warm"]),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(words, said, place, small, capsys):
    start = ["--config", "char_lm.yaml", *small, "--model.parameterization=LoRA"]
    refused(capsys, ["fit", *start, *words, "--model.parameterization.rank=2"], *said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dense_steps": -1}, "dense_steps must be a whole number of at least 0"),
        ({"base": "warm"}, "--model.dense_steps, or --model.base random"),
        ({"base": "random", "dense_steps": 2}, "--model.base warm, or drop --model.dense_steps"),
        ({"base": "cold"}, "base must be random or warm, or null"),
        ({"parameterization": functools.partial(DoRA, rank=1), "dense_steps": 2}, "base warm$"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        CharLM("abc", block_size=4, width=8, heads=2, layers=1, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"every": 2, "warmup": 3}, r"warmup must lie in \[0, 2\]"),
        ({"prune_method": "size"}, "magnitude or random"),
        ({"prune_ratio": 2}, r"prune_ratio must lie in \[0, 1\]"),
    ],
)
def test_settings_of_restarts_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        ReLoRA(**settings)


def test_a_regime_from_scratch_is_none_of_a_trained_network(backbones, capsys, place):
    words = ["--config", "causal_lm_lora.yaml", "--model.backbone", str(backbones("gpt2"))]
    refused(capsys, ["fit", *words, "--model.dense_steps=2"], "dense_steps")
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
    for settings in ({"dense": True}, {"base": "random"}):
        with pytest.raises(UserError, match="trained from scratch"):
            convert(layer, functools.partial(LoRA, rank=1), ["*"], start="update", **settings)


class Unprojected(LoRA):
    """Factors that nothing is projected to."""

    def project_(self, target: torch.Tensor) -> None:
        raise NotImplementedError("no projection")


def test_a_map_without_a_projection_cannot_follow_dense_steps():
    network, make = (
        torch.nn.Sequential(torch.nn.Linear(4, 4)),
        functools.partial(Unprojected, rank=1),
    )
    with pytest.raises(UserError, match=r"0: Unprojected has no projection.*--model.base warm"):
        convert(network, make, ["*"], dense=True)
    assert zoo_layers(convert(network, make, ["*"], base="warm", dense=True))


@quiet
def test_restarts_of_a_pretrained_network_go_on_exactly(backbones, glue, tmp_path):
    """W0 of the targets is in a checkpoint from the first restart on, and nowhere else."""
    where = str(backbones("bert"))

    def tune(callbacks: list[Callback], path: Path | None = None) -> GlueClassifier:
        seed_everything(3, verbose=False)
        data = GlueData("rte", where, str(glue), batch_size=8, max_length=32)
        model = GlueClassifier(where, parameterization=functools.partial(LoRA, rank=2), seed=3)
        train_with(model, data, [ReLoRA(every=3, warmup=1), *callbacks], path)
        return model

    whole = tune([Each(tmp_path)])
    stored = [torch.load(tmp_path / f"{s}.ckpt", weights_only=True)["state_dict"] for s in (3, 4)]
    bases = {f"net.{name}.weight" for name in zoo_layers(whole.net)}
    assert stored[1].keys() - stored[0].keys() == bases
    for step in (2, 3, 5):
        again = tune([], tmp_path / f"{step}.ckpt")
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (step, name)
    loaded = rebuild(tmp_path / f"{STEPS}.ckpt")
    for name, layer in zoo_layers(whole.net).items():
        assert torch.equal(
            layer.effective_weight(), zoo_layers(loaded.net)[name].effective_weight()
        )


def test_layers_that_share_a_weight_are_merged_once():
    """And share it in a dense phase and after it."""
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    second.weight = first.weight
    make = functools.partial(LoRA, rank=1)
    network = convert(torch.nn.Sequential(first, second), make, ["*"], base="warm", dense=True)
    layers = zoo_layers(network)
    assert all(layer.base.requires_grad for layer in layers.values())
    assert end_dense_phases(layers, seed=0) == {}
    a, b = layers.values()
    assert a.base is b.base and not a.base.requires_grad
    assert a.parameterization.lora_A.requires_grad and not a.parameterization.waiting
    torch.nn.init.normal_(a.parameterization.lora_B)
    before = a.effective_weight().detach().clone()
    merge_updates(layers, seed=0, number=1)
    for layer in layers.values():
        assert torch.allclose(layer.base, before) and not layer.update().any()
