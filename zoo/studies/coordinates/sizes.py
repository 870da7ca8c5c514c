"""The coordinate check: sizes of weights, gradients, updates and outputs as a network grows.

A network whose activations change as much in a step, however wide it is, can be scaled up at one
learning rate; one whose changes grow with width cannot (Yang et al., Tensor Programs V, arXiv
2203.03466, appendix D.1). Everything is measured in weight space, so that parameterizations
compare; sizes are root-mean-squares over entries, which are flat in width where each entry keeps
its size.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy import stats
from torch import Tensor, nn

from zoo.layers.convert import zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.layers.names import kind
from zoo.spectrum import stable_rank
from zoo.training.module import ZooModule

Row = dict[str, Any]
WEIGHTS = ("weight", "gradient", "coefficient_gradient", "step_update", "update", "spectral")
"""What is recorded of a parameterized layer besides its output."""
OUTPUTS = ("activation", "moved")
"""What is recorded of an output."""
LAYERS, BLOCKS, LOGITS = "layers", "blocks", "logits"
"""Groups: all parameterized layers; the blocks' outputs (the residual stream); the net's output."""
FLAT = 0.25
"""An exponent nearer to 0 is called flat: half of 1/2, the least other one that theory knows."""


class Measure(NamedTuple):
    """A quantity that a line of the table is about."""

    label: str
    group: str
    quantity: str
    step: int | None = None
    """None: the last."""


SIZE_MEASURES = (
    Measure("weight", LAYERS, "weight"),
    Measure("gradient", LAYERS, "gradient", 1),
    Measure("coef. gradient", LAYERS, "coefficient_gradient", 1),
    Measure("update of a step", LAYERS, "step_update"),
    Measure("update", LAYERS, "update"),
    Measure("update, spectral", LAYERS, "spectral"),
    Measure("outputs at start", LAYERS, "activation", 0),
    Measure("outputs", LAYERS, "activation"),
    Measure("outputs' change", LAYERS, "moved"),
    Measure("stream", BLOCKS, "activation"),
    Measure("stream's change", BLOCKS, "moved"),
    Measure("logits", LOGITS, "activation"),
    Measure("logits' change", LOGITS, "moved"),
)
"""Gradients are those of the first step: later ones depend on where steps led."""


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
        step_update           rms(W_t - W_{t-1})
        update                rms(W_t - W_0)
        spectral              |W_t - W_0|_2 sqrt(n / m): the most that the update adds to the rms
                              of an output, for an input of rms 1 (Yang, Simon and Bernstein, arXiv
                              2310.17813, want it flat); of the last step, as all else it costs is
                              power iteration
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


# ---- Many networks -------------------------------------------------------------------------------


def summarize(rows: Iterable[Row]) -> list[Row]:
    """Average sizes over the layers of a group and seeds.

    The mean is geometric, so that exponents are means of exponents.

    Args:
        rows: of `Coordinates`, with parameterization, width, depth and seed.

    Returns:
        A row for each parameterization, width, depth, step and group; a group is LAYERS, BLOCKS,
        LOGITS, or a kind of layer (`zoo.layers.names.kind`). A size that some layer has as 0 is
        0, one that none has is None.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        kinds = [row["group"], *([kind(row["layer"])] if row["group"] == LAYERS else [])]
        for group in kinds:
            key = (row["parameterization"], row["width"], row["depth"], row["step"], group)
            cells.setdefault(key, []).append(row)
    names = ("parameterization", "width", "depth", "step", "group")
    return [
        dict(zip(names, key, strict=True))
        | {q: _mean([row[q] for row in same]) for q in (*WEIGHTS, *OUTPUTS)}
        for key, same in cells.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the geometric mean of those that are there."""
    known = [value for value in values if value is not None]
    if not known or min(known) < 0 or not all(map(math.isfinite, known)):
        return None
    return math.exp(sum(map(math.log, known)) / len(known)) if min(known) > 0 else 0.0


def exponent(sizes: Sequence[float], values: Sequence[float | None]) -> dict[str, float | None]:
    """Fit b of the least-squares line log value = a + b log size, with its standard error.

    Args:
        sizes: widths or depths.
        values: as many; those that are None or not above 0 are left out.

    Returns:
        slope, None of fewer than two points; error, None of fewer than three.
    """
    points = [
        (size, value)
        for size, value in zip(sizes, values, strict=True)
        if value is not None and value > 0
    ]
    if len({size for size, _ in points}) < 2:
        return {"slope": None, "error": None}
    fit = stats.linregress(*np.log(points).T)
    return {"slope": float(fit.slope), "error": float(fit.stderr) if len(points) > 2 else None}


def reading(slope: float | None) -> str:
    """Say an exponent in a word: grows, flat or shrinks."""
    if slope is None:
        return "unknown"
    return "flat" if abs(slope) < FLAT else "grows" if slope > 0 else "shrinks"


def slopes(cells: Sequence[Row], width: int, depth: int, steps: int) -> list[Row]:
    """Fit the exponent of every measure along widths at one depth, and depths at one width.

    Args:
        cells: of `summarize`.
        width: at which depths are compared.
        depth: at which widths are compared.
        steps: the last one.

    Returns:
        Rows of along (`width` or `depth`), parameterization, measure, group, slope, error, reading.
        Of `SIZE_MEASURES` for all layers, and again for each kind of layer.
    """
    fitted = []
    kinds = [
        group
        for group in dict.fromkeys(cell["group"] for cell in cells)
        if group not in (BLOCKS, LOGITS)
    ]
    for along, other, at in (("width", "depth", depth), ("depth", "width", width)):
        for name in dict.fromkeys(cell["parameterization"] for cell in cells):
            for measure in SIZE_MEASURES:
                for group in kinds if measure.group == LAYERS else [measure.group]:
                    step = steps if measure.step is None else measure.step
                    x, y = series(cells, name, group, measure.quantity, step, along, other, at)
                    fit = exponent(x, y)
                    fitted.append(
                        {
                            "along": along,
                            "parameterization": name,
                            "measure": measure.label,
                            "group": group,
                            **fit,
                            "reading": reading(fit["slope"]),
                        }
                    )
    return fitted


def series(
    cells: Iterable[Row],
    parameterization: str,
    group: str,
    quantity: str,
    step: int,
    along: str,
    other: str,
    at: int,
) -> tuple[list[int], list[float | None]]:
    """Return widths and sizes at a depth, or depths and sizes at a width.

    In the first case `along` is width, `other` depth, and `at` that depth.
    """
    wanted = (parameterization, group, step, at)
    line = [
        cell
        for cell in cells
        if (cell["parameterization"], cell["group"], cell["step"], cell[other]) == wanted
    ]
    line.sort(key=lambda cell: cell[along])
    return [cell[along] for cell in line], [cell[quantity] for cell in line]
