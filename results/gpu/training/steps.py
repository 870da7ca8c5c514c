"""A training step as `zoo fit` takes it, which never waits for the device: it can be a CUDA graph.

A step takes the task's own `training_step`, parameter groups, clipping and AdamW. What Python would
hand to each step lies on the device beforehand: the text, where every window of every step starts,
and the rates of all steps. A counter there says which step it is, so that a replay of the graph is
the next one.

On a CPU it is Lightning's loop to the bit (`tests/results/test_gpu_characters.py`). On a GPU the
rate is a float32, as the kernel of AdamW takes it from the device. Gradients are multiplied by
min(1, clip / norm) also where that is 1, for a branch would ask the device; for the same reason a
gradient that is not finite stops nothing, and the loss is NaN from then on. Dropout is not seeded
by the step: the shipped models have none.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from results.gpu.frame.clock import Call, captured
from tasks.text.data import TextData
from tasks.text.module import LanguageModel
from zoo.bases.seeds import generator
from zoo.layers.convert import zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import Dense
from zoo.training import optimizers
from zoo.training.optimizers import warmup_cosine


@lru_cache(maxsize=8)
def window_starts(
    characters: int, steps: int, batch_size: int, block_size: int, seed: int
) -> Tensor:
    """Draw where the windows of every step start, as `WindowLoader` does.

    Returns (steps, batch_size), int64.

    A run of as many steps is one epoch of that loader, so there is no end of an epoch to follow.
    """
    last = characters - block_size
    return torch.stack(
        [
            torch.randint(last, (batch_size,), generator=generator(seed, "batch", step))
            for step in range(steps)
        ]
    )


class Run:
    """The training of one network, step by step, with nothing read back.

    Args:
        model: the task on its device, as it is before training.
        ids: the text to train on; (ids,).
        starts: of the windows of each step, of block_size + 1 ids; (steps, batch).
        block_size: ids per window.
        autocast: whether products are bfloat16, as with `--trainer.precision bf16-mixed`.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Tensor,
        starts: Tensor,
        block_size: int,
        autocast: bool = True,
    ) -> None:
        self.model, self.autocast = model.train(), autocast
        device = next(model.parameters()).device
        vars(model)["log_loss"] = lambda loss: None
        config, steps = model.optimizer_config, len(starts)
        self.optimizer = optimizers.build(model, config, model.own_rates())
        warmup = config.warmup_steps(steps)
        shares = torch.tensor(
            [warmup_cosine(step, steps, warmup, config.final_lr) for step in range(steps)],
            dtype=torch.float64,
        )
        peaks = torch.tensor(
            [group["lr"] for group in self.optimizer.param_groups], dtype=torch.float64
        )
        # On a GPU the kernel of AdamW takes rates of no other dtype than float32.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._rates = (shares[:, None] * peaks).to(device, dtype)  # (steps, groups)
        self._rate = self._rates[:1].clone()
        for group, rate in zip(self.optimizer.param_groups, self._rate[0].unbind(), strict=True):
            group.update(lr=rate, capturable=device.type == "cuda")
        self._clip = config.clip
        self._ids, self._starts = ids.long().to(device), starts.to(device)
        self._window = torch.arange(block_size + 1, device=device)
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.full((steps,), torch.nan, device=device)

    def step(self) -> None:
        """Take the next step."""
        self._rate.copy_(self._rates.index_select(0, self._number))
        starts = self._starts.index_select(0, self._number).view(-1, 1)
        windows = self._ids[starts + self._window]  # (batch, block + 1)
        self.optimizer.zero_grad()
        with self.precision():
            loss = self.model.training_step((windows[:, :-1], windows[:, 1:]), 0)
        loss.backward()
        if self._clip is not None:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            total = torch.stack(torch._foreach_norm(grads)).norm()
            torch._foreach_mul_(grads, (self._clip / (total + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        self.losses.index_copy_(0, self._number, loss.detach()[None])
        self._number += 1

    @property
    def taken(self) -> int:
        """The steps that were taken, also those that `captured` takes before there is a graph."""
        return int(self._number)

    def precision(self) -> torch.autocast | nullcontext[None]:
        """Return the context of forward passes."""
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.losses.device.type, torch.bfloat16)

    @torch.no_grad()
    def validate(self, windows: tuple[Tensor, Tensor, Tensor]) -> float:
        """Return the loss over all windows of `TextData.val_dataloader` at once, in nats.

        Args:
            windows: inputs, targets and characters; (windows, block_size) each, on the device.
        """
        self.model.eval()
        with self.precision():
            self.model.validation_step(windows, 0)
        loss = self.model.score.compute()["loss"].item()
        self.model.score.reset()
        self.model.train()
        return loss


# ---- Several runs side by side -------------------------------------------------------------------


def one_graph(runs: Sequence[Run]) -> Call:
    """Capture a step of every run as branches of one CUDA graph, worked on side by side."""
    streams = [torch.cuda.Stream() for _ in runs]

    def step() -> None:
        current = torch.cuda.current_stream()
        for run, stream in zip(runs, streams, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                run.step()
        for stream in streams:
            current.wait_stream(stream)

    return captured(step)


def graph_each(runs: Sequence[Run]) -> Call:
    """Capture a step of every run, each as a CUDA graph on a stream of its own."""
    replays = [captured(run.step) for run in runs]
    streams = [torch.cuda.Stream() for _ in runs]
    torch.cuda.synchronize()

    def step() -> None:
        for replay, stream in zip(replays, streams, strict=True):
            with torch.cuda.stream(stream):
                replay()

    return step


def eager(runs: Sequence[Run]) -> Call:
    """Return a call that takes a step of every run, one after the other, launched from Python."""

    def step() -> None:
        for run in runs:
            run.step()

    return step


LOOPS = {
    "one graph, a branch for each seed": one_graph,
    "a graph for each seed": graph_each,
    "eager": eager,
}
"""In the order in which they are tried."""


# ---- Lightning's loop, to compare with -----------------------------------------------------------


class _First(Callback):
    """Takes the losses of the first steps, and stops there."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.losses: list[Tensor] = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keep the loss."""
        assert isinstance(outputs, dict)
        self.losses.append(outputs["loss"].detach())
        trainer.should_stop = len(self.losses) >= self.count


def lightning_losses(
    model: LanguageModel, data: TextData, steps: int, count: int, device: str
) -> Tensor:
    """Return the first losses of a run of Lightning's; (count,), on the CPU.

    The task's and the data's own hooks are at work.

    Args:
        model: the task, as it is before training.
        data: with the seed of the run.
        steps: of the whole run, by which rates go.
        count: steps that are taken.
        device: "cuda" or "cpu".
    """
    first = _First(count)
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        precision="bf16-mixed",
        callbacks=[first],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    return torch.stack(first.losses).float().cpu()


# ---- What a step takes at least ------------------------------------------------------------------


def operations(model: LanguageModel, tokens: int, context: int) -> float:
    """Count the operations of both passes, a multiply-add being two.

    They are 6 N T, and 6 T C w for each attention.

    N counts the numbers that rows are multiplied by: a matrix, where W is built; the coefficients,
    where it is not (low rank, and `BlockDCT` for few coefficients). Attention to C / 2 ids on
    average multiplies twice by C w / 2, forward, and twice that backward. What building W takes,
    and all that is no product, is not counted: nobody must do it.

    Args:
        model: a network with `blocks`, in the precision that holds now.
        tokens: T.
        context: C.
    """
    layers = zoo_layers(model)
    multiplied = sum(
        math.prod(layer.parameterization.shape)
        if _is_matrix(layer)
        else layer.parameterization.num_trainable
        for layer in layers.values()
    )
    multiplied += sum(
        layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear)
    )
    network: Any = model.net
    width = network.token.embedding_dim
    return 6.0 * tokens * (multiplied + len(network.blocks) * context * width)


def _is_matrix(layer: ZooLinear) -> bool:
    return isinstance(layer.parameterization, Dense) or layer.parameterization.builds_weight


def moved(model: LanguageModel) -> int:
    """Count the bytes that AdamW moves at least.

    A gradient is written and read; a parameter and its two moments are read and written.
    """
    return 8 * 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
