"""Lightning's trainer with zoo's ways to validate, to go on and to stop."""

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.data_connector import _DataConnector
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from zoo.errors import UserError
from zoo.training.callbacks import RunSummary
from zoo.training.callbacks.progress import say
from zoo.training.checkpoint_files import CheckpointFiles

STARTED = {"SLURM_STEP_ID", "SLURM_STEPID", "TORCHELASTIC_RUN_ID"}
"""Variables of processes that srun or torchrun has started."""


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop, which also validates as an epoch or training ends, at any interval.

    What it was stopped in is in its state: a run that goes on from a step whose validation had not
    ended validates there first, from the first batch on, and one that goes on from after the last
    step validates again, for its summary. Lightning would skip both.
    """

    validated = -1
    """The step whose validation has ended last."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        last_step = self.global_step == self.max_steps and not self._should_accumulate()
        last = self.batch_progress.is_last_batch or last_step
        return super()._should_check_val_fx(data_fetcher) or (
            last and self._should_check_val_epoch()
        )

    def advance(self, data_fetcher: Any) -> None:
        """Train on a batch; a run that goes on may validate first, in `on_advance_end`."""
        if self.restarting:
            due = self._should_check_val_fx(data_fetcher)
            # As it was there, whenever the checkpoint was taken.
            self._batches_that_stepped = self.global_step - due
            if due:
                self._skip_next_val = (
                    self.validated == self.global_step and not self._is_training_done
                )
                self.val_loop.restarting = False
                return
        super().advance(data_fetcher)

    def finish(self, data_fetcher: Any) -> None:
        """Do what comes after the last step."""
        self._batches_that_stepped = self.global_step - 1
        self.val_loop.restarting = False
        self.on_advance_end(data_fetcher)
        self._restarting = False

    def _broadcast_sigterm_tensor(self) -> None:
        """Do nothing: ranks agree on a stop in `zoo.training.callbacks.Stop`, at one place."""

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validated": self.validated}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self.validated = state_dict.get("validated", -1)


class FitLoop(_FitLoop):
    """Lightning's loop, which also ends a run that stopped between last step and summary."""

    epoch_loop: EpochLoop

    def run(self) -> None:
        """Train; or validate and leave, if all steps are taken and only the summary is missing."""
        self.setup_data()
        over = self._loaded_from_state_dict and self.done
        if over and not self._unfinished():
            if self.trainer.is_global_zero:
                say(
                    f"already at step {self.trainer.global_step}: give more --trainer.max_steps to "
                    "go on"
                )
            return
        if not over:
            super().run()
            return
        self.reset()
        self.on_run_start()
        assert self._data_fetcher is not None
        self.epoch_loop.finish(self._data_fetcher)
        progress: Any = self.epoch_progress.current
        if progress.processed < progress.ready:
            self.on_advance_end()
        self._restarting = False
        self.on_run_end()

    def _unfinished(self) -> bool:
        summary = next((c for c in self.trainer.callbacks if isinstance(c, RunSummary)), None)  # type: ignore[attr-defined]
        missing = summary is not None and not summary.is_written(self.trainer)
        return bool(self.trainer.strategy.broadcast(missing))


