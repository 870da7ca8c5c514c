"""SIGTERM and a cluster's SIGUSR1 end a run as Ctrl-C does, after a step and its checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.training.callbacks.checkpoint import Checkpoint, validation_follows

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What ends a run.

A shell or a scheduler sends the former, and SLURM the latter if a job asks to be told early.
"""


ECHO = 3.0
"""Seconds within which a process may be told twice of one signal.

It is told as one of its group, and by the process above.
"""


class Stopped(Exception):
    """A run that was asked to end has ended.

    Args:
        signum: of the signal that asked.
        status: of this process; 0 in one that another process waits for, and would take for a
            crash.
    """

    def __init__(self, signum: int, status: int | None = None) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.status = 128 + signum if status is None else status


class Stop(Callback):
    """Writes `last.ckpt` and stops after a signal, at the first step that all processes agree on.

    A handler does nothing but remember: what Lightning does inside its own, a broadcast, waits for
    good where it meets a reduction of DDP's. All ranks ask each other at the same places instead,
    after each step.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.since = 0.0
        self.training = False
        self.trainer: Trainer | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have the signals come here, and give them back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        """End at once before training, and at a second signal that is not the first once more."""
        first, now = self.asked is None, time.monotonic()
        launcher = getattr(getattr(self.trainer, "strategy", None), "launcher", None)
        if first:
            self.asked, self.since = number, now
            if launcher is not None:
                launcher.kill(number)  # the processes that this one has started
        if now - self.since > ECHO or not (self.training or getattr(launcher, "procs", None)):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen in a process that was started for this rank alone."""
        self.trainer = trainer
        if threading.current_thread() is threading.main_thread() and stage == "fit":
            for number in SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._remember)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that from here on there is something to keep."""
        self.training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that from here on the run is whole."""
        self.training = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a step, unless its validation comes first."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not validation_follows(trainer):
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a step, before its validation, which then comes first when the run goes on."""
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Stop within a validation of one process; ranks may have different numbers of batches."""
        if trainer.state.fn == "fit" and trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a validation."""
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            return
        checkpoint = next((c for c in trainer.callbacks if isinstance(c, Checkpoint)), None)  # type: ignore[attr-defined]
        if checkpoint is not None:
            checkpoint.save_last(trainer)
        trainer.strategy.barrier("stopped")
        raise Stopped(self.asked or signal.SIGTERM, None if trainer.local_rank == 0 else 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "trainer": None}
