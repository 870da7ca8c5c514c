"""Two checkpoints a run: `last.ckpt`, to resume from, and `best.ckpt`, of the lowest validation loss."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.errors import UserError


class Checkpoint(Callback):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run's folder.

    Both are written whole or not at all, so that a run killed at any moment leaves one to resume from. Each loads with
    `torch.load(path, weights_only=True)`.

    Args:
        every_n_steps: steps between two writes of `last.ckpt`; it is also written at the end. 0 keeps no checkpoint.
        monitor: the metric whose least value makes `best.ckpt`.
    """

    def __init__(self, every_n_steps: int = 250, monitor: str = "val/loss") -> None:
        if every_n_steps < 0:
            raise UserError(f"checkpoint.every_n_steps must be at least 0, which keeps none, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.best: float | None = None
        self.best_step: int | None = None

    def folder(self, trainer: Trainer) -> Path | None:
        """Where this run's checkpoints go, if anywhere."""
        if not self.every_n_steps or trainer.logger is None or trainer.logger.log_dir is None:
            return None
        return Path(trainer.logger.log_dir) / "checkpoints"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last.ckpt`, if it is time."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every_n_steps and stepped and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `best.ckpt`, if the loss is the lowest yet."""
        loss = trainer.callback_metrics.get(self.monitor)
        if loss is None or not loss.isfinite() or trainer.state.fn != "fit":
            return
        if self.best is None or loss.item() < self.best:
            self.best, self.best_step = loss.item(), trainer.global_step
            self._save(trainer, "best.ckpt")
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer, "last.ckpt")  # again, now that it knows of this loss

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt`."""
        self._save(trainer, "last.ckpt")

    def _save(self, trainer: Trainer, name: str) -> None:
        folder = self.folder(trainer)
        if folder is None:
            return
        if all(p.isfinite().all() for p in trainer.lightning_module.parameters() if p.requires_grad):
            trainer.save_checkpoint(folder / name, weights_only=False)  # a good one is never replaced by a bad one

    def state_dict(self) -> dict[str, Any]:
        """The best loss so far."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best loss so far."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
