"""A run whose folder, checkpoints or current folder go while it trains: one line, or it goes on."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from zoo.cli.console import file_error
from zoo.cli.fit import command as cli


class At(Callback):
    """Does something after the third step."""

    def __init__(self, act):
        self.act = act

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            self.act(Path(trainer.logger.log_dir))


def to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def leave(_: Path) -> None:
    os.chdir("gone")
    Path.cwd().rmdir()


def move(folder: Path) -> None:
    folder.rename(folder.parent / "aside")


@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        (
            shutil.rmtree,
            2,
            "the run's folder was removed or moved while it trained; start the run again",
        ),
        (move, 2, "the run's folder was removed or moved"),
        (to_file, 2, "the run's folder was removed or moved"),
        (
            lambda folder: shutil.rmtree(folder / "checkpoints"),
            0,
            "it is written anew, without what it held",
        ),
        (leave, 2, "the current folder was deleted meanwhile"),
    ],
)
def test_a_folder_that_goes_is_one_line(act, status, said, place, small, capsys, monkeypatch):
    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr("threading.excepthook", None)
    Path("gone").mkdir()
    often = ["--trainer.log_every_n_steps=1", "--checkpoint.every_n_steps=1"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("default", message=".*it is written anew.*")
        patch.chdir(place)
        found = cli.run(["fit", "--config", "dct_half.yaml", *small, *often], [At(act)])
    err = capsys.readouterr().err
    assert found == status and err.count(said) == 1 and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("zoo: ")]) == 1


def test_a_full_disk_says_how_to_go_on(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    error = OSError(28, "No space left on device", b"x")
    assert file_error(error, str(tmp_path)) == "No space left on device: x"
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert file_error(error, str(tmp_path)).endswith(
        f"free some space, then go on with zoo fit --ckpt_path {tmp_path}"
    )
