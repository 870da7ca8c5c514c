"""The networks of `zoo coordinates`: built as `zoo fit` builds them, and trained in silence."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from zoo.cli.console import quiet
from zoo.cli.fit import messages
from zoo.cli.fit.command import command_line
from zoo.cli.fit.lightning_cli import ZooCLI
from zoo.errors import UserError
from zoo.layers.convert import ParameterizationFactory
from zoo.studies.coordinates.rebuild import rebuild_errors
from zoo.studies.coordinates.recording import Coordinates
from zoo.training.checkpoint_state import plain


class Cell(NamedTuple):
    """A network that is trained."""

    name: str
    width: int
    depth: int
    seed: int


class At(NamedTuple):
    """What the config says: the width of the depths that are compared, and the other way round."""

    width: int
    depth: int
    head: int
    """Features of an attention head."""


def built(options: Sequence[str]) -> ZooCLI:
    """Build task, data and a silent trainer.

    Raises:
        UserError: if the config or an option will not do.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    silent = (
        "--trainer.logger=false",
        "--trainer.callbacks=null",
        "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
        "--trainer.devices=1",
        "--trainer.precision=32-true",
    )
    with messages.as_user_errors():
        return command_line([], [*options[:2], *silent, *options[2:]])


def at_config(cli: ZooCLI, *also: str) -> At:
    """Read width, depth and heads of the config's network.

    Args:
        cli: with the task built.
        also: other settings that the task must have.

    Raises:
        UserError: if the task has no such settings.
    """
    have = cli.model.hparams
    if lacking := [key for key in ("width", "layers", "heads", *also) if key not in have]:
        raise UserError(
            f"{type(cli.model).__name__} has no setting {lacking[0]!r}: give the config of a task "
            f"with {', '.join(('width', 'layers', 'heads', *also))}, as char_lm.yaml"
        )
    return At(have["width"], have["layers"], have["width"] // have["heads"])


def data_of(cli: ZooCLI) -> list[str]:
    """Return what the data decided otherwise than the config, as options.

    It is then decided, and said, once.

    Raises:
        UserError: if it will not do.
    """
    cli.datamodule.setup("fit")
    return [f"--data.{key}={value}" for key, value in cli.datamodule.settings().items()]


def settings(cli: ZooCLI) -> dict[str, Any]:
    """Return what all networks share: task, data and optimizer."""
    return {
        "task": type(cli.model).__name__,
        "data": cli.datamodule.headline(),
        "optimizer": plain(cli.model.optimizer_config),
        "precision": str(cli.trainer.precision),
    }


def sizes_of(cell: Cell, at: At) -> list[str]:
    """Return the options of a cell."""
    return [
        f"--model.width={cell.width}",
        f"--model.layers={cell.depth}",
        f"--model.heads={cell.width // at.head}",
        f"--seed_everything={cell.seed}",
    ]


def train(cli: ZooCLI, cell: Cell) -> list[dict[str, Any]]:
    """Train one network, and return its rows.

    Raises:
        UserError: if it diverges, or its data will not do.
    """
    record = Coordinates()
    # No checkpoints and no spectra.
    cli.trainer.callbacks = [record]  # type: ignore[attr-defined]
    try:
        with messages.as_user_errors(f"{cell.name}, width {cell.width}, {cell.depth} blocks"):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except SystemExit as stop:  # what Lightning makes of an interruption
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    about = {
        "parameterization": cell.name,
        "width": cell.width,
        "depth": cell.depth,
        "seed": cell.seed,
    }
    return [about | row for row in record.rows]


def rebuild(
    factory: ParameterizationFactory, sizes: Sequence[int], done: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """Measure a row for each size, if it is a parameterization with something to rebuild."""
    for size in sizes:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            errors = rebuild_errors(factory(size, size))
        done()
        if errors is not None:
            yield {"size": size, **errors}
