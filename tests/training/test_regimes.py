"""Regimes from scratch: a kept base, dense steps, restarts; and all of them go on exactly."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from tasks import CharData, CharLM
from zoo.parameterizations import DCT, DoRA, LoRA, PiSSA
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


class Each(Callback):
    """Keeps a checkpoint of each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, *_: Any) -> None:
        if (trainer.fit_loop.epoch_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


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
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*own, *callbacks],
        **more,
    )
    equip(trainer, resume=True)
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return model, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_goes_on_exactly_from_any_step(regime, text, tmp_path):
    """Before, at and after the end of the dense phase and a restart: weights, moments, rates."""
    more = {"accumulate_grad_batches": 2} if regime == "all" else {}
    whole, trainer = train(text, regime, [Each(tmp_path)], **more)
    optimizer = trainer.optimizers[0].state_dict()
    for step in range(1, STEPS):
        again, other = train(text, regime, [], tmp_path / f"{step}.ckpt", **more)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (step, name)
        found = other.optimizers[0].state_dict()
        assert found["param_groups"] == optimizer["param_groups"], step
        for key, state in optimizer["state"].items():
            assert all(torch.equal(v, found["state"][key][k]) for k, v in state.items()), step
        assert found["state"].keys() == optimizer["state"].keys()
