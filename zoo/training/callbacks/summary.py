"""What a run leaves: `summary.json`, a table in the terminal, a row in TensorBoard's HParams."""

import json
import math
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from zoo.errors import UserError
from zoo.files.access import read_json, write_text
from zoo.layers.convert import are_updates, zoo_layers
from zoo.layers.costs import cost_facts
from zoo.provenance import device_name
from zoo.training import identity, tensorboard
from zoo.training.callbacks.adalora import RankAllocator
from zoo.training.callbacks.checkpoint import Checkpoint
from zoo.training.callbacks.progress import say
from zoo.training.callbacks.spectra import SpectrumCallback, StableRank
from zoo.training.dense_phase import is_dense
from zoo.training.module import ZooData, ZooModule

SUMMARY = "summary.json"
COUNTED = ("rows", "batches", "uncounted", "dense")
"""What is counted in training, by its attribute."""
LIBRARIES = ("torch", "lightning", "torchmetrics", "tensorboard", "jsonargparse", "einops")


class RunSummary(Callback):
    """Writes `summary.json` into the run's folder as a fit ends, and prints a short table of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.rows = self.batches = 0
        """Rows of x that the layers of this process had in training, and in how many batches."""
        self.dense = 0
        """Of the batches, those of the dense phase."""
        self.uncounted = 0
        """Batches before these, of a run that an older zoo began."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained, describe the run to TensorBoard, and start the clock."""
        assert isinstance(pl_module, ZooModule)
        about = pl_module.describe()
        if trainer.is_global_zero:
            say(
                f"{about['parameterization']} in {len(zoo_layers(pl_module.net))} layers: "
                f"{about['coefficients']:,} coefficients for {about['replaced']:,} weights\n"
                f"trainable parameters: {about['trainable']:,}{_after_dense(pl_module)}"
            )
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            layers = zoo_layers(pl_module.net)
            facts = self._hyperparameters(trainer, pl_module)
            tensorboard.log_run(trainer.logger, list(layers), facts, are_updates(layers))
        self.started = time.perf_counter()
        self.before = self.seconds
        self.first_step = trainer.global_step
        if not self.batches:
            self.uncounted = trainer.global_step * trainer.accumulate_grad_batches

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an epoch without a batch: where steps are what ends a run, it would have no end.

        Raises:
            UserError: naming the data.
        """
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            raise UserError(
                f"{type(trainer.datamodule).__name__}.train_dataloader gives no batch in epoch "  # type: ignore[attr-defined]
                f"{trainer.current_epoch}: return a loader that begins anew in each epoch"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the clock and the rows, for checkpoints."""
        assert isinstance(pl_module, ZooModule)
        self.seconds = self.before + time.perf_counter() - self.started
        self.rows += pl_module.batch_rows(batch)
        self.batches += 1
        self.dense += is_dense(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and print the summary."""
        assert isinstance(pl_module, ZooModule)
        self.seconds = self.before + time.perf_counter() - self.started
        if not trainer.is_global_zero:
            return
        summary = self.summarize(trainer, pl_module)
        logger = trainer.logger
        if isinstance(logger, TensorBoardLogger):
            for tag in tensorboard.METRICS:
                if summary[tag] is not None:
                    logger.experiment.add_scalar(f"hp/{tag}", summary[tag], trainer.global_step)
        folder = Path(logger.log_dir) if logger is not None and logger.log_dir else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        print(render(summary, folder))

    def is_written(self, trainer: Trainer) -> bool:
        """Tell whether the run's folder, if there is one, has the summary of this step."""
        if trainer.logger is None or not trainer.logger.log_dir:
            return True
        try:
            return bool(
                read_json(Path(trainer.logger.log_dir) / SUMMARY).get("steps")
                == trainer.global_step
            )
        except UserError:
            return False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics of `zoo validate`."""
        if trainer.state.fn == "validate":
            self._print_metrics(trainer, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics of `zoo test`."""
        self._print_metrics(trainer, "test/")

    def _print_metrics(self, trainer: Trainer, stage: str) -> None:
        metrics = {
            tag: value.item()
            for tag, value in trainer.callback_metrics.items()
            if tag.startswith(stage)
        }
        if trainer.is_global_zero:
            print(aligned(metric_rows(metrics, stage)))

    def summarize(self, trainer: Trainer, module: ZooModule) -> dict[str, Any]:
        """Return everything that the run can say of itself, as plain values."""
        metrics = {
            tag: value.item()
            for tag, value in trainer.callback_metrics.items()
            if tag.startswith("val/")
        }
        checkpoint = _find(trainer, Checkpoint)
        ranks, allocator = _find(trainer, StableRank), _find(trainer, RankAllocator)
        config = module.optimizer_config
        data = trainer.datamodule  # type: ignore[attr-defined]
        taken, seconds = trainer.global_step - self.first_step, self.seconds - self.before
        whole = identity.global_batch(identity.batch(module))
        return {
            "task": type(module).__name__,
            **(
                {"data": data.headline(), **data.facts(), "data_name": data.name}
                if isinstance(data, ZooData)
                else {}
            ),
            "network": module.network_name(),
            **module.describe(),
            "arguments": module.arguments(),
            "targets": module.targets,
            "loss": metrics.get("val/loss"),
            "score": metrics.get("val/score"),
            "monitor": checkpoint.metric(module) if checkpoint else module.monitor,
            "mode": ("min" if checkpoint.less_is_better(module) else "max") if checkpoint else None,
            "best": checkpoint.best if checkpoint else None,
            "best_step": checkpoint.best_step if checkpoint else None,
            "metrics": metrics,
            "stable_rank": ranks.mean if ranks else None,
            **({"ranks": allocator.ranks()} if allocator else {}),
            "updates": are_updates(zoo_layers(module.net)),
            "seed": module.seed,
            "steps": trainer.global_step,
            "optimizer": config.settings(),
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "global_batch": whole,
            "epoch_steps": _epoch_steps(trainer, data, whole),
            "identity": identity.identity(module),
            "cost": self._cost(trainer, module),
            "seconds": round(self.seconds, 2),
            "steps_per_second": round(taken / seconds, 3) if taken else 0.0,
            "callback_seconds": {
                type(c).__name__: round(c.seconds, 3)
                for c in trainer.callbacks  # type: ignore[attr-defined]
                if isinstance(c, SpectrumCallback)
            },
            "resumed_at": self.first_step or None,
            "device": device_name(trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                **{name: _version(name) for name in ("zoo", *LIBRARIES)},
            },
            "command": " ".join(["zoo", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _cost(self, trainer: Trainer, module: ZooModule) -> dict[str, int | None] | None:
        """Return what the linear layers take, a token and in the whole run (`cost_facts`).

        None, with a note, where a class of a user's own does not say it right: the run is over.
        """
        rows = round(self.rows / self.batches) if self.batches else None
        batches = (self.batches + self.uncounted) * trainer.world_size
        tokens = self.rows * batches // self.batches if self.rows else None
        dense = self.rows * self.dense * trainer.world_size // self.batches if self.batches else 0
        try:
            return cost_facts(module.net, rows, trainer.precision, tokens, dense)
        except Exception as error:
            say(f"zoo: note: the cost of the network is not known: {error}")
            return None

    def _hyperparameters(self, trainer: Trainer, module: ZooModule) -> dict[str, object]:
        """Return the same keys in every run: TensorBoard takes its columns from one of them."""
        about, config = module.describe(), module.optimizer_config
        data = trainer.datamodule  # type: ignore[attr-defined]
        arguments = {key: value for key, value in module.arguments().items() if value is not None}
        return {
            "arguments": ", ".join(f"{key}={value}" for key, value in arguments.items()),
            "task": type(module).__name__,
            "data": data.name if isinstance(data, ZooData) else "",
            "parameterization": about["parameterization"],
            "trainable": about["trainable"],
            "ratio": round(about["coefficients"] / max(1, about["replaced"]), 4),  # type: ignore[operator, call-overload]
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "steps": trainer.max_steps,
            "seed": module.seed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds trained so far, and what was seen in them."""
        seen = {name: getattr(self, name) for name in COUNTED}
        return {"seconds": self.seconds, **seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds = float(state_dict["seconds"])
        for name in COUNTED:  # an older zoo wrote none of them
            setattr(self, name, int(state_dict.get(name, 0)))


def _after_dense(module: ZooModule) -> str:
    """Say from which step on that is trained, where others come before."""
    return f", after {module.dense_steps:,} steps of dense weights" if is_dense(module) else ""


def metric_rows(metrics: dict[str, float], stage: str) -> dict[str, str]:
    """Write the metrics of a stage, `val/` or `test/`, as they stand in a table."""
    rows = {
        tag.removeprefix(stage).replace("_", " "): f"{value:.4f}" for tag, value in metrics.items()
    }
    long = {"val/": "validation loss", "test/": "test loss"}[stage]
    return {long if name == "loss" else name: value for name, value in rows.items()}


def aligned(rows: dict[str, str]) -> str:
    """Set names and values in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def render(summary: dict[str, Any], folder: Path | None) -> str:
    """Write the summary as a table that fits 80 columns."""
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    rows = metric_rows(summary["metrics"], "val/")
    if summary["best"] is not None:
        name = summary["monitor"].removeprefix("val/").replace("_", " ")
        rows[f"best {name}"] = f"{summary['best']:.4f} at step {summary['best_step']:,}"
    counts = (summary["trainable"], summary["replaced"], summary["total"])
    rows["trainable / replaced / total"] = " / ".join(f"{count:,}" for count in counts)
    if summary["stable_rank"] is not None:
        of = " of dW" if summary["updates"] else ""
        rows["mean stable rank"] = f"{summary['stable_rank']:.2f}{of}"
    rows["wall time"] = f"{minutes}:{seconds:02d} min, {summary['steps_per_second']:.1f} steps/s"
    if "data" in summary:
        rows["data"] = summary["data"]
    if folder is not None:
        where = _relative(folder)
        rows["run"] = str(where)
        rows["look"] = f"tensorboard --logdir {where.parent.parent}"
    return "\n" + aligned(rows)


def _relative(folder: Path) -> Path:
    try:
        return folder.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):  # the current folder may be gone by now
        return folder


def _find(trainer: Trainer, kind: type[Any]) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def _epoch_steps(trainer: Trainer, data: object, global_batch: int | None) -> int | None:
    """Count the steps of a pass over the training data, as the data says or its loader."""
    told = data.epoch_steps(global_batch) if isinstance(data, ZooData) and global_batch else None
    if told is not None or not math.isfinite(trainer.num_training_batches):
        return told
    return max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
