"""How every task is optimized: a LightningModule with rates, schedule, clipping and seeds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from zoo.bases.seeds import stream_seed
from zoo.errors import UserError
from zoo.training import optimizers
from zoo.training.optimizers import OptimizerConfig


class OptimizedModule(LightningModule):
    """What Lightning asks of a module that an `OptimizerConfig` says how to train.

    Args:
        optimizer: how to train.
        seed: with the step and the rank, the seed of everything random in training.
    """

    def __init__(self, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        self.seed = seed
        self._finite: tuple[list[str], Tensor] | None = None
        self.rate_factors: list[Callable[[int], float]] = []
        """What every rate is multiplied by at a step, besides the schedule's share.

        A callback adds to it in `setup`, once a trainer.
        """

    def own_rates(self) -> dict[nn.Parameter, float]:
        """Return the peak learning rates of what is not trained at the optimizer's `lr`."""
        return {}

    def rate_share(self, step: int, steps: int) -> float:
        """Return the share of its peak that every rate has at a step of a run of `steps`."""
        factors = (factor(step) for factor in self.rate_factors)
        return self.optimizer_config.share(step, steps) * math.prod(factors)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the config's optimizer, and a schedule that runs to the trainer's last step.

        Raises:
            UserError: if nothing but time ends the run.
        """
        config, steps = self.optimizer_config, self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError(
                "nothing says how many steps the learning rate's schedule has: "
                "give --trainer.max_steps or --trainer.max_epochs"
            )
        # A fused step unscales float16's gradients itself, after they were clipped.
        fused = self.trainer.scaler is None
        optimizer = optimizers.build(self, config, self.own_rates(), fused)
        schedule = LambdaLR(optimizer, lambda step: self.rate_share(step, int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let the config decide rates and decay, also where a checkpoint brought its own.

        Raises:
            UserError: if a subclass makes other optimizers and schedules.
        """
        schedules = [each.scheduler for each in self.trainer.lr_scheduler_configs]
        if len(self.trainer.optimizers) != 1 or [type(each) for each in schedules] != [LambdaLR]:
            raise UserError(
                f"{type(self).__name__}.configure_optimizers must return what ZooModule's does, "
                "one optimizer with its schedule: leave it out, and give --model.optimizer"
            )
        optimizers.follow(self, self.optimizer_config, self.own_rates(), *self._optimizing())

    def regroup(self) -> None:
        """Have the optimizer move what is trained now, at today's rates (`optimizers.regroup`)."""
        optimizers.regroup(self, self.optimizer_config, self.own_rates(), *self._optimizing())

    def _optimizing(self) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Return the optimizer and its schedule."""
        (optimizer,), (schedule,) = (
            self.trainer.optimizers,
            [each.scheduler for each in self.trainer.lr_scheduler_configs],
        )
        assert isinstance(schedule, LambdaLR)
        return optimizer, schedule

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by seed, batch and rank: a resumed run draws what a whole one does."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        seed = stream_seed(self.seed, "batch", number, self.global_rank)
        # Only what draws here: torch.manual_seed keeps a stack trace for every kind of device that
        # is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def log_loss(self, loss: Tensor) -> None:
        """Log a training step's loss as `train/loss`, at the first step and when logs are written.

        What Lightning does to log a number takes as long as 1 % of a step of the character model.
        """
        trainer = self._trainer
        if (
            trainer is None
            or trainer.global_step == 0
            or trainer._logger_connector.should_update_logs
        ):
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm, and stop before a step with a gradient that is not finite.

        Raises:
            UserError: if nothing has a gradient; or naming the step and the layer with the largest
                gradient, except in float16, whose scaler skips the step.
        """
        grads = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        if not grads:
            raise UserError(
                f"{type(self).__name__}.training_step gave no loss of what is trained: return "
                "the loss"
            )
        norms = torch.stack(torch._foreach_norm(list(grads.values())))
        total = norms.norm()
        if not torch.isfinite(total):
            if getattr(self._trainer, "scaler", None) is not None:
                return
            raise UserError(
                f"the loss is not finite at step {self.global_step}; the largest gradient is in "
                f"{self._largest(list(grads), norms)}. Lower --model.optimizer.lr (it is "
                f"{self.optimizer_config.lr:g}), or raise --model.optimizer.warmup"
            )
        self._finite = list(grads), norms
        clip = self.optimizer_config.clip if gradient_clip_val is None else gradient_clip_val
        if clip is not None and (factor := clip / (total + 1e-6)) < 1:
            torch._foreach_mul_(list(grads.values()), factor)

    def _largest(self, names: Sequence[str], norms: Tensor) -> str:
        """Name the layer with the largest gradient, now or when one was finite last."""
        if norms.isnan().all() and self._finite is not None:
            names, norms = self._finite
        name = names[int(norms.nan_to_num(nan=-1.0, posinf=math.inf).argmax())].removeprefix("net.")
        return name.split(".parameterization.")[0].removesuffix(".weight").removesuffix(".bias")
