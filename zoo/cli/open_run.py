"""A finished run, opened from Python as it was trained."""

from collections.abc import Sequence

from lightning.pytorch import Trainer

from zoo.cli.console import quiet
from zoo.cli.fit import messages
from zoo.cli.fit.command import command_line
from zoo.cli.fit.run_config import given
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.training.module import ZooData, ZooModule


def open_run(
    path: str, backbone: str | None = None, options: Sequence[str] = (), trust: Trust = NOBODY
) -> tuple[ZooModule, ZooData, Trainer]:
    """Open a run as it was trained, to be evaluated in silence, in float32 on one device.

    Args:
        path: of the run's folder, a checkpoint in one or an adapter.safetensors.
        backbone: where the pretrained network is now, if it was moved.
        options: more of the command line, as in `--data.data_dir=FOLDER`.
        trust: which classes besides zoo's own the run may name.

    Raises:
        UserError: if there is no run, it has no config, or it cannot be built here.
    """
    quiet()
    source = given(["validate", "--ckpt_path", path], trust)
    if source is None or not source.config:
        raise UserError(
            f"{path!r} has no config.yaml that says what its data is: give the folder of a run"
        )
    args = [
        *source.words()[:-2],
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
    ]
    more = [*([f"--model.backbone={backbone}"] if backbone else []), *options]
    source = source._replace(rest=more)
    with messages.as_user_errors():
        cli = command_line([], [*args, *more], given=source, trust=trust)
    assert cli.checkpoint is not None
    cli.model.load_state_dict(cli.checkpoint["state_dict"])
    return cli.model, cli.datamodule, cli.trainer
