"""Two checkpoints a run: `last.ckpt`, to resume from, and `best.ckpt`, of the best validation."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from zoo.errors import UserError, did_you_mean
from zoo.training.metrics import less_is_better


def validation_follows(trainer: Trainer) -> bool:
    """Tell whether the batch that has just been trained on is followed by a validation."""
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher))  # type: ignore[arg-type]


def _is_ours(module: LightningModule) -> bool:
    """Tell whether a task is zoo's own, whose training is known to log `train/loss` alone."""
    return type(module).__module__.partition(".")[0] == "tasks"


def _not_logged(
    who: str, metric: str, module: LightningModule, logged: Mapping[str, Tensor]
) -> str:
    """Say that a metric is watched, and that nothing logs it."""
    names, task = ", ".join(sorted(logged)) or "none", type(module).__name__
    if who == "task":
        return (
            f"{task} decides by {metric!r} (its `monitor`) and logs {names}: log {metric!r} in "
            "validation_step, or set monitor to what it logs"
        )
    hint = did_you_mean(metric, logged, f"{task} logs {names}")
    return f"{who} watches {metric!r}, which is not logged{hint}"


class Checkpoint(Callback):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run's folder.

    Both are written whole or not at all, so that a run killed at any moment leaves one to resume
    from. Each loads with `torch.load(path, weights_only=True)` and holds what is trained, 4 bytes a
    number; what else going on needs lies beside `last.ckpt` (`zoo.runs.checkpoints`).

    Args:
        every_n_steps: steps between two writes of `last.ckpt`; it is also written at the end. 0
            keeps no checkpoint.
        monitor: the metric whose best value makes `best.ckpt`; by default the task's.
        mode: whether its least value is best, or its largest; by default as its name says
            (`zoo.training.metrics`).
    """

    def __init__(
        self,
        every_n_steps: int = 250,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        if every_n_steps < 0:
            raise UserError(
                "checkpoint.every_n_steps must be at least 0, which keeps none, "
                f"got {every_n_steps}"
            )
        if monitor is not None and not monitor.strip():
            raise UserError(
                "checkpoint.monitor must be the name of a metric, or null for the task's, got ''"
            )
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.of: list[Any] | None = None
        """The metric that `best` is a value of, and whether less of it is better."""
        self._wrote = False
        self.best: float | None = None
        self.best_step: int | None = None

    def folder(self, trainer: Trainer) -> Path | None:
        """Return the folder that this run's checkpoints go to, if they go anywhere."""
        if not self.every_n_steps or trainer.logger is None or trainer.logger.log_dir is None:
            return None
        return Path(trainer.logger.log_dir) / "checkpoints"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have Lightning validate a batch first, if a user's setting or task says what to watch.

        Raises:
            UserError: if there is no validation to watch.
        """
        of = [self.metric(pl_module), less_is_better(self.metric(pl_module), self._mode(pl_module))]
        # What goes on was judged by another, whose values say nothing here.
        if self.of not in (None, of):
            self.best = self.best_step = None
        self.of = of
        watched = self._watched(trainer, pl_module)
        if self.monitor is not None and trainer.limit_val_batches == 0:
            raise UserError(
                f"checkpoint.monitor {self.monitor!r} is looked at after a validation, and "
                "--trainer.limit_val_batches is 0: leave one of them out"
            )
        if not _is_ours(pl_module) or set(watched) != {"task"}:
            trainer.num_sanity_val_steps = max(trainer.num_sanity_val_steps, 1)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a metric that no validation logs; one that training logs is waited for.

        Raises:
            UserError: naming what is logged; or if nothing says which of its values is best.
        """
        logged = trainer.callback_metrics
        if not sum(trainer.num_sanity_val_batches):
            data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]
            raise UserError(
                f"{data}.val_dataloader has no batch: give more data, or "
                "--trainer.limit_val_batches 0"
            )
        for who, metric in self._watched(trainer, pl_module).items():
            is_of_validation = metric.partition("/")[0] in {
                "val",
                *(name.partition("/")[0] for name in logged),
            }
            if metric not in logged and (
                is_of_validation or _is_ours(pl_module) and metric != "train/loss"
            ):
                raise UserError(_not_logged(who, metric, pl_module, logged))
        self.less_is_better(pl_module)

    def _watched(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        """Find the metrics that the task, this callback's setting and other callbacks decide by."""
        watched = (
            {"task": self.metric(module)}
            if self.monitor is None
            else {"checkpoint.monitor": self.monitor}
        )
        others: list[Any] = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        metrics = {type(c).__name__: getattr(c, "monitor", None) for c in others}
        return watched | {
            name: metric for name, metric in metrics.items() if isinstance(metric, str)
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last.ckpt`, if it is time; where a validation follows, that is time too."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and self._is_time(trainer) and not validation_follows(trainer):
            self.save_last(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt`, if it is time: a run that stops while it validates validates again."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._is_time(trainer):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `best.ckpt`, if this is the best validation yet.

        Raises:
            UserError: if nothing logs what decides.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        trainer.fit_loop.epoch_loop.validated = trainer.global_step  # type: ignore[attr-defined]  # kept in its state
        value = trainer.callback_metrics.get(self.metric(pl_module))
        if value is None and self.best is None and self.every_n_steps:
            who = "task" if self.monitor is None else "checkpoint.monitor"
            raise UserError(
                _not_logged(who, self.metric(pl_module), pl_module, trainer.callback_metrics)
            )
        if value is not None and value.isfinite():
            sign = 1 if self.less_is_better(pl_module) else -1
            if self.best is None or sign * value.item() < sign * self.best:
                self.best, self.best_step = value.item(), trainer.global_step
                self._save(trainer, "best.ckpt", weights_only=True)
            elif self.best_step == trainer.global_step and not self._exists(trainer, "best.ckpt"):
                self._save(trainer, "best.ckpt", weights_only=True)
        if self._is_time(trainer):
            self.save_last(trainer)  # again, now that it knows of this value

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt`."""
        self.save_last(trainer)

    def _is_time(self, trainer: Trainer) -> bool:
        return bool(self.every_n_steps) and trainer.global_step % self.every_n_steps == 0

    def _exists(self, trainer: Trainer, name: str) -> bool:
        folder = self.folder(trainer)
        return folder is not None and bool(trainer.strategy.broadcast((folder / name).is_file()))

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, and before it what was logged: no curve ends before a checkpoint."""
        if isinstance(trainer.logger, TensorBoardLogger) and self.folder(trainer) is not None:
            trainer.logger.experiment.flush()
        self._save(trainer, "last.ckpt")

    def metric(self, module: LightningModule) -> str:
        """Name the metric that decides."""
        return self.monitor or str(getattr(module, "monitor", "val/loss"))

    def _mode(self, module: LightningModule) -> str | None:
        """Return `min` or `max` as the setting says it, or a task that decides."""
        return self.mode or (
            getattr(module, "monitor_mode", None) if self.monitor is None else None
        )

    def less_is_better(self, module: LightningModule) -> bool:
        """Tell whether the least value of what decides is the best.

        Raises:
            UserError: if neither its name, nor this callback, nor the task says it.
        """
        if (less := less_is_better(self.metric(module), self._mode(module))) is None:
            who = (
                f"{type(module).__name__} decides by"
                if self.monitor is None
                else "checkpoint.monitor watches"
            )
            raise UserError(
                f"{who} {self.metric(module)!r}, whose name does not say whether its least or its "
                "largest value is best: give --checkpoint.mode min or max"
            )
        return less

    def _save(self, trainer: Trainer, name: str, weights_only: bool = False) -> None:
        folder = self.folder(trainer)
        if folder is None:
            return
        if self._wrote and trainer.is_global_zero and not folder.is_dir():
            warnings.warn(
                f"'{folder}' was removed while the run trained: it is written anew, without what "
                "it held",
                stacklevel=2,
            )
        self._wrote = True
        if all(
            p.isfinite().all() for p in trainer.lightning_module.parameters() if p.requires_grad
        ):
            # A good one is never replaced by a bad one.
            trainer.save_checkpoint(folder / name, weights_only)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best, "best_step": self.best_step, "of": self.of}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value so far.

        Raises:
            ValueError: if it is no number of a step.
        """
        best, step = state_dict["best"], state_dict["best_step"]
        if (
            (best is None) != (step is None)
            or best is not None
            and not (isinstance(best, float) and type(step) is int)
        ):
            raise ValueError(f"a best value of {best} at step {step}")
        # Older checkpoints do not say.
        self.best, self.best_step, self.of = (best, step, state_dict.get("of"))
