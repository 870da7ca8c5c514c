"""One line of progress: loss, speed and time left."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


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
        self.bar: tqdm | None = None
        self.shown = 0.0
        self.printed = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where a resumed run had stopped."""
        steps = int(trainer.estimated_stepping_batches)
        self.started, self.first, self.printed = time.perf_counter(), trainer.global_step, trainer.global_step
        if trainer.is_global_zero and sys.stderr.isatty():
            layout = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {postfix}, {rate_fmt}, {remaining} left"
            self.bar = tqdm(
                total=steps, initial=self.first, bar_format=layout, dynamic_ncols=True, leave=True,
                unit="step", smoothing=0.05, file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int  # noqa: ANN401
    ) -> None:
        """Show loss, speed and time left."""
        steps, step = int(trainer.estimated_stepping_batches), trainer.global_step
        if not trainer.is_global_zero or (time.perf_counter() - self.shown < self.every_seconds and step < steps):
            return
        self.shown = time.perf_counter()
        if self.bar is not None:
            self.bar.set_postfix_str(self._losses(trainer), refresh=False)
            self.bar.update(step - self.bar.n)
        elif step - self.printed >= steps / self.lines or step == steps:
            self.printed = step
            rate = (step - self.first) / (self.shown - self.started)
            left = int((steps - step) / rate)
            print(
                f"step {step:>{len(str(steps))}}/{steps}  {self._losses(trainer)}  "
                f"{rate:.1f} steps/s  {left // 60}:{left % 60:02d} left", file=sys.stderr, flush=True,
            )

    def _losses(self, trainer: Trainer) -> str:
        metrics = trainer.callback_metrics
        pairs = [("loss", "train/loss"), ("val", "val/loss")]
        return ", ".join(f"{name} {metrics[key].item():.3f}" for name, key in pairs if key in metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal at a new line."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def disable(self) -> None:
        """Lightning's switch for other ranks: they print nothing anyway."""

    def enable(self) -> None:
        """The switch back."""
