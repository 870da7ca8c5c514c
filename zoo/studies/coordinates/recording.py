"""What is recorded of a network as it trains: sizes of weights, gradients, updates and outputs."""

import copy
import math
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from zoo.layers.convert import zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.spectrum import stable_rank
from zoo.training.module import ZooModule

Row = dict[str, Any]
WEIGHTS = (
    "weight",
    "gradient",
    "coefficient_gradient",
    "second_moment",
    "step_update",
    "update",
    "spectral",
    "rounding",
)
"""What is recorded of a parameterized layer besides its output."""
OUTPUTS = ("activation", "moved")
"""What is recorded of an output."""
LAYERS, BLOCKS, LOGITS = "layers", "blocks", "logits"
"""Groups: all parameterized layers; the blocks' outputs (the residual stream); the net's output."""


def rms(x: Tensor) -> float:
    """Return sqrt(mean x^2), in float32 or wider."""
    x = x.detach()
    return float(
        torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
        / math.sqrt(x.numel())
    )


class Coordinates(Callback):
    """Records the first steps of a fit, a row in `rows` for each step and layer.

    Step 0 is before training. A row has step, layer, group, and

        weight                rms(W_t), W the matrix that the layer multiplies by, (m, n)
        gradient              rms(G_t), G = dL/dW = sum over rows of dL/dy^T x, of the batch that
                              made step t, unclipped
        coefficient_gradient  rms(dL/dc), c the coefficients of W(c). By the chain rule dL/dc =
                              J^T G, J = dW/dc. Of K members of an orthonormal basis it is the
                              projection of G: |dL/dc|_F <= |G|_F, and its rms is that of G where
                              G has as much in these K as in any others
        second_moment         sqrt(mean v), v Adam's second moment of the coefficients, without the
                              bias of its start; of the last step. Muon keeps none
        step_update           rms(W_t - W_{t-1})
        update                rms(W_t - W_0)
        spectral              |W_t - W_0|_2 sqrt(n / m): the most that the update adds to the rms
                              of an output, for an input of rms 1 (Yang, Simon and Bernstein, arXiv
                              2310.17813, want it flat); of the last step, as all else it costs is
                              power iteration
        rounding              |W' - W|_F / |W|_F, W' of coefficients and W in bfloat16, W in
                              float64; of the last step
        activation            rms(y_t), the layer's output on the first training batch, at every
                              step
        moved                 rms(y_t - y_0)

    G is taken from x and dL/dy, and so is the same thing for every parameterization; dL/dc is what
    an optimizer sees. Blocks, which are the entries of a `ModuleList`, and the network's output
    have activation and moved only. A batch is (inputs, ...), and the task's `forward` takes the
    inputs.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._outputs: dict[str, Tensor] | None = None
        self._gradients: dict[str, Tensor] = {}
        self._sizes: dict[str, Row] = {}
        self._handles: list[Any] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record step 0, and keep the batch."""
        if self._handles:
            return
        assert isinstance(pl_module, ZooModule)
        layers = zoo_layers(pl_module.net).items()
        self._layers = {name: layer for name, layer in layers if isinstance(layer, ZooLinear)}
        self._inputs, self._step = batch[0], 0
        blocks = {
            name: block
            for name, block in pl_module.net.named_modules()
            if isinstance(pl_module.net.get_submodule(name.rpartition(".")[0]), nn.ModuleList)
        }
        self._groups = (
            dict.fromkeys(self._layers, LAYERS) | dict.fromkeys(blocks, BLOCKS) | {LOGITS: LOGITS}
        )
        for name, module in (self._layers | blocks).items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        with torch.no_grad():
            self._first = self._last = {
                name: _weight(layer) for name, layer in self._layers.items()
            }
        self._start = self._forward(trainer, pl_module)
        self._record(trainer, self._start, {})

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients, before they are clipped."""
        self._sizes = {}
        for name, layer in self._layers.items():
            grads = [
                p.grad.flatten() for p in layer.parameterization.parameters() if p.grad is not None
            ]
            self._sizes[name] = {
                "gradient": rms(self._gradients[name]),
                "coefficient_gradient": rms(torch.cat(grads)),
            }
        self._gradients = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            assert isinstance(pl_module, ZooModule)
            if self._step == trainer.max_steps:
                (optimizer,) = trainer.optimizers
                for name, layer in self._layers.items():
                    self._sizes[name]["second_moment"] = second_moment(layer, optimizer)
                    self._sizes[name]["rounding"] = rounding(layer)
            self._record(trainer, self._forward(trainer, pl_module), self._sizes)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of everything but the rows."""
        for handle in self._handles:
            handle.remove()
        self.__dict__.update(_handles=[], _first={}, _last={}, _start={}, _layers={}, _gradients={})

    def _hook(self, name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._outputs is not None:
                self._outputs[name] = output.detach()
            elif output.requires_grad and isinstance(module, ZooLinear):
                x = inputs[0].detach()
                output.register_hook(lambda dy: self._add(name, x, dy))

        return see

    def _add(self, name: str, x: Tensor, dy: Tensor) -> None:
        gradient = dy.detach().flatten(0, -2).float().mT @ x.flatten(0, -2).float()  # (m, n)
        self._gradients[name] = (
            self._gradients[name] + gradient if name in self._gradients else gradient
        )

    @torch.no_grad()
    def _forward(self, trainer: Trainer, module: ZooModule) -> dict[str, Tensor]:
        """Return outputs by name on the batch that is kept."""
        with _evaluating(module), trainer.precision_plugin.forward_context():
            self._outputs = {}
            self._outputs[LOGITS] = module(self._inputs).detach()
        outputs, self._outputs = self._outputs, None
        return outputs

    @torch.no_grad()
    def _record(
        self, trainer: Trainer, outputs: dict[str, Tensor], gradients: dict[str, Row]
    ) -> None:
        # At step 0 weights are those that were just built.
        now = (
            {name: _weight(layer) for name, layer in self._layers.items()}
            if self._step
            else self._first
        )
        for name, y in outputs.items():
            row: Row = {
                "step": self._step,
                "layer": name,
                "group": self._groups[name],
                **dict.fromkeys((*WEIGHTS, *OUTPUTS)),
                "activation": rms(y),
            }
            if self._step:
                row["moved"] = rms(y.float() - self._start[name].float())
            if name in now:
                row |= {"weight": rms(now[name])} | gradients.get(name, {})
                if self._step:
                    update = now[name] - self._first[name]
                    row |= {"step_update": rms(now[name] - self._last[name]), "update": rms(update)}
                    if self._step == trainer.max_steps:
                        row["spectral"] = spectral(update)
            self.rows.append(row)
        self._last = now


def spectral(update: Tensor) -> float:
    """Return |dW|_2 sqrt(n / m) of an (m, n) update, by power iteration; 0 for none."""
    m, n = update.shape
    rank = float(stable_rank(update, tolerance=1e-3))
    return float(update.norm()) / math.sqrt(rank) * math.sqrt(n / m) if rank else 0.0


def second_moment(layer: ZooLinear, optimizer: torch.optim.Optimizer) -> float | None:
    """Return sqrt(mean v) over the coefficients of a layer; None if no Adam moves them."""
    squares, count, beta = 0.0, 0, optimizer.param_groups[0]["betas"][1]  # all have one
    for p in layer.parameterization.parameters():
        state = optimizer.state.get(p, {})
        if "exp_avg_sq" in state:
            squares += float(state["exp_avg_sq"].sum()) / (1 - beta ** float(state["step"]))
            count += p.numel()
    return math.sqrt(squares / count) if count else None


@torch.no_grad()
def rounding(layer: ZooLinear) -> float:
    """Return the relative error of the layer's matrix in bfloat16, to that in float64."""
    single, exact = (_weight_in(layer, dtype) for dtype in (torch.bfloat16, torch.float64))
    return float((single.double() - exact).norm() / exact.norm())


def _weight_in(layer: ZooLinear, dtype: torch.dtype) -> Tensor:
    space, base = copy.deepcopy(layer.parameterization).to(dtype), layer.base
    if base is None:
        return layer.scaled(space, layer.scale)
    return space.effective(base.detach().to(dtype), layer.scale)


def _weight(layer: ZooLinear) -> Tensor:
    return layer.effective_weight().detach().float().clone()


@contextmanager
def _evaluating(module: nn.Module) -> Any:
    """Leave out dropout; every part is then as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
