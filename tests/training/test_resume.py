"""A run that was killed goes on exactly, in its own folder; a resume that cannot be right changes
nothing.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from fits import equal, events, fit, weights

from zoo.__main__ import main
from zoo.runs import checkpoints
from zoo.training import checkpoint_files
from zoo.training.checkpoint_files import CheckpointFiles

KILLER = '''
import os, signal
from lightning.pytorch import Callback

class Killer(Callback):
    """Kills its own process after a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.mark.slow
def test_a_killed_run_resumes_bit_equal(place, small):
    """SIGKILL after a step and `--ckpt_path`: the weights of the uninterrupted run, in the same
    folder. `test_crash_points` kills runs of AdamW everywhere, and of two epochs.
    """
    options = [
        *small,
        "--model.optimizer.name=muon",
        "--trainer.max_steps=8",
        "--trainer.val_check_interval=3",
        "--checkpoint.every_n_steps=2",
        "--stable_rank.every_n_steps=2",
        "--model.dropout=0.1",
    ]
    whole = fit(*options, "--name=whole")
    (place / "killer.py").write_text(KILLER)
    callback = ["--trainer.callbacks+=killer.Killer", "--trainer.callbacks.step=7"]
    command = [
        sys.executable,
        "-m",
        "zoo",
        "fit",
        "--config",
        "dct_half.yaml",
        *options,
        "--name=killed",
        *callback,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert (
        subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    )
    folder = Path("runs/killed/version_0")
    assert not (folder / "summary.json").exists()
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.callbacks=null"]) == 0
    assert [p.name for p in folder.parent.iterdir()] == ["version_0"]
    assert equal(weights(folder), weights(whole))
    a, b = (json.loads((f / "summary.json").read_text()) for f in (whole, folder))
    assert a["loss"] == b["loss"] and b["resumed_at"] == 6
    assert _history(folder) == _history(whole)


def _history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of a run, but those that measure time."""
    accumulator = events(folder)
    return {
        tag: sorted((e.step, e.value) for e in accumulator.Scalars(tag))
        for tag in accumulator.Tags()["scalars"]
        if tag.startswith(("stable_rank", "val/", "k90"))
    }


def test_a_finished_run_goes_on_when_given_more_steps(place, small):
    folder = fit(*small)
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=9"]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 9


def test_the_command_line_wins_over_the_checkpoint(place, small):
    """Also where the checkpoint holds an optimizer with rates and decays of its own."""
    folder = fit(*small)
    more = [
        "--trainer.max_steps=8",
        "--model.optimizer.lr=0.001",
        "--model.optimizer.weight_decay=0.5",
    ]
    assert main(["fit", "--ckpt_path", str(folder), *more]) == 0
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["optimizer"][
            "lr"
        ]
        == 0.001
    )
    checkpoint = checkpoints.load(folder / "checkpoints" / "last.ckpt")
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    rates = {group["initial_lr"] for group in groups}
    assert min(rates) == 0.001 and 0.0018 < max(rates) < 0.0021
    shrinking = [group["initial_lr"] * group["weight_decay"] for group in groups]
    assert [x for x in shrinking if x] == pytest.approx(
        [0.0005] * (len(groups) - 1)
    ) and 0.0 in shrinking


def test_a_fallback_stays_with_its_run(place, small, capsys):
    """What was trained on pydoc is validated and resumed on pydoc, wherever Tiny Shakespeare may be
    by then.
    """
    options = [word for word in small if "data.corpus" not in word]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        folder = fit(*options, "--trainer.limit_val_batches=1", "--trainer.max_steps=2")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: ")]
    assert "Using 'pydoc' instead" in line
    assert folder.parent.name == "dct_half-pydoc"
    assert json.loads((folder / "summary.json").read_text())["corpus"] == "pydoc"
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["corpus"]
        == "pydoc"
    )


def test_a_checkpoint_of_another_text_is_refused(place, small, tmp_path, capsys):
    folder = fit(*small)
    other = tmp_path / "other.txt"
    characters = "".join(sorted(set(Path(tmp_path / "text.txt").read_text())))
    # As many characters, not the same.
    other.write_text("".join(chr(ord(c) + 1) for c in characters) * 100)
    for command in ("fit", "validate"):
        assert main([command, "--ckpt_path", str(folder), "--data.corpus", str(other)]) == 2
        assert "the checkpoint's vocabulary is not that of the data" in capsys.readouterr().err


def test_a_failed_resume_leaves_the_run_as_it_was(place, small):
    folder = fit(*small)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    wrong = [
        "--trainer.max_steps=9",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=99",
    ]
    assert main(["fit", "--ckpt_path", str(folder), *wrong]) == 2
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_checkpoint_keeps_what_going_on_needs_beside_it(place, small):
    """last.ckpt is 4 bytes a number and 64 KiB at most; one file of its own step has the rest."""
    folder = fit(*small, "--checkpoint.every_n_steps=2", "--stable_rank.every_n_steps=1")
    trainable = json.loads((folder / "summary.json").read_text())["trainable"]
    files = {path.name: path for path in (folder / "checkpoints").iterdir()}
    assert set(files) == {"best.ckpt", "last.ckpt", "last.resume_6.pt"}
    assert all(
        files[name].stat().st_size <= 4 * trainable + 65_536 for name in ("best.ckpt", "last.ckpt")
    )
    whole = checkpoints.load(files["last.ckpt"])
    moments = whole["optimizer_states"][0]["state"].values()
    assert [sum(s[key].numel() for s in moments) for key in ("exp_avg", "exp_avg_sq")] == [
        trainable
    ] * 2
    assert "optimizer_states" not in torch.load(files["last.ckpt"], weights_only=True)


def test_a_crash_between_the_two_files_leaves_a_pair(tmp_path, monkeypatch):
    """A checkpoint and the rest of the same step are there, whichever write was the last one."""
    path, files = tmp_path / "last.ckpt", CheckpointFiles()

    def checkpoint(step):
        return {
            "state_dict": {"w": torch.full((3,), step)},
            "global_step": step,
            "pytorch-lightning_version": "2",
            "optimizer_states": [{"state": {"step": step}, "param_groups": []}],
            "lr_schedulers": [],
            "callbacks": {},
            "loops": {"fit_loop": {"step": step}},
        }

    files.save_checkpoint(checkpoint(250), path)
    files.save_checkpoint(checkpoint(300), tmp_path / "other.ckpt")
    whole = checkpoint_files.write_file

    def crash(to, content):
        if to.name == "last.ckpt":
            raise KeyboardInterrupt
        whole(to, content)

    def steps(loaded):
        return {
            loaded["optimizer_states"][0]["state"]["step"],
            loaded["loops"]["fit_loop"]["step"],
            int(loaded["state_dict"]["w"][0]),
        }

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint_files, "write_file", crash)
        files.save_checkpoint(checkpoint(500), path)
    assert steps(files.load_checkpoint(path)) == {250}
    files.save_checkpoint(checkpoint(500), path)
    assert steps(files.load_checkpoint(path)) == {500}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last.ckpt",
        "last.resume_500.pt",
        "other.ckpt",
        "other.resume_300.pt",
    ]


def test_a_checkpoint_alone_cannot_go_on(place, small, capsys):
    folder = fit(*small)
    (folder / "checkpoints" / "last.resume_6.pt").unlink()
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=8"]) == 2
    assert "no optimizer state beside it" in capsys.readouterr().err
