"""Progress of a fit: loss, speed and time left, on the terminal and in a file."""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from zoo.training import progress_file
from zoo.training.callbacks.stop import Stopped
from zoo.training.progress_file import RunProgress

WRITTEN_EVERY = 1.0
"""Seconds between two writes of the file."""


def say(line: str) -> None:
    """Print a line on stderr, unless nobody reads it: a run does not end because `| head` did."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


class Progress(ProgressBar):
    """Shows a bar in a terminal, elsewhere a line now and then, and writes `progress.json`.

    Args:
        every_seconds: seconds between two updates of the bar.
        lines: how many lines a whole run prints where there is no terminal.
    """

    def __init__(self, every_seconds: float = 0.5, lines: int = 20) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.lines = lines
        self.silent = False
        """Whether nothing is shown while it trains."""
        self.bar: tqdm | None = None
        self.shown = self.written = 0.0
        self.printed = 0
        self.best = math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where a resumed run had stopped."""
        self._remove_file(trainer)  # that a killed fit has left
        self.best = math.inf
        # Infinite where only time ends the run.
        self.steps = steps = float(trainer.estimated_stepping_batches)
        self.started, self.first, self.printed = (
            time.perf_counter(),
            trainer.global_step,
            trainer.global_step,
        )
        if trainer.is_global_zero and sys.stderr.isatty() and not self.silent:
            layout = (
                "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}, {rate_fmt}, "
                "{remaining} left"
            )
            self.bar = tqdm(
                total=int(steps) if math.isfinite(steps) else None,
                initial=self.first,
                bar_format=layout,
                dynamic_ncols=True,
                unit=" steps",
                smoothing=0.05,
                file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show and write loss, speed and time left."""
        if not trainer.is_global_zero:
            return
        now, steps, step = time.perf_counter(), self.steps, trainer.global_step
        due = now - self.written >= WRITTEN_EVERY or step == steps
        if due and (folder := _folder(trainer)) is not None:
            self.written = now
            progress_file.write(folder, self._progress(trainer, outputs))
        if self.silent or now - self.shown < self.every_seconds and step < steps:
            return
        self.shown = now
        if self.bar is not None:
            self.bar.set_postfix_str(_losses(self._progress(trainer, outputs)), refresh=False)
            self.bar.update(step - self.bar.n)
        elif step == steps or step - self.printed >= min(steps, 1000 * self.lines) / self.lines:
            self.printed = step
            seen = self._progress(trainer, outputs)
            left = ""
            if seen.seconds_left is not None:
                minutes, seconds = divmod(int(seen.seconds_left), 60)
                left = f"  {minutes}:{seconds:02d} left"
            number = f"{step:>{len(f'{steps:.0f}')}}/{steps:.0f}"
            say(f"step {number}  {_losses(seen)}  {seen.steps_per_second:.1f} steps/s{left}")

    def _progress(self, trainer: Trainer, outputs: Any) -> RunProgress:
        """Say how far the fit is; the loss is that of this step, on this process."""
        step, steps = trainer.global_step, int(self.steps) if math.isfinite(self.steps) else None
        rate = (step - self.first) / (time.perf_counter() - self.started)
        loss, val_loss = None, trainer.callback_metrics.get("val/loss")
        if isinstance(outputs, Mapping) and "loss" in outputs:
            # Lightning has divided it by as many batches as make a step.
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        return RunProgress(
            step=step,
            steps=steps,
            loss=loss,
            val_loss=None if val_loss is None else float(val_loss),
            best_val_loss=self.best,
            steps_per_second=rate,
            seconds_left=None if steps is None or not rate else (steps - step) / rate,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the least loss."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and trainer.state.fn == "fit":
            self.best = min(self.best, float(loss))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal at a new line; after Ctrl-C or a signal, say how to go on."""
        self._close(trainer)
        if isinstance(exception, KeyboardInterrupt | Stopped) and trainer.is_global_zero:
            folder = _folder(trainer)
            saved = folder is not None and (folder / "checkpoints" / "last.ckpt").exists()
            then = (
                f"go on from the last checkpoint: zoo fit --ckpt_path {folder}"
                if saved
                else "no checkpoint yet"
            )
            say(f"stopped at step {trainer.global_step}; {then}")

    def _close(self, trainer: Trainer) -> None:
        """Take away the bar and the file."""
        if self.written:
            self._remove_file(trainer)
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _remove_file(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and (folder := _folder(trainer)) is not None:
            progress_file.remove(folder)

    def disable(self) -> None:
        """Do nothing: Lightning silences other ranks by it, which print nothing anyway."""

    def enable(self) -> None:
        """Do nothing, as `disable` did."""


def _folder(trainer: Trainer) -> Path | None:
    """Find the folder of the run, if it has one."""
    log_dir = trainer.logger.log_dir if trainer.logger is not None else None
    return Path(log_dir) if log_dir else None


def _losses(progress: RunProgress) -> str:
    """Write the loss of the last step, and of the last validation."""
    losses = {"loss": progress.loss, "val": progress.val_loss}
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
