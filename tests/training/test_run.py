"""Fits from the command line: what they leave, and that they repeat."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from every import thinned
from fits import equal, events, fit, weights

from tasks import CharLM
from zoo.__main__ import main


def test_a_fit_leaves_config_checkpoints_events_and_summary(place, small, capsys):
    folder = fit(*small)
    assert folder.parent.name == "dct_half-text"
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "checkpoints", "summary.json"}
    assert any(p.name.startswith("events.out.tfevents") for p in folder.iterdir())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["parameterization"] == "DCT" and summary["arguments"]["ratio"] == 0.5
    assert summary["steps"] == 6 and summary["seed"] == 0 and summary["corpus"] == "text"
    assert len(summary["corpus_sha256"]) == 64 and summary["versions"]["torch"] == torch.__version__
    assert summary["loss"] == summary["best"] == summary["metrics"]["val/loss"]
    assert summary["trainable"] == sum(v.numel() for k, v in weights(folder).items())
    assert summary["seconds"] > 0 and summary["steps_per_second"] > 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (
        config["model"]["init_args"]["parameterization"]["class_path"]
        == "zoo.parameterizations.DCT"
    )
    table = capsys.readouterr().out
    for words in (
        "validation loss",
        "perplexity",
        "bits per char",
        "trainable / replaced / total",
        "mean stable rank",
        "wall time",
        "data",
        "tensorboard --logdir runs",
        str(folder),
    ):
        assert words in table
    assert max(map(len, table.splitlines())) <= 80


def test_the_run_is_the_config_it_left(place, small):
    """A run's own config.yaml repeats it."""
    first = fit(*small)
    assert equal(weights(first), weights(fit(config=str(first / "config.yaml"))))


def test_equal_commands_give_equal_losses_and_seeds_differ(place, small):
    losses = [
        json.loads((fit(*small, *more) / "summary.json").read_text())["loss"]
        for more in ((), (), ("--seed_everything=1",))
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "name", ["Dense", "DCT", "RandomOrthonormal", "Zigzag", "LoRA", "RandLoRA"]
)
def test_one_flag_swaps_the_parameterization(name, place, small):
    folder = fit(*small, f"--model.parameterization={name}", "--trainer.max_steps=2")
    assert json.loads((folder / "summary.json").read_text())["parameterization"] == name
    assert folder.parent.name == f"dct_half+{name}-text"


