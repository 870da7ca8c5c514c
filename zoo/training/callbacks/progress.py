"""One line of progress: loss, speed and time left."""

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

from zoo.training.callbacks.stop import Stopped


def say(line: str) -> None:
    """Print a line on stderr, unless nobody reads it any more: a run does not end because `| head` did."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


class Progress(ProgressBar):
    """A bar in a terminal; elsewhere, in a log or a pipe, one line now and then.

    Args:
        every_seconds: between updates of the bar.
        lines: how many lines a whole run prints where there is no terminal.
    """

    def __init__(self, every_seconds: float = 0.5, lines: int = 20) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.lines = lines
        self.silent = False
        """Shows nothing while it trains."""
        self.bar: tqdm | None = None
        self.shown = 0.0
        self.printed = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where a resumed run had stopped."""
        self.steps = steps = float(
            trainer.estimated_stepping_batches
        )  # infinite where only time ends the run
        self.started, self.first, self.printed = (
            time.perf_counter(),
            trainer.global_step,
            trainer.global_step,
        )
        if trainer.is_global_zero and sys.stderr.isatty() and not self.silent:
            layout = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}, {rate_fmt}, {remaining} left"
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
        """Show loss, speed and time left."""
        steps, step = self.steps, trainer.global_step
        early = time.perf_counter() - self.shown < self.every_seconds and step < steps
        if self.silent or early or not trainer.is_global_zero:
            return
        self.shown = time.perf_counter()
        if self.bar is not None:
            self.bar.set_postfix_str(self._losses(trainer, outputs), refresh=False)
            self.bar.update(step - self.bar.n)
        elif step == steps or step - self.printed >= min(steps, 1000 * self.lines) / self.lines:
            self.printed = step
            rate = (step - self.first) / (self.shown - self.started)
            minutes, seconds = (
                divmod(int((steps - step) / rate), 60) if math.isfinite(steps) else (0, 0)
            )
            left = f"  {minutes}:{seconds:02d} left" if math.isfinite(steps) else ""
            number = f"{step:>{len(f'{steps:.0f}')}}/{steps:.0f}"
            say(f"step {number}  {self._losses(trainer, outputs)}  {rate:.1f} steps/s{left}")

    def _losses(self, trainer: Trainer, outputs: Any) -> str:
        """The loss of this step, on this process, and of the last validation."""
        losses = {"val": trainer.callback_metrics.get("val/loss")}
        if (
            isinstance(outputs, Mapping) and "loss" in outputs
        ):  # divided by as many batches as make a step
            losses = {"loss": outputs["loss"] * trainer.accumulate_grad_batches} | losses
        return ", ".join(
            f"{name} {loss.item():.3f}" for name, loss in losses.items() if loss is not None
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal at a new line; after Ctrl-C or a signal, say how to go on."""
        self._close()
        if isinstance(exception, KeyboardInterrupt | Stopped) and trainer.is_global_zero:
            log_dir = trainer.logger.log_dir if trainer.logger is not None else None
            saved = log_dir is not None and (Path(log_dir) / "checkpoints" / "last.ckpt").exists()
            then = (
                f"go on from the last checkpoint: zoo fit --ckpt_path {log_dir}"
                if saved
                else "no checkpoint yet"
            )
            say(f"stopped at step {trainer.global_step}; {then}")

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def disable(self) -> None:
        """Lightning's switch for other ranks: they print nothing anyway."""

    def enable(self) -> None:
        """The switch back."""
