"""Rank and spectral energy of every parameterized weight, logged as it trains."""

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.convert import are_updates, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.layers.names import kind
from zoo.spectrum import dct_energy, rotation_null, stable_rank
from zoo.training import tensorboard
from zoo.training.module import ZooModule


class SpectrumCallback(Callback, ABC):
    """Looks at every parameterized layer each `every_n_steps` steps, at the start and at the end.

    Args:
        every_n_steps: steps between looks; 0 never looks.
    """

    def __init__(self, every_n_steps: int) -> None:
        if every_n_steps < 0:
            raise UserError(
                f"every_n_steps must be at least 0, which never looks, got {every_n_steps}"
            )
        self.every_n_steps = every_n_steps
        self.seconds = 0.0
        self.looks: dict[int, dict[str, float]] = {}

    @abstractmethod
    def measure(self, layers: dict[str, ZooLayer]) -> dict[str, float]:
        """Return scalars by tag."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the initial weights."""
        if trainer.global_step == 0:
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if it is time."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the final weights."""
        self._look(trainer, pl_module)

    @torch.no_grad()
    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ZooModule)
        if (
            not self.every_n_steps
            or trainer.global_step in self.looks
            or not trainer.is_global_zero
        ):
            return
        start = time.perf_counter()
        self.looks[trainer.global_step] = values = self.measure(zoo_layers(pl_module.net))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        self.seconds += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen, so that a resumed run has the whole history."""
        return {"looks": self.looks, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what had been seen.

        Raises:
            ValueError: if it is none of what a look sees.
        """
        looks = dict(state_dict["looks"])
        for step, values in looks.items():
            if type(step) is not int or not all(
                isinstance(value, int | float) for value in values.values()
            ):
                raise ValueError(f"no look at step {step}")
        self.looks, self.seconds = looks, float(state_dict["seconds"])


def over_layers(values: dict[str, float]) -> dict[str, float]:
    """Return median, least and largest over layers as `all.`, and medians by kind as `kind.`."""
    kinds = defaultdict(list)
    for name, value in values.items():
        kinds[kind(name)].append(value)
    every = torch.tensor(list(values.values()))
    summary = {
        "all.median": every.median().item(),
        "all.min": every.min().item(),
        "all.max": every.max().item(),
    }
    return summary | {f"kind.{k}": torch.tensor(v).median().item() for k, v in kinds.items()}


class StableRank(SpectrumCallback):
    """Logs the stable rank |W|_F^2 / |W|_2^2 of every weight, of dW where there is a base.

    In a dense phase there is W alone. With `ReLoRA` dW is what was added since the last restart.

    Tags: `stable_rank/...`.

    Args:
        every_n_steps: steps between looks; 0 never looks.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def measure(self, layers: dict[str, ZooLayer]) -> dict[str, float]:
        """Return `stable_rank/<layer>` of W, `stable_rank/update.<layer>` of dW, and summaries."""
        ranks = _ranks({name: layer.effective_weight() for name, layer in layers.items()})
        updates = _ranks(
            {
                name: layer.update()
                for name, layer in layers.items()
                if layer.has_base and layer.dense_phase is None
            }
        )
        ranks |= over_layers(ranks)
        if updates:
            ranks |= {
                f"update.{name}": value for name, value in (updates | over_layers(updates)).items()
            }
        return {f"stable_rank/{name}": value for name, value in ranks.items()}

    @property
    def mean(self) -> float | None:
        """Return the mean over the layers at the last look, of dW where there is a base."""
        if not self.looks:
            return None
        last = {
            tag.removeprefix("stable_rank/"): value
            for tag, value in self.looks[max(self.looks)].items()
        }
        updates = {
            tag.removeprefix("update."): value
            for tag, value in last.items()
            if tag.startswith("update.")
        }
        values = [
            v for tag, v in (updates or last).items() if not tag.startswith(("all.", "kind."))
        ]
        return sum(values) / len(values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the final weights, and draw the heatmap of steps and layers."""
        super().on_train_end(trainer, pl_module)
        if self.looks and isinstance(trainer.logger, TensorBoardLogger):
            start = time.perf_counter()
            layers = zoo_layers(pl_module.net)  # type: ignore[arg-type]
            steps = sorted(self.looks)
            update = "update." if are_updates(layers) else ""
            tags = [f"stable_rank/{update}{name}" for name in layers]
            values = torch.tensor(
                [[self.looks[step].get(tag, math.nan) for step in steps] for tag in tags]
            )
            largest = max(2, *(min(layer.parameterization.shape) for layer in layers.values()))
            title = f"stable rank of {'dW' if update else 'W'}"
            image = tensorboard.heatmap(values, list(layers), steps, title, 1, largest)
            trainer.logger.experiment.add_image("stable_rank/heatmap", image, trainer.global_step)
            self.seconds += time.perf_counter() - start


def _ranks(weights: dict[str, Tensor]) -> dict[str, float]:
    """Compute stable ranks by name, those of equal shapes in one batch."""
    shapes = defaultdict(list)
    for name, weight in weights.items():
        shapes[weight.shape].append(name)
    ranks: dict[str, float] = {}
    for names in shapes.values():
        ranks.update(
            zip(
                names,
                stable_rank(torch.stack([weights[name] for name in names])).tolist(),
                strict=True,
            )
        )
    return {name: ranks[name] for name in weights}


LOGGED = {"k90": "k90", "k90_frequency": "k90_zigzag", "low_25": "low_frequency"}
"""Of the measures of `zoo.spectrum.spectral_energy`, those that are logged, and the tag of each."""


class SpectralEnergy(SpectrumCallback):
    """Logs where the energy of W lies among its DCT coefficients, beside the rotation null.

    Where there is a base, it is that of dW.

    Tags: `k90/<layer>`, `k90_zigzag/<layer>` and `low_frequency/<layer>`, each with
    `.../null.<layer>` for the same singular values between random singular vectors.

    Args:
        every_n_steps: steps between looks; 0 never looks.
        null_draws: random rotations the null is averaged over.
    """

    def __init__(self, every_n_steps: int = 500, null_draws: int = 1) -> None:
        super().__init__(every_n_steps)
        if null_draws < 1:
            raise UserError(f"null_draws must be at least 1, got {null_draws}")
        self.null_draws = null_draws

    def measure(self, layers: dict[str, ZooLayer]) -> dict[str, float]:
        """Return every measure of every layer, its null, and summaries."""
        values: dict[str, dict[str, float]] = defaultdict(dict)
        nulls: dict[str, dict[str, float]] = defaultdict(dict)
        for name, layer in layers.items():
            weight = layer.update()
            found, null = dct_energy(weight), rotation_null(weight, self.null_draws)
            for measure, tag in LOGGED.items():
                values[tag][name], nulls[tag][name] = found[measure], null[measure]
        tags = {}
        for measure in values:
            both = values[measure] | over_layers(values[measure])
            both |= {
                f"null.{k}": v for k, v in (nulls[measure] | over_layers(nulls[measure])).items()
            }
            tags.update({f"{measure}/{name}": value for name, value in both.items()})
        return tags
