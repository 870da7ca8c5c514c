"""For transformers' Trainer: rank and spectrum of what it trains, in its own TensorBoard.

trainer.add_callback(zoo.hf.RankCallback(every_n_steps=50))
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.training.callbacks.spectra import SpectralEnergy, StableRank

try:
    from transformers import TrainerCallback
except ModuleNotFoundError:
    raise UserError(
        "zoo.hf needs transformers, which is not installed: pip install -e '.[glue]'"
    ) from None

PLACE = "TENSORBOARD_LOGGING_DIR"
"""The variable by which transformers is told where its TensorBoard lies."""


class RankCallback(TrainerCallback):  # type: ignore[misc]
    """Logs stable rank and spectral energy of every adapted layer as the Trainer trains it.

    The values are scalars in the folder of the Trainer's own TensorBoard, under the tags that runs
    of `zoo fit` have, and entries of `trainer.state.log_history`.

    Args:
        every_n_steps: steps between looks at the stable rank; 0 never looks.
        energy_every_n_steps: steps between looks at the spectral energy, which take longer.
        null_draws: random rotations that the null of the energy is averaged over.
    """

    def __init__(
        self, every_n_steps: int = 100, energy_every_n_steps: int = 500, null_draws: int = 1
    ) -> None:
        self.measures = [
            StableRank(every_n_steps),
            SpectralEnergy(energy_every_n_steps, null_draws),
        ]
        self._writer: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Look at what training starts from, or goes on with.

        Raises:
            UserError: if the network has no parameterized layer.
        """
        if model is not None and not zoo_layers(model):
            raise UserError(
                "RankCallback has nothing to look at: call zoo.adapt(model, ...) before"
            )
        if state.is_world_process_zero and (folder := _tensorboard(args)) is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), filename_suffix=".zoo")
        self._look(state, model)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Look, if it is time."""
        self._look(state, model)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any
    ) -> None:
        """Look at the end, and close the file."""
        self._look(state, model, end=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @torch.no_grad()
    def _look(self, state: Any, model: nn.Module | None, end: bool = False) -> None:
        if model is None or not state.is_world_process_zero:
            return
        step = state.global_step
        values: dict[str, float] = {}
        for measure in self.measures:
            every = measure.every_n_steps
            if every and (end or step % every == 0) and step not in measure.looks:
                measure.looks[step] = found = measure.measure(zoo_layers(model))
                values |= found
        if values:
            state.log_history.append({"step": step, **values})
        for tag, value in values.items() if self._writer is not None else ():
            self._writer.add_scalar(tag, value, step)


def _tensorboard(args: Any) -> Path | None:
    """Return the folder into which this process' Trainer writes for TensorBoard, if it does.

    Its callback does not say it. The name of an events file has the number of the process.
    """
    place = os.environ.get(PLACE)
    folders = [Path(place).expanduser()] if place else []
    files = [
        file
        for folder in (*folders, Path(args.output_dir))
        for file in folder.rglob(f"events.out.tfevents.*.{os.getpid()}.*")
    ]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None