class CheckpointConnector(_CheckpointConnector):
    """Lightning's connector, which calls a checkpoint damaged if its parts do not fit.

    It looks for none in the current folder: Lightning takes any `hpc_ckpt_*.ckpt` there for that of
    a requeued job.
    """

    @property
    def _hpc_resume_path(self) -> str | None:
        return None

    def _restore_modules_and_callbacks(
        self, checkpoint_path: Any = None, weights_only: bool | None = None
    ) -> None:
        with _damaged(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with _damaged(self._ckpt_path):
            found = self._loaded_checkpoint
            for key, wanted in (
                (
                    ("optimizer_states", self.trainer.optimizers),
                    ("lr_schedulers", self.trainer.lr_scheduler_configs),
                )
                if found
                else ()
            ):
                if self.trainer.state.fn == "fit" and len(found[key]) != len(wanted):
                    raise ValueError(f"{len(found[key])} {key} for {len(wanted)}")
            super().restore_training_state()
            for optimizer in self.trainer.optimizers:
                _check_moments(optimizer)


def _check_moments(optimizer: Optimizer) -> None:
    """Raise ValueError for a state that is not finite or of another shape than its parameter."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{key} is {tuple(value.shape)} for {tuple(parameter.shape)}")
                if not value.isfinite().all():
                    raise ValueError(f"{key} holds NaN or infinite values")
            elif not isinstance(value, int | float | NoneType):
                raise ValueError(f"{key} is a {type(value).__name__}")


@contextmanager
def _damaged(path: Any) -> Iterator[None]:
    """Say of whatever goes wrong inside that a checkpoint is damaged."""
    wrong = (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
        AssertionError,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is about to be refused
            yield
    except UserError:
        raise
    except wrong as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(f"checkpoint '{path}' is damaged ({reason}): use another copy") from error


class DataConnector(_DataConnector):
    """Lightning's connector, for which a loader's arguments are the same by place and by name.

    It makes loaders anew for prediction, with arguments by name, and stumbles over a batch size
    that was given by its place.
    """

    def _prepare_dataloader(self, dataloader: Any, shuffle: bool, mode: Any) -> Any:
        values, names = (
            getattr(dataloader, "__pl_saved_args", ()),
            getattr(dataloader, "__pl_saved_arg_names", ()),
        )
        if len(values) == len(names) and isinstance(dataloader, DataLoader):
            named = {
                **dict(zip(names, values, strict=True)),
                **getattr(dataloader, "__pl_saved_kwargs", {}),
            }
            for key, value in (("args", ()), ("arg_names", ()), ("kwargs", named)) if names else ():
                object.__setattr__(dataloader, f"__pl_saved_{key}", value)
        return super()._prepare_dataloader(dataloader, shuffle, mode)


class SignalConnector(_SignalConnector):
    """Lets `zoo.training.callbacks.Stop` have the signals, and requeues no job unasked."""

    def register_signal_handlers(self) -> None:
        """Do nothing."""


def environment(plugins: Any) -> list[Any] | None:
    """Return the plugins of a trainer in a SLURM job that was not started by srun; None elsewhere.

    Lightning takes any process of a job for one of `SLURM_NTASKS`. It is one process, which may
    start others itself.
    """
    if "SLURM_NTASKS" not in os.environ or STARTED & set(os.environ):
        return None
    have = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    return (
        None
        if any(isinstance(each, ClusterEnvironment) for each in have)
        else [*have, LightningEnvironment()]
    )


def keep_buffers(ddp: dict[str, Any]) -> None:
    """Broadcast no buffers in DDP, unless its settings say so: bases are equal on every rank."""
    old, new = "broadcast_buffers", "forward_sync_buffers"  # torch 2.13 renamed it
    if old not in ddp and new not in ddp:
        ddp[new if new in inspect.signature(DistributedDataParallel).parameters else old] = False


def equip(trainer: Trainer, resume: bool) -> None:
    """Give a trainer zoo's loops and files, without Lightning's handlers of signals.

    Args:
        trainer: that has not run yet.
        resume: whether what it is given as a checkpoint is to be gone on from.
    """
    trainer.strategy.checkpoint_io = CheckpointFiles(resume)
    trainer._checkpoint_connector = CheckpointConnector(trainer)
    trainer._data_connector = DataConnector(trainer)
    trainer._signal_connector = SignalConnector(trainer)
    old = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, old.min_epochs, old.max_epochs)
    trainer.fit_loop.epoch_loop = EpochLoop(
        trainer, old.epoch_loop.min_steps, old.epoch_loop.max_steps
    )
    if isinstance(trainer.strategy, DDPStrategy):
        keep_buffers(trainer.strategy._ddp_kwargs)