@pytest.mark.parametrize(
    "words",
    thinned(
        [
            ["--model.parameterization=RandLoRA", "--trainer.precision=bf16-mixed"],
            ["--model.dropout=0.1"],
        ],
        2,
    ),
)
def test_training_learns(words, place, small):
    folder = fit(
        *small,
        "--trainer.max_steps=60",
        "--model.optimizer.warmup=5",
        "--model.optimizer.lr=0.02",
        *words,
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["loss"] < 2.6  # 3.3 is chance


def test_validation_comes_last_whatever_the_interval(place, small):
    folder = fit(*small, "--trainer.max_steps=7", "--trainer.val_check_interval=3")
    # Steps are counted from 0.
    assert [e.step for e in events(folder).Scalars("val/loss")] == [2, 5, 6]


def test_validate_and_test_repeat_the_runs_loss(place, small, capsys):
    folder = fit(*small)
    loss = json.loads((folder / "summary.json").read_text())["loss"]
    for command, name in (("validate", "validation loss"), ("test", "test loss")):
        capsys.readouterr()
        assert main([command, "--ckpt_path", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3 and lines[0].split() == [*name.split(), f"{loss:.4f}"]
    assert main(["predict", "--ckpt_path", str(folder)]) == 0
    assert len(list(Path("runs").glob("*/version_*"))) == 1


def test_null_unsets_a_nested_setting(place, small):
    change = [
        "--model.parameterization.ratio",
        "null",
        "--model.parameterization.coefficients",
        "9",
    ]
    folder = fit(*small, *change, "--model.optimizer.clip", "null")
    assert json.loads((folder / "summary.json").read_text())["coefficients"] == 8 * 9


def test_checkpoints_are_of_the_lowest_loss_and_of_finite_weights(tmp_path):
    from types import SimpleNamespace

    from zoo.training.callbacks import Checkpoint

    module, saved = torch.nn.Linear(2, 2), []
    trainer = SimpleNamespace(
        logger=SimpleNamespace(log_dir=str(tmp_path)),
        lightning_module=module,
        global_step=0,
        state=SimpleNamespace(fn="fit"),
        sanity_checking=False,
        is_global_zero=True,
        save_checkpoint=lambda path, weights_only: (
            path.parent.mkdir(exist_ok=True),
            saved.append((path.name, step)),
        ),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()),
    )
    checkpoint = Checkpoint(every_n_steps=100)
    for step, loss in enumerate([3.0, 1.0, 2.0, float("nan"), 0.5], 1):
        trainer.global_step, trainer.callback_metrics = step, {"val/loss": torch.tensor(loss)}
        checkpoint.on_validation_end(trainer, module)
    assert saved == [("best.ckpt", 1), ("best.ckpt", 2), ("best.ckpt", 5)]
    assert (checkpoint.best, checkpoint.best_step) == (0.5, 5)
    torch.nn.init.constant_(module.weight, float("inf"))
    checkpoint.on_train_end(trainer, module)
    assert len(saved) == 3


def test_a_checkpoint_rebuilds_its_model_in_python(place, small):
    folder = fit(*small)
    model = CharLM.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert equal(model.state_dict(), weights(folder))
    assert model.vocabulary == "".join(sorted(set(model.vocabulary)))


def test_a_checkpoint_holds_coefficients_and_no_basis(place, small):
    folder = fit(*small)
    keys = weights(folder).keys()
    assert sorted(k for k in keys if "blocks.0.attn.qkv" in k) == [
        "net.blocks.0.attn.qkv.bias",
        "net.blocks.0.attn.qkv.parameterization.coef",
    ]


def test_a_model_built_in_python_trains_and_loads(place, text):
    import functools

    from lightning.pytorch import Trainer

    from tasks import CharData
    from zoo.parameterizations import DCT

    data = CharData(corpus=str(text), batch_size=4, block_size=16)
    model = CharLM(
        data.vocabulary,
        functools.partial(DCT, ratio=0.5),
        block_size=16,
        width=16,
        heads=2,
        layers=1,
    )
    trainer = Trainer(
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint("model.ckpt")
    assert equal(
        CharLM.load_from_checkpoint("model.ckpt", weights_only=True).state_dict(),
        model.state_dict(),
    )


def test_weight_decay_and_rates_follow_the_owner(place):
    """lr lr_mult and lr decay: equal shrinkage of W in every parameterization, none of biases and
    embeddings.
    """
    import functools

    from zoo.parameterizations import DCT
    from zoo.training.optimizers import parameter_groups

    model = CharLM(
        "abc", functools.partial(DCT, ratio=0.25), block_size=4, width=8, heads=2, layers=1
    )
    groups = parameter_groups(model, 0.01, 0.1)
    owner = {id(p): name for name, p in model.named_parameters()}
    seen = {owner[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(seen) == len(list(model.parameters()))
    mult = float(f"{model.net.blocks[0].attn.qkv.parameterization.lr_mult:.2g}")
    assert mult > 2 and seen["net.blocks.0.attn.qkv.parameterization.coef"] == (
        0.01 * mult,
        0.1 / mult,
    )
    assert seen["net.head.weight"] == (0.01, 0.1)
    for name in (
        "net.token.weight",
        "net.norm.weight",
        "net.blocks.0.attn.qkv.bias",
        "net.head.bias",
    ):
        assert seen[name] == (0.01, 0.0)


def test_schedule_warms_up_and_decays():
    from zoo.training.optimizers import warmup_cosine

    shares = [warmup_cosine(step, 100, 10, 0.1) for step in range(101)]
    assert shares[0] == 0.1 and shares[9] == shares[10] == 1.0
    assert shares[55] == pytest.approx(0.55) and shares[100] == pytest.approx(0.1)
    assert shares[10:] == sorted(shares[10:], reverse=True)


# The first one is skipped.
@pytest.mark.filterwarnings("ignore:.*before `optimizer.step.*:UserWarning")
def test_float16_clips_what_it_has_unscaled(place, text):
    """Gradients reach the clipping unscaled, and a step that overflows is skipped, not an error."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.plugins import MixedPrecision

    from tasks import CharData

    class Watched(CharLM):
        norms: list[float] = []

        def configure_gradient_clipping(self, optimizer, **options):
            self.norms.append(torch.stack([p.grad.norm() for p in self.parameters()]).norm().item())
            super().configure_gradient_clipping(optimizer, **options)

    data = CharData(corpus=str(text), batch_size=4, block_size=16)
    model = Watched(data.vocabulary, block_size=16, width=16, heads=2, layers=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    Trainer(
        max_steps=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        enable_model_summary=False,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
    ).fit(model, data)
    assert not math.isfinite(Watched.norms[0]) and 0 < Watched.norms[-1] < 100


def test_clipping_bounds_the_global_norm():
    model = CharLM("abc", block_size=4, width=8, heads=2, layers=1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.configure_gradient_clipping(None, 0.5)
    total = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert total.item() == pytest.approx(0.5, rel=1e-4)
