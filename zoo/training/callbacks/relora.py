"""Updates that are merged into W0 and begin anew, again and again (ReLoRA, arXiv 2307.05695)."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.bases.seeds import generator
from zoo.errors import UserError
from zoo.layers.anew import merge_updates, once
from zoo.layers.convert import zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.training.module import ZooModule


class ReLoRA(Callback):
    """Merges every update into W0 each `every` steps, and begins it anew.

    A restart comes before the step j `every` + k, j = 1, 2, ..., where k is the task's
    `dense_steps`:

        W0 <- W0 + s W (of a map that knows W0: its W'),   W = 0, coefficients drawn anew
        m, v <- m, v where |m| is among the 1 - `prune_ratio` largest of a tensor, else 0
        rate <- rate of the schedule times min(1, (t + 1) / `warmup`), t steps after a restart

    so that the sum of updates may have the rank of all of them together. Any parameterization of
    layers with a frozen W0 takes part, from scratch with a `base` or in fine-tuning. With a fixed
    subspace, as `DCT`, the new update is in the same one. From the first restart on, W0 is in every
    checkpoint. The rate rises anew after the dense steps, too. What is drawn depends on the run's
    seed, the layer and j.

    The paper's code prunes each moment by its own size; here both keep the same places, so that no
    mean is left without its variance.

    Args:
        every: steps between two restarts.
        warmup: steps in which the rate rises after a restart; 0 for none.
        prune_method: which of the optimizer's moments stay: those of largest `magnitude`, or
            `random` ones.
        prune_ratio: the share of moments that is set to 0, in [0, 1]; 1 resets all of them.

    Raises:
        UserError: for a value out of range; as a fit begins, where the run has no step for a
            restart, or a layer no frozen W0.
    """

    def __init__(
        self,
        every: int = 1000,
        warmup: int = 50,
        prune_method: str = "magnitude",
        prune_ratio: float = 0.99,
    ) -> None:
        if every < 1:
            raise UserError(f"ReLoRA.every must be at least 1, got {every}")
        if not 0 <= warmup <= every:
            raise UserError(
                f"ReLoRA.warmup must lie in [0, {every}], the steps between restarts, got {warmup}"
            )
        if prune_method not in ("magnitude", "random"):
            raise UserError(
                f"ReLoRA.prune_method must be magnitude or random, got {prune_method!r}"
            )
        if not 0 <= prune_ratio <= 1:
            raise UserError(f"ReLoRA.prune_ratio must lie in [0, 1], got {prune_ratio}")
        self.every, self.warmup = every, warmup
        self.prune_method, self.prune_ratio = prune_method, prune_ratio
        self.first = 0
        """The step at which updates begin."""
        self.restarts = 0

    def settings(self) -> dict[str, object]:
        """Return what it was given, which is of a run's method."""
        names = ("every", "warmup", "prune_method", "prune_ratio")
        return {name: getattr(self, name) for name in names}

    def rate_factor(self, step: int) -> float:
        """Return what the schedule's rate is multiplied by at a step."""
        since = step - self.first
        if since < 0 or not self.first and since < self.every:  # the schedule has its own warm-up
            return 1.0
        return min(1.0, (since % self.every + 1) / max(1, self.warmup))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the schedule its teeth."""
        if stage == "fit":
            assert isinstance(pl_module, ZooModule)
            self.first = pl_module.dense_steps
            pl_module.rate_factors = [*_others(pl_module.rate_factors, self), self.rate_factor]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a restart, or layers that have no W0 to merge into.

        Raises:
            UserError: saying what would work.
        """
        for name, layer in zoo_layers(pl_module.net).items():  # type: ignore[arg-type]
            if not layer.has_base or layer.dense_phase == "projected":
                raise UserError(
                    f"ReLoRA merges updates into a frozen W0, and {name} has none: give "
                    "--model.base random, or warm with --model.dense_steps"
                )
            layer.check_writes()
            if layer.dense_phase is None and any(p.requires_grad for p in layer.base_parameters):
                raise UserError(
                    f"ReLoRA merges updates into a frozen W0, and that of {name} is trained too: "
                    "leave it out of the targets"
                )
        steps = int(trainer.estimated_stepping_batches)
        if self.first + self.every >= steps:
            left = steps - self.first
            after = f" after {self.first:,} dense ones" if self.first else ""
            raise UserError(
                f"ReLoRA.every must be less than the {left:,} steps of the run{after}, or there is "
                f"no restart, got {self.every:,}"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restart, if it is time: what was saved or validated at this step is from before."""
        number, rest = divmod(trainer.global_step - self.first, self.every)
        if rest or number < 1 or number == self.restarts:
            return
        assert isinstance(pl_module, ZooModule)
        self.restarts = number
        layers, seed = zoo_layers(pl_module.net), pl_module.seed
        merge_updates(layers, seed, number)
        self.prune_moments(layers, pl_module, seed, number)
        pl_module.regroup()  # rates may follow from W0

    @torch.no_grad()
    def prune_moments(
        self, layers: dict[str, ZooLayer], module: ZooModule, seed: int, number: int
    ) -> None:
        """Set a share of the optimizer's moments of coefficients to 0, the same on every rank."""
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        for name, layer in once(layers).items():
            for key, p in layer.parameterization.named_parameters():
                state = optimizer.state.get(p, {})
                moments = [
                    v for v in state.values() if isinstance(v, Tensor) and v.shape == p.shape
                ]
                if not moments or not p.ndim:
                    continue
                if self.prune_method == "magnitude":
                    sizes = moments[0].abs()
                else:
                    drawn = generator(seed, "prune", name, key, number)
                    sizes = torch.rand(p.shape, generator=drawn).to(p.device)
                left = p.numel() - round(self.prune_ratio * p.numel())
                kept = torch.zeros(p.numel(), dtype=torch.bool, device=p.device)
                kept[sizes.flatten().argsort(descending=True, stable=True)[:left]] = True
                for moment in moments:
                    moment.mul_(kept.view(p.shape))

    def state_dict(self) -> dict[str, Any]:
        """Return how many restarts there were."""
        return {"restarts": self.restarts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: if it is no number.
        """
        restarts = state_dict["restarts"]
        if type(restarts) is not int or restarts < 0:
            raise ValueError(f"{restarts} restarts")
        self.restarts = restarts


def _others(factors: Iterable[Any], callback: ReLoRA) -> list[Any]:
    """Return the factors that are of other callbacks."""
    return [factor for factor in factors if getattr(factor, "__self__", None) is not callback]
