"""Two processes train as one does on the same global batch, score every example once, and write
once.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import configs
from fits import events, fit
from lightning.pytorch.utilities import rank_zero_only
from tiny import save_glue

from tasks import GlueData
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.runs.finished_runs import read
from zoo.studies.report.comparison import compare
from zoo.training.trainer import keep_buffers

WITNESS = '''
from pathlib import Path
from lightning.pytorch import Callback

class Witness(Callback):
    """Says what DDP is about to do with the buffers, of which there are some."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ddp = trainer.strategy.model
        assert ddp.modules_buffers and not ddp.will_sync_module_buffers()
        Path(f"seen_by_{trainer.global_rank}_of_{trainer.world_size}").touch()
'''
LAUNCHERS = "lightning.pytorch.strategies.launchers"


def fit_in_two(config: str, *words: str) -> tuple[Path, str, str]:
    """A fit in two processes, in the current folder; returns its run's folder, and what it wrote to
    stdout, stderr.
    """
    before = set(Path("runs").glob("*/version_*"))
    Path("witness.py").write_text(WITNESS)
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.callbacks+=witness.Witness"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", "fit", *configs(config), *words, *two],
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        out, err = process.communicate(timeout=600)
    finally:
        if process.poll() is None:  # it hangs, and so does its other process
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    assert sorted(path.name for path in Path().glob("seen_by_*")) == [
        "seen_by_0_of_2",
        "seen_by_1_of_2",
    ]
    (folder,) = set(Path("runs").glob("*/version_*")) - before
    return folder, out, err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["char_lm", "glue"])
def test_two_processes_train_as_one(task, place, small, backbones, tmp_path):
    """Batches of 4 in two processes, or of 8 in one: equal losses of training and validation."""
    words = [
        "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=1",
        "--trainer.precision=32-true",
    ]
    if task == "char_lm":
        config = "dct_half.yaml"
        # After dense steps gradients of other parameters are shared.
        words += [*small, "--trainer.val_check_interval=3", "--model.dense_steps=2"]
    else:
        # A correlation needs the predictions of both; of 15 examples, the second process has a
        # batch less to score.
        config = "glue_rte lora_8"
        backbone = shutil.copytree(backbones("bert"), tmp_path / "no_dropout")
        settings = json.loads((backbone / "config.json").read_text())
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (backbone / "config.json").write_text(json.dumps(settings))
        words += [
            f"--model.backbone={backbone}",
            f"--data.data_dir={save_glue(tmp_path / 'glue', dev=15)}",
            "--data.task=stsb",
            "--data.max_length=32",
            "--data.eval_batch_size=7",
            "--trainer.max_epochs=2",
            "--model.optimizer.lr=0.01",
        ]
    one = fit(*words, "--data.batch_size=8", config=config)
    two, out, err = fit_in_two(config, *words, "--data.batch_size=4")

    for tag in ("train/loss", "val/loss"):
        alone, together = (
            [(e.step, e.value) for e in events(folder).Scalars(tag)] for folder in (one, two)
        )
        assert len(alone) >= (6 if tag == "train/loss" else 2)
        assert [step for step, _ in together] == [step for step, _ in alone]
        assert [loss for _, loss in together] == pytest.approx(
            [loss for _, loss in alone], abs=1e-4
        )
    alone, together = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)
    assert together["best_step"] == alone["best_step"]

    assert (
        together["identity"] == alone["identity"]
        and together["epoch_steps"] == alone["epoch_steps"]
    )
    assert together["global_batch"] == alone["global_batch"] == 8
    (comparison,) = compare(read(["runs"])[0])["comparisons"]
    assert len(comparison["methods"]) == 1

    names = sorted(p.name for p in (two / "checkpoints").iterdir())
    assert (
        names[:2] == ["best.ckpt", "last.ckpt"]
        and names[2].startswith("last.resume_")
        and len(names) == 3
    )
    assert len(list(two.glob("events.out.tfevents*"))) == len(list(two.glob("summary.json*"))) == 1
    assert out.count("validation loss") == 1
    said = [line for line in err.splitlines() if line]
    assert all(
        line.startswith((together["parameterization"], "trainable parameters", "step "))
        for line in said
    ), err

    more = ["--trainer.max_steps=8"] if task == "char_lm" else ["--trainer.max_epochs=3"]
    on = ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.callbacks=null", *more]
    assert main(["fit", "--ckpt_path", str(two), *on]) == 2
    assert main(["fit", "--ckpt_path", str(two), *on, "--data.batch_size=8"]) == 0
    assert main(["fit", "--ckpt_path", str(one), *more]) == 0
    alone, together = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)


@pytest.mark.parametrize(
    "words", [[], ["--trainer.strategy=ddp"], ["--trainer.strategy=ddp_spawn"]]
)
def test_buffers_are_not_broadcast_however_ddp_was_chosen(words, place, small, monkeypatch):
    seen = []
    for launcher in (
        "subprocess_script._SubprocessScriptLauncher",
        "multiprocessing._MultiProcessingLauncher",
    ):
        monkeypatch.setattr(
            f"{LAUNCHERS}.{launcher}.launch",
            lambda self, function, *_, trainer, **__: seen.append(trainer.strategy._ddp_kwargs),
        )
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
    assert main(["fit", "--config", "dct_half.yaml", *small, *two, *words]) == 0
    (settings,) = seen
    assert list(settings.values()) == [False]


@pytest.mark.parametrize("name", ["broadcast_buffers", "forward_sync_buffers"])
def test_a_users_own_setting_of_ddp_stays(name):
    settings = {name: True}
    keep_buffers(settings)
    assert settings == {name: True}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_that_every_process_makes_is_said_once(rank, place, small, monkeypatch, capsys):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    (place / "short.txt").write_text("to be")
    assert main(["fit", "--config", "dct_half.yaml", *small, "--data.corpus=short.txt"]) == 2
    assert capsys.readouterr().err.count("too short") == 1 - rank


def test_a_process_with_nothing_to_validate_is_refused(backbones, tmp_path):
    data = GlueData("rte", str(backbones("bert")), str(save_glue(tmp_path, dev=2)), max_length=32)
    data.setup("validate")
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(UserError, match="2 validation examples are too few for 3 processes"):
        data.val_dataloader()
