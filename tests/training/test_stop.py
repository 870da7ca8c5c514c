"""A run that is told to end does so after a step, with a checkpoint of it and a status that says
so.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest
from conftest import refused
from every import thinned
from fits import same

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.training.checkpoint_files import load
from zoo.training.tensorboard import LOCK, Logger, locked

TELLER = '''
import os
from lightning.pytorch import Callback

class Teller(Callback):
    """Sends its own process a signal at one place of a step."""

    def __init__(self, step: int, place: str, number: int) -> None:
        self.step, self.place, self.number = step, place, number

    def tell(self, trainer, place):
        if trainer.state.fn == "fit" and trainer.global_step == self.step and place == self.place:
            self.step = None
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, *_):
        self.tell(trainer, "before")

    def on_train_batch_end(self, trainer, *_):
        self.tell(trainer, "after")

    def on_validation_start(self, trainer, *_):
        self.tell(trainer, "validation")

    def on_validation_batch_end(self, trainer, *_):
        self.tell(trainer, "within")

    def on_validation_end(self, trainer, *_):
        self.tell(trainer, "validated")
'''
SETTINGS = [
    "--trainer.max_steps=8",
    "--trainer.val_check_interval=3",
    "--checkpoint.every_n_steps=100",
    "--stable_rank.every_n_steps=2",
    "--model.dropout=0.1",
]


def tell(step: int, place: str, number: int) -> list[str]:
    return [
        "--trainer.callbacks+=teller.Teller",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.place={place}",
        f"--trainer.callbacks.number={number:d}",
    ]


def result(folder: str) -> tuple[dict, dict]:
    """What a whole run leaves: both checkpoints, and its summary but for what measures time."""
    keys = ("loss", "score", "best", "best_step", "metrics", "stable_rank", "steps")
    summary = json.loads((Path(folder) / "summary.json").read_text())
    last, best = (load(Path(folder) / "checkpoints" / name) for name in ("last.ckpt", "best.ckpt"))
    return {
        "last": last["state_dict"],
        "moments": last["optimizer_states"],
        "best": best["state_dict"],
    }, {key: summary[key] for key in keys}


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, ...], tuple[dict, dict]]:
    """What uninterrupted runs leave, by their options: those that several tests want are trained
    once.
    """
    return {}


@pytest.mark.parametrize(
    "step, where, number, options",
    thinned(
        [
            (3, "before", signal.SIGTERM, []),
            (4, "after", signal.SIGTERM, []),
            (3, "after", signal.SIGTERM, []),
            (3, "validation", signal.SIGTERM, []),
            (3, "within", signal.SIGUSR1, []),
            (6, "validated", signal.SIGTERM, []),
            (8, "after", signal.SIGTERM, []),
            (8, "within", signal.SIGTERM, []),
            (2, "before", signal.SIGTERM, ["--trainer.accumulate_grad_batches=2"]),
            (
                3,
                "within",
                signal.SIGTERM,
                ["--trainer.max_steps=-1", "--trainer.max_epochs=2", "--data.batch_size=16"],
            ),
            (
                9,
                "within",
                signal.SIGTERM,
                ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--data.batch_size=16"],
            ),
        ],
        lambda step, where, _, options: (
            not options and (step, where) in ((4, "after"), (3, "within"), (8, "after"))
        ),
    ),
    ids=str,
)
def test_a_signal_ends_a_run_after_a_step_from_which_it_goes_on(
    step, where, number, options, place_small, wholes, capsys
):
    """Bit for bit the uninterrupted run: weights, moments, best and summary."""
    settings = [*place_small, *SETTINGS, *options]
    if tuple(options) not in wholes:
        assert main(["fit", "--config", "dct_half.yaml", *settings, "--name=whole"]) == 0
        wholes[tuple(options)] = result("runs/whole/version_0")
    whole = wholes[tuple(options)]
    if where in ("within", "validation") and step == 9:
        step = whole[1]["steps"]
    capsys.readouterr()
    status = main(
        ["fit", "--config", "dct_half.yaml", *settings, "--name=told", *tell(step, where, number)]
    )
    err = capsys.readouterr().err
    assert status == 128 + number, err
    stopped = step + (where == "before")
    assert (
        f"stopped at step {stopped}; go on from the last checkpoint: "
        "zoo fit --ckpt_path runs/told/version_0" in err
    )
    assert load(Path("runs/told/version_0/checkpoints/last.ckpt"))["global_step"] == stopped
    assert (
        not Path("runs/told/version_0/summary.json").exists()
        and not Path("runs/told/version_0", LOCK).exists()
    )
    assert main(["fit", "--ckpt_path", "runs/told/version_0", "--trainer.callbacks=null"]) == 0
    told = result("runs/told/version_0")
    assert same(whole[0], told[0]) and whole[1] == told[1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def place_small(place: Path, small: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("teller.py").write_text(TELLER)
    return small


@pytest.mark.slow
def test_a_run_without_a_summary_is_finished(place, small, capsys):
    """Killed after its last checkpoint: the same command validates, and writes what the
    uninterrupted run wrote.
    """
    options = [*small, "--trainer.max_steps=8", "--checkpoint.every_n_steps=2"]
    assert main(["fit", "--config", "dct_half.yaml", *options, "--name=run"]) == 0
    folder = Path("runs/run/version_0")
    whole = result(str(folder))
    for lost in (["summary.json"], ["summary.json", "checkpoints/best.ckpt"]):
        for name in lost:
            (folder / name).unlink()
        assert main(["fit", "--ckpt_path", str(folder)]) == 0
        again = result(str(folder))
        assert same(again[0], whole[0]) and again[1] == whole[1]
    before = (folder / "summary.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", str(folder)]) == 0  # nothing is left to do
    assert (
        "already at step 8" in capsys.readouterr().err
        and (folder / "summary.json").stat().st_mtime_ns == before
    )
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=10"]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 10


# ---- One folder, one run -------------------------------------------------------------------------


def test_a_number_that_somebody_takes_meanwhile_is_not_taken_twice(tmp_path):
    first, second = Logger(tmp_path, "run"), Logger(tmp_path, "run")
    assert first.version == second.version == 0 and not list(tmp_path.iterdir())
    first.claim()
    second.claim()
    assert (first.version, second.version) == (0, 1)
    with pytest.raises(UserError, match="trained in already, by"):
        locked(tmp_path / "run" / "version_1")
    second.finalize("success")
    locked(tmp_path / "run" / "version_1").release()
    first.finalize("failed")
    assert [list(folder.iterdir()) for folder in (tmp_path / "run").iterdir()] == [[], []]


def test_a_run_is_trained_by_one_process(handed, capsys):
    lock = locked(Path("run"))
    try:
        refused(
            capsys,
            ["fit", "--ckpt_path", "run", "--trainer.max_steps=8"],
            "trained in already",
            str(os.getpid()),
        )
        assert main(["validate", "--ckpt_path", "run"]) == 0  # looking does no harm
    finally:
        lock.release()


def start(*words: str, text: str = "") -> subprocess.Popen:
    """A process of `zoo`, or of `python -c`, to which a text is sent."""
    with TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        return _started(words, file)


def _started(words: Sequence[str], file: IO[bytes]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *(words if words[0] == "-c" else ["-m", "zoo", *words])],
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        start_new_session=True,
        stdin=file,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen, seconds: float = 240) -> str:
    """What a process said, when it has ended by itself."""
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        if process.poll() is None:  # it hangs, and so do its other processes
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


TOGETHER = """
import os, sys
import zoo.cli.fit.command  # once for both, which so begin at the same time
from zoo.__main__ import main

