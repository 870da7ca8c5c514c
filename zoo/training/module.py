"""The base of every task: a LightningModule that converts a network, optimizes it fairly and reports what it did."""

import dataclasses
import functools
import inspect
import math
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from zoo.bases.masks import restore
from zoo.bases.seeds import stream_seed
from zoo.errors import UserError
from zoo.files.flat import Flat
from zoo.files.tensors import write_tensors
from zoo.layers.batched import build_together
from zoo.layers.convert import (
    ParameterizationFactory,
    Start,
    convert,
    counts,
    factory_class,
    merge,
    zoo_layers,
)
from zoo.parameterizations.budget import Budget
from zoo.training import identity, optimizers
from zoo.training.data import ZooData
from zoo.training.optimizers import OptimizerConfig, warmup_cosine

__all__ = ["ZooData", "ZooModule", "fingerprints", "plain"]


FROZEN = ""
"""Stands among the hashes of layers for all that is frozen."""


class ZooModule(LightningModule, ABC):
    """A task: a network whose chosen linear layers live in a parameterization.

    A subclass builds its network as `net`, hands it to `parameterize` and writes the usual steps.
    It logs `val/loss`; where something else decides, it logs that as `val/score`, more is better,
    and says so in `monitor`.

    Args:
        parameterization: makes the weight of a layer from its (out_features, in_features).
        targets: globs of the layers to convert (`zoo.layers.names.matches`); None takes
            `default_targets`.
        overrides: other parameterizations for layers that match a glob.
        optimizer: how to train.
        seed: of everything random in training, with the step and the rank.
        budget: of all targets together; the parameterization then has none of its own.
        recompute: build every W again in backward rather than keep it
            (`zoo.layers.linear.ZooLinear`).
    """

    monitor: str = "val/loss"
    """The metric whose best value makes `best.ckpt`: the least of a loss, the largest of a score."""
    default_targets: tuple[str, ...] = ("*",)
    from_data: tuple[str, ...] = ()
    """Settings that come from the data; a checkpoint with others is refused."""
    sources: tuple[str, ...] = ()
    """Settings that say where a pretrained network is; what came of them is in `network_identity`."""
    of_method: tuple[str, ...] = ("parameterization", "targets", "overrides", "budget", "optimizer")
    """Settings that make a method; the others are conditions, which runs that are compared share."""
    neutral: tuple[str, ...] = ("recompute",)
    """Settings that change no result."""
    started_from: str | None = None
    """The hash of the weights that training started from, where a checkpoint gave them (`start_from`)."""
    origin: dict[str, Any] | None = None
    """Of a checkpoint's weights: what the run said of itself (`identity.record`), until it was compared."""
    resumed: dict[str, Any] | None = None
    """The same, of the run that a fit goes on with."""
    before: Mapping[str, Flat] = {}
    """What was another in training before the run went on, by part of the identity (`zoo.training.identity.before`)."""
    trained_on: dict[str, object] | None = None
    """What its data was as a fit began, whatever becomes of a file meanwhile."""
    net: nn.Module
    start: Start = "random"
    """What W was before training, as `parameterize` was told (`zoo.layers.convert.convert`)."""
    drawn: frozenset[str] = frozenset()
    """What was drawn at random, as no file of a pretrained network has it, by name in the state dict: it is in every
    checkpoint, frozen or not."""

    def __init__(
        self,
        parameterization: ParameterizationFactory,
        targets: list[str] | None = None,
        overrides: dict[str, ParameterizationFactory] | None = None,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.parameterization = parameterization
        self.targets = list(self.default_targets) if targets is None else targets
        if not self.targets:
            raise UserError(
                "targets is empty: name the layers to convert, as in --model.targets '[\"blocks.*\"]'"
            )
        self.overrides = overrides or {}
        self.budget = budget
        self.recompute = recompute
        self.optimizer_config = optimizer or OptimizerConfig()
        self.seed = seed
        self._gradients: tuple[list[str], Tensor] | None = None

    def save_settings(self) -> None:
        """Keep the subclass' arguments in every checkpoint as plain data; call it in `__init__`, after super's.

        `load_from_checkpoint(path, weights_only=True)` rebuilds the task from them, wherever it was
        built.
        """
        frame = inspect.currentframe()
        assert frame is not None
        self.save_hyperparameters(frame=frame.f_back)
        for key, value in self.hparams.items():
            self.hparams[key] = plain(value)
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"

    def parameterize(
        self, network: nn.Module, start: Start = "random", scale: float = 1.0
    ) -> nn.Module:
        """Convert the chosen layers of a network (`zoo.layers.convert.convert`); those alike are built together."""
        self.start = start
        factory, targets, overrides = self.parameterization, self.targets, self.overrides
        network = convert(
            network, factory, targets, overrides, start, scale, self.budget, self.recompute
        )
        build_together(network)
        return network

    def describe(self) -> dict[str, object]:
        """The parameterization and the counts that a run's summary and hyperparameters state."""
        names = dict.fromkeys(
            type(layer.parameterization).__name__ for layer in zoo_layers(self.net).values()
        )
        return {"parameterization": "+".join(names), **counts(self.net)}

    def arguments(self) -> dict[str, object]:
        """The parameterization's own settings, as given."""
        return dict(self.hparams["parameterization"].get("init_args") or {})

    # ---- Identity --------------------------------------------------------------------------------

    def zoo_data(self) -> ZooData | None:
        """The data of the trainer that has this task."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data if isinstance(data, ZooData) else None

    def network_name(self) -> str:
        """What the network is called in tables."""
        return type(self).__name__

    def network_identity(self) -> dict[str, str]:
        """What tells a pretrained network from others, by name; nothing of one that is trained from scratch."""
        return {}

    def on_fit_start(self) -> None:
        """Refuse to go on with other data, or another global batch, than the checkpoint was trained on.

        A task that was loaded from a checkpoint, and is fitted without one, begins a new run with
        its weights.
        """
        if self.origin is not None and self.trainer.ckpt_path is None:
            self._starts_here()
        self._compare_origin()
        if (data := self.zoo_data()) is not None:
            self.trained_on = data.identity()

    def on_validation_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def on_test_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def on_predict_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def _compare_origin(self) -> None:
        if self.origin is not None:
            identity.check_data(self, self.origin)
            self.origin = None

    # ---- Optimization ----------------------------------------------------------------------------

    def own_rates(self) -> dict[nn.Parameter, float]:
        """Peak learning rates of what is not trained at the optimizer's `lr`."""
        return {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by seed, batch and rank, so that a resumed run draws what the uninterrupted one drew."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        seed = stream_seed(self.seed, "batch", number, self.global_rank)
        # Only what draws here: torch.manual_seed keeps a stack trace for every kind of device that
        # is not there.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The config's optimizer (`zoo.training.optimizers.build`); the schedule runs to the trainer's last step."""
        config = self.optimizer_config
        fused = (
            self.trainer.scaler is None
        )  # a fused step unscales float16's gradients itself, after they were clipped
        optimizer = optimizers.build(self, config, self.own_rates(), fused)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(
            optimizer,
            lambda step: warmup_cosine(step, steps, config.warmup_steps(steps), config.final_lr),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def log_loss(self, loss: Tensor) -> None:
        """Log the loss of a training step as `train/loss`, at the first step and at those whose logs are written.

        What Lightning does to log a number takes as long as 1 % of a step of the character model.
        """
        trainer = self._trainer
        if (
            trainer is None
            or trainer.global_step == 0
            or trainer._logger_connector.should_update_logs
        ):
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)

    def on_train_start(self) -> None:
        """Let the config decide rates and decay, also where a checkpoint brought its own."""
        if self.trainer.global_step:
            self.before = identity.before(self, self.resumed)
        config, schedules = (
            self.optimizer_config,
            [each.scheduler for each in self.trainer.lr_scheduler_configs],
        )
        if len(self.trainer.optimizers) != 1 or [type(each) for each in schedules] != [LambdaLR]:
            raise UserError(
                f"{type(self).__name__}.configure_optimizers must return what ZooModule's does, one "
                "optimizer with its schedule: leave it out, and give --model.optimizer"
            )
        (optimizer,), (schedule,) = self.trainer.optimizers, schedules
        assert isinstance(schedule, LambdaLR)
        fresh = optimizers.groups_of(self, config, self.own_rates())
        schedule.base_lrs = [group["lr"] for group in fresh]
        share = schedule.lr_lambdas[0](schedule.last_epoch)
        for group, mine in zip(optimizer.param_groups, fresh, strict=True):
            group.update(
                initial_lr=mine["lr"],
                lr=mine["lr"] * share,
                weight_decay=mine["weight_decay"],
                betas=(config.beta1, config.beta2),
            )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm, and stop before a step with a gradient that is not finite.

        Raises:
            UserError: naming the step and the layer with the largest gradient; not in float16,
                whose scaler skips it.
        """
        grads = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        if not grads:
            raise UserError(
                f"{type(self).__name__}.training_step gave no loss of what is trained: return the loss"
            )
        norms = torch.stack(torch._foreach_norm(list(grads.values())))
        total = norms.norm()
        if not torch.isfinite(total):
            if getattr(self._trainer, "scaler", None) is not None:
                return
            raise UserError(self._diverged(list(grads), norms))
        self._gradients = list(grads), norms
        clip = self.optimizer_config.clip if gradient_clip_val is None else gradient_clip_val
        if clip is not None and (factor := clip / (total + 1e-6)) < 1:
            torch._foreach_mul_(list(grads.values()), factor)

    def _diverged(self, names: list[str], norms: Tensor) -> str:
        """The step, and the layer whose gradient was largest: the last finite ones, where all are NaN now."""
        if norms.isnan().all() and self._gradients is not None:
            names, norms = self._gradients
        name = names[int(norms.nan_to_num(nan=-1.0, posinf=math.inf).argmax())].removeprefix("net.")
        layer = name.split(".parameterization.")[0].removesuffix(".weight").removesuffix(".bias")
        return (
            f"the loss is not finite at step {self.global_step}; the largest gradient is in {layer}. "
            f"Lower --model.optimizer.lr (it is {self.optimizer_config.lr:g}), or raise --model.optimizer.warmup"
        )

    # ---- Checkpoints -----------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without what is frozen: coefficients, and what else is trained."""
        frozen = self._frozen_names()
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def export_dense(self, folder: Path) -> None:
        """Write the network with plain weights into an empty folder; here as `model.safetensors`."""
        write_tensors(folder / "model.safetensors", merge(self.net).state_dict())

    def backbone_state(self) -> dict[str, Tensor] | None:
        """What the files of a pretrained network hold of `net`, by name before conversion; None if there are none."""
        return None

    def start_from(self, checkpoint: dict[str, Any]) -> None:
        """Begin a new run, of whatever data, with the weights of a checkpoint that was checked and made whole."""
        self.load_state_dict(checkpoint["state_dict"])
        self._starts_here()

    def _starts_here(self) -> None:
        """Say of the run that begins that it has started from these weights."""
        trained = self.trained_state()
        self.started_from = identity.digest(*(trained[name] for name in sorted(trained)))
        self.origin = None

    def peft_fields(self) -> dict[str, str]:
        """What a peft adapter's config says of the network: `task_type` and `base_model_name_or_path`."""
        return {}

    def _frozen_names(self) -> set[str]:
        named = self.named_parameters(remove_duplicate=False)
        return {name for name, p in named if not p.requires_grad} - self.drawn

    def _frozen_digest(self) -> str | None:
        """The hash of what a checkpoint leaves out and the constructor makes again; None where a backbone has it."""
        names = self._frozen_names()
        left_out = [p for name, p in self.named_parameters() if name in names]
        if self.network_identity() or not left_out or any(p.is_meta for p in left_out):
            return None
        return identity.digest_of_weights(left_out)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen; add the task's class, the hash of what is rebuilt from seeds, and the identity."""
        checkpoint["state_dict"] = self.trained_state()
        if self._trainer is not None:
            checkpoint[identity.KEY] = identity.record(self)
        checkpoint["zoo_task"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["zoo_fingerprints"] = fingerprints(self.net)
        if (frozen := self._frozen_digest()) is not None:
            checkpoint["zoo_fingerprints"][FROZEN] = frozen

    def check_from_data(self, checkpoint: Mapping[str, Any]) -> None:
        """Raises UserError if a setting in `from_data` is another one."""
        for key in self.from_data:
            if checkpoint.get("hyper_parameters", {}).get(key) != self.hparams[key]:
                raise UserError(
                    f"the checkpoint's {key} is not that of the data here; use the data it was trained on"
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse coefficients of another basis and a model of other data; add what is frozen.

        Raises:
            UserError: if a seeded basis was rebuilt differently here, a setting in `from_data` is
                another one, or so is the pretrained network.
        """
        self.origin = self.resumed = checkpoint.get(identity.KEY)
        identity.check_network(self, self.origin)
        started = self.origin["identity"]["method"].get("started_from") if self.origin else None
        self.started_from = started if isinstance(started, str) else None
        self.check_from_data(checkpoint)
        mine, theirs = fingerprints(self.net), dict(checkpoint.get("zoo_fingerprints", {}))
        if (frozen := theirs.pop(FROZEN, None)) is not None and self._frozen_digest() not in (
            None,
            frozen,
        ):
            raise UserError(
                f"the frozen weights are not those that the checkpoint was trained on: "
                f"{type(self).__name__} makes others at each start. Read them from a file, draw them from "
                "the seed, or have checkpoints hold them: self.drawn = frozenset of their names"
            )
        for layer, fingerprint in theirs.items():
            if mine.get(layer, fingerprint) != fingerprint:
                raise UserError(
                    f"{layer}: the checkpoint's coefficients belong to another basis (hash {fingerprint}, here "
                    f"{mine[layer]}); train and load with the same parameterization, seed and selection"
                )
        here, frozen = self.state_dict(), self._frozen_names()
        for name, kept in checkpoint.pop("masked", {}).items():
            if name not in here or tuple(here[name].shape) != kept.shape:
                raise UserError(
                    f"the masked {name} of the checkpoint has no matrix of shape {kept.shape} here"
                )
            try:
                checkpoint["state_dict"][name] = restore(kept)
            except ValueError as error:
                raise UserError(
                    f"the masked {name} of the checkpoint is damaged ({error}): use another copy"
                ) from None
        trained = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in here
        }
        if any(
            tensor.dtype == torch.float64 != here[name].dtype for name, tensor in trained.items()
        ):
            self.double()  # a run in double precision: Lightning makes the module double only after it was loaded
            here = self.state_dict()
        checkpoint["state_dict"] = {name: here[name] for name in frozen} | checkpoint["state_dict"]


def plain(value: Any) -> Any:
    """A setting as a config would write it: classes and partials by path, dataclasses and mappings as dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, functools.partial | type):
        cls: Any = factory_class(value)
        path = f"{cls.__module__}.{cls.__qualname__}"
        return {"class_path": path, "init_args": dict(getattr(value, "keywords", {}))}
    return value


def fingerprints(model: nn.Module) -> dict[str, str]:
    """The hash of every layer's fixed bases and positions."""
    return {name: layer.parameterization.fingerprint() for name, layer in zoo_layers(model).items()}