def fit(seed):
    if child := os.fork():
        return child
    os._exit(main([*sys.argv[1:], f"--seed_everything={seed}"]))

sys.exit(sum([os.waitpid(child, 0)[1] != 0 for child in [fit(seed) for seed in (1, 2)]]))
"""


@pytest.mark.slow
def test_fits_that_are_started_together_have_folders_of_their_own(place, small):
    fit = ["fit", "--config", "dct_half.yaml", *small, "--name=r"]
    both = start("-c", TOGETHER, *fit)
    said = ended(both)
    assert both.returncode == 0, said
    seeds = {
        json.loads(path.read_text())["seed"]
        for path in Path("runs/r").glob("version_*/summary.json")
    }
    names = sorted(path.name for path in Path("runs/r").iterdir())
    assert seeds == {1, 2} and names == ["version_0", "version_1"]


TWO = ["--trainer.devices=2", "--trainer.accelerator=cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("whole_group, strategy", [(False, "ddp"), (True, "ddp_spawn")])
def test_two_processes_stop_together(whole_group, strategy, place, small, text):
    """And none hangs, wherever in a step the signal comes. Where the second is another `zoo`, what
    the first has from standard input serves both.
    """
    sent = strategy == "ddp"
    process = start(
        "fit",
        "--config",
        "dct_half.yaml",
        *small,
        *(["--data.corpus", "-"] if sent else []),
        *TWO,
        f"--trainer.strategy={strategy}",
        "--trainer.max_steps=100000",
        "--trainer.val_check_interval=5",
        "--name=two",
        "--checkpoint.every_n_steps=100000",
        text=text.read_text() if sent else "",
    )
    folder = Path("runs/two/version_0")
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "best.ckpt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM) if whole_group else process.terminate()
    said = ended(process)
    assert process.returncode == 143 and "Traceback" not in said, said
    if strategy == "ddp":
        assert "stopped at step" in said
    assert ("sent-" in (folder / "config.yaml").read_text()) == sent
    assert load(folder / "checkpoints" / "last.ckpt")["global_step"] > 0


@pytest.mark.slow
def test_a_launcher_that_hands_weights_back_ends_well(place, small):
    process = start(
        "fit",
        "--config",
        "dct_half.yaml",
        *small,
        *TWO,
        "--trainer.strategy=ddp_fork",
        "--name=two",
    )
    said = ended(process)
    assert process.returncode == 0, said
    assert json.loads(Path("runs/two/version_0/summary.json").read_text())["devices"] == 2


# ---- SLURM ---------------------------------------------------------------------------------------


def test_a_job_without_srun_is_one_process(place, small, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert main(["params", "--config", "dct_half.yaml", *small]) == 0
    # Which Lightning would take for this job's.
    Path("hpc_ckpt_1.ckpt").write_bytes(b"somebody else's")
    assert main(["fit", "--config", "dct_half.yaml", *small, "--name=run"]) == 0
    assert json.loads(Path("runs/run/version_0/summary.json").read_text())["devices"] == 1


def test_tasks_that_srun_cannot_place_are_one_line(place, small, monkeypatch, capsys):
    for name, value in {
        "SLURM_NTASKS": "4",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    refused(capsys, ["params", "--config", "dct_half.yaml", *small], "ntasks")


def test_a_requeue_signal_leaves_a_checkpoint_in_the_run_alone(place_small, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    argv = ["fit", "--config", "dct_half.yaml", *place_small, *SETTINGS, "--name=run"]
    assert main([*argv, *tell(4, "after", signal.SIGUSR1)]) == 138
    assert (
        not list(Path().glob("hpc_ckpt*"))
        and Path("runs/run/version_0/checkpoints/last.ckpt").is_file()
    )
