"""Ranks of AdaLoRA's layers, by importance and to one budget (arXiv 2303.10512)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import AdaLoRA

PARTS = ("lora_A", "lora_E", "lora_B")
STATE = ("sensitivity", "uncertainty", "kept")
"""What a resumed run needs, by layer: the averages, and the directions that were kept last."""


@dataclass(frozen=True)
class Schedule:
    """How many directions all layers have together after each step of a run.

    Args:
        first: at the start.
        last: from `end` on.
        begin: the step after which they become fewer.
        end: the step after which they stay.
        every: steps between two prunings.
    """

    first: int
    last: int
    begin: int
    end: int
    every: int

    def budget(self, step: int) -> int:
        """Return b(t), the paper's cubic fall; t counts steps taken."""
        if step <= self.begin:
            return self.first
        left = max(0.0, 1 - (step - self.begin) / (self.end - self.begin))
        return int((self.first - self.last) * left**3 + self.last)

    def prunes(self, step: int) -> bool:
        """Say whether directions are pruned after a step."""
        return step >= self.end or step > self.begin and step % self.every == 0


class RankAllocator(Callback):
    """Prunes AdaLoRA's directions that matter least, over all layers to one budget.

    After step t of T, all layers together keep so many directions, b0 at the start and b1 in the
    end:

        b(t) = b1 + (b0 - b1) (1 - (t - tinit) / (T - tfinal - tinit))^3,   rounded down,

    b0 until `tinit`, and b1 from T - tfinal on, from where on the same ones stay. A direction
    matters by S(e_k) + mean_j S(A_kj) + mean_i S(B_ik), S = I U of each coefficient w: I the
    average of |w dL/dw|, w after the step and dL/dw before it, as in the paper's code and peft's,
    and U that of its distance from I. Until then a pruned direction may come back. Of equals those
    of earlier layers stay, so that b(t) is kept exactly; peft prunes all of them.

    The gradient of `orth_reg_weight` times the mean of |B^T B - I|_F and |A A^T - I|_F over all
    layers, as peft and the paper's code have it, is added before gradients are clipped. (The paper
    has the sum of their squares.)

    Other parameterizations are left alone. Averages and the last choice are in the checkpoint to go
    on from; the weights alone show what is pruned, e = 0, so that nothing else needs this callback.

    Args:
        target_r: directions of a layer in the end, on the average over layers; by default two
            thirds of those at the start, the paper's choice.
        tinit: steps before the first pruning; below 1, a share of all steps.
        tfinal: steps after the last one; below 1, a share of all steps. Both defaults are about the
            paper's; peft's are 0.
        deltaT: steps between two prunings.
        beta1: decay of I, in [0, 1).
        beta2: decay of U, in [0, 1).
        orth_reg_weight: of the regularizer, at least 0.

    Raises:
        UserError: for a value out of range; as a fit begins, for a schedule that the run has no
            steps for, a target that is no fewer than 1 direction or more than there are, and a
            network without `AdaLoRA`.
    """

    def __init__(
        self,
        target_r: float | None = None,
        tinit: float = 0.1,
        tfinal: float = 0.5,
        deltaT: int = 10,
        beta1: float = 0.85,
        beta2: float = 0.85,
        orth_reg_weight: float = 0.5,
    ) -> None:
        self.target_r, self.tinit, self.tfinal, self.deltaT = target_r, tinit, tfinal, deltaT
        self.beta1, self.beta2, self.orth_reg_weight = beta1, beta2, orth_reg_weight
        for name in ("tinit", "tfinal", "orth_reg_weight"):
            least = "be at least 0 and finite"
            _refuse_unless(0 <= getattr(self, name) < math.inf, self, name, least)
        for name in ("beta1", "beta2"):
            _refuse_unless(0 <= getattr(self, name) < 1, self, name, "lie in [0, 1)")
        _refuse_unless(deltaT >= 1, self, "deltaT", "be at least 1")
        if target_r is not None:
            _refuse_unless(0 < target_r < math.inf, self, "target_r", "be above 0 and finite")
        self.maps: dict[str, AdaLoRA] = {}
        self.sensitivity: dict[str, Tensor] = {}
        self.uncertainty: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        """The directions that were kept last, by layer, (r,); none before the first pruning."""
        self.final = False
        """Whether these stay."""
        self._scaled, self._taken = False, 0

    def settings(self) -> dict[str, object]:
        """Return what it was given, which a run's method consists of too."""
        names = ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")
        return {name: getattr(self, name) for name in names}

    # ---- What it prunes, and when ----------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, and refuse a schedule that cannot be followed.

        Raises:
            UserError: as the class says; or if what a checkpoint holds is of other layers.
        """
        self.maps = dict(_maps(pl_module))
        self.schedule = self._schedule(trainer, pl_module)
        self._check_state()
        self._scaled = getattr(trainer, "scaler", None) is not None

    def _schedule(self, trainer: Trainer, module: LightningModule) -> Schedule:
        if dense := getattr(module, "dense_steps", 0):
            raise UserError(
                "RankAllocator follows AdaLoRA's gradients from the first step on, and for "
                f"{dense:,} dense steps there are none: drop --model.dense_steps, or the callback"
            )
        if not self.maps:
            kinds = sorted(
                {type(layer.parameterization).__name__ for layer in _layers(module).values()}
            )
            raise UserError(
                f"RankAllocator prunes layers of AdaLoRA, and this network has {_and(kinds)}: "
                "--model.parameterization AdaLoRA, or leave the callback out"
            )
        layers, first = len(self.maps), sum(p.rank for p in self.maps.values())
        target = first / 1.5 / layers if self.target_r is None else self.target_r
        last = round(target * layers)
        if self.target_r is None:
            last = max(1, last)
        if last < 1:
            raise UserError(
                f"RankAllocator.target_r {target:g} leaves no direction of {layers} layers: give "
                f"at least {1 / layers:.2g}, which is one"
            )
        if last > first:
            raise UserError(
                f"RankAllocator.target_r {target:g} is above the rank at the start, "
                f"{first / layers:g} on the average: give less, or AdaLoRA a higher rank"
            )
        steps = int(trainer.estimated_stepping_batches)
        begin, final = (
            round(value * steps if value < 1 else value) for value in (self.tinit, self.tfinal)
        )
        if begin + final >= steps:
            raise UserError(
                f"RankAllocator's tinit {begin} and tfinal {final} leave none of {steps} steps to "
                f"prune in: give fewer than {steps} together, or shares as 0.1 and 0.5"
            )
        return Schedule(first, last, begin, steps - final, self.deltaT)

    # ---- In each step ----------------------------------------------------------------------------

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the regularizer's gradient to those of all batches and processes, not scaled."""
        if not self.orth_reg_weight:
            return
        found = orthogonality_gradients(self.maps.values(), self.orth_reg_weight)
        for p, grad in found.items():
            p.grad = grad if p.grad is None else p.grad.add_(grad)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a step, follow its gradients and prune; a validation and a checkpoint come next."""
        if trainer.global_step == self._taken:
            return
        self._taken = step = trainer.global_step
        self.follow(step)
        every = step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if step == self.schedule.end or every and self.schedule.begin < step < self.schedule.end:
            self._log(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the ranks at the start."""
        self._taken = trainer.global_step
        if trainer.global_step == 0:
            self._log(trainer)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the gradients of a step into the averages, and prune if it is time."""
        if not self.final and (step < self.schedule.end or not self.sensitivity):
            self._average()
        if not self.final and self.schedule.prunes(step):
            self.kept = self._choose(self.schedule.budget(step))
            self.final = step >= self.schedule.end
            if self.final:
                self.sensitivity, self.uncertainty = {}, {}
        elif not self.final:
            return
        for name, p in self.maps.items():
            p.prune_(self.kept[name])

    def _average(self) -> None:
        """Take |w dL/dw| of every coefficient into I, and its distance from I into U."""
        every = dict(_coefficients(self.maps))
        if not self.sensitivity:
            for averages in (self.sensitivity, self.uncertainty):
                averages.update(
                    {name: torch.zeros_like(p, dtype=torch.float32) for name, p in every.items()}
                )
        grads = {name: p.grad for name, p in every.items() if p.grad is not None}
        if not grads:
            return
        now = [(every[name] * grad).float().abs_() for name, grad in grads.items()]
        if self._scaled and not torch.stack(torch._foreach_norm(now)).isfinite().all():
            return  # float16's scaler has skipped the step
        i, u = ([a[name] for name in grads] for a in (self.sensitivity, self.uncertainty))
        torch._foreach_mul_(i, self.beta1)
        torch._foreach_add_(i, now, alpha=1 - self.beta1)
        far = torch._foreach_sub(now, i)
        torch._foreach_abs_(far)
        torch._foreach_mul_(u, self.beta2)
        torch._foreach_add_(u, far, alpha=1 - self.beta2)

    def importance(self) -> dict[str, Tensor]:
        """Return how much each direction of each layer matters, (r,)."""
        found = {}
        for name in self.maps:
            a, e, b = (
                self.sensitivity[f"{name}.{part}"] * self.uncertainty[f"{name}.{part}"]
                for part in PARTS
            )
            found[name] = e.flatten() + (a.mean(1) + b.mean(0))
        return found

    def _choose(self, budget: int) -> dict[str, Tensor]:
        """Return which directions of each layer are among the `budget` that matter most."""
        scores = self.importance()
        order = torch.cat(list(scores.values())).argsort(descending=True, stable=True)
        kept = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        kept[order[:budget]] = True
        parts = kept.split([len(score) for score in scores.values()])
        return dict(zip(scores, parts, strict=True))

    # ---- What it says ----------------------------------------------------------------------------

    def ranks(self) -> dict[str, int]:
        """Return how many directions each layer kept last; all of them before the first pruning."""
        return {
            name: int(self.kept[name].sum()) if self.kept else p.rank
            for name, p in self.maps.items()
        }

    def _log(self, trainer: Trainer) -> None:
        """Log `rank/<layer>` and `rank/total`."""
        if trainer.is_global_zero:
            ranks = {name: float(rank) for name, rank in self.ranks().items()}
            values = {f"rank/{name}": rank for name, rank in ranks.items()}
            for logger in trainer.loggers:
                logger.log_metrics(
                    values | {"rank/total": sum(ranks.values())}, step=trainer.global_step
                )

    # ---- Checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, the directions that were kept last, and whether they stay."""
        return {**{key: dict(getattr(self, key)) for key in STATE}, "final": self.final}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them.

        Raises:
            ValueError: if they are no tensors by name.
        """
        if not isinstance(state_dict["final"], bool):
            raise ValueError("no last pruning")
        self.final = state_dict["final"]
        for key in STATE:
            values = dict(state_dict[key])
            wanted = torch.bool if key == "kept" else torch.float32
            if not all(isinstance(v, Tensor) and v.dtype == wanted for v in values.values()):
                raise ValueError(f"no {key} of directions")
            setattr(self, key, values)

    def _check_state(self) -> None:
        """Bring what was loaded to where the layers are.

        Raises:
            UserError: if it is of other layers.
        """
        every = dict(_coefficients(self.maps))
        shapes = {name: p.shape for name, p in every.items()}
        ranks = {name: torch.Size([p.rank]) for name, p in self.maps.items()}
        for key, wanted in zip(STATE, (shapes, shapes, ranks), strict=True):
            values: dict[str, Tensor] = getattr(self, key)
            if (values or key == "kept" and self.final) and {
                name: value.shape for name, value in values.items()
            } != wanted:
                raise UserError(
                    f"the checkpoint's {key} of directions belongs to other layers than these: "
                    "go on with the parameterization and targets that it was trained with"
                )
            devices = {name: p.device for name, p in every.items()}
            devices |= {name: p.lora_E.device for name, p in self.maps.items()}
            setattr(self, key, {name: value.to(devices[name]) for name, value in values.items()})


def orthogonality_gradients(maps: Iterable[AdaLoRA], weight: float) -> dict[nn.Parameter, Tensor]:
    """Return the gradient of `weight` times the mean of |B^T B - I|_F and |A A^T - I|_F.

    By hand, factors of equal shape as one batch: it is 2 (Q Q^T - I) Q / |Q Q^T - I|_F of Q = A or
    B^T.
    """
    shapes: dict[Any, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
    for p in maps:
        for factor, q in ((p.lora_A, p.lora_A), (p.lora_B, p.lora_B.mT)):
            shapes[q.shape, q.dtype, q.device].append((factor, q))
    count, found = sum(map(len, shapes.values())), {}
    for group in shapes.values():
        q = torch.stack([q for _, q in group])
        q = q.to(torch.promote_types(q.dtype, torch.float32))
        off = q @ q.mT - torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
        norm = off.flatten(1).norm(dim=1).clamp(min=torch.finfo(q.dtype).tiny)
        grads = (2 * weight / count / norm)[:, None, None] * (off @ q)
        for (factor, _), grad in zip(group, grads, strict=True):
            found[factor] = (grad if grad.shape == factor.shape else grad.mT).to(factor.dtype)
    return found


def _layers(module: LightningModule) -> dict[str, ZooLayer]:
    assert isinstance(module.net, nn.Module)
    return zoo_layers(module.net)


def _maps(module: LightningModule) -> Iterator[tuple[str, AdaLoRA]]:
    """Find every AdaLoRA that is trained by its layer's name, also as a part of a layer's map."""
    seen = set()
    for layer, each in _layers(module).items():
        for part, p in each.parameterization.named_modules():
            if isinstance(p, AdaLoRA) and p not in seen and p.lora_E.requires_grad:
                seen.add(p)
                yield f"{layer}.{part}".strip("."), p


def _coefficients(maps: Mapping[str, AdaLoRA]) -> Iterator[tuple[str, nn.Parameter]]:
    for name, p in maps.items():
        for part in PARTS:
            yield f"{name}.{part}", getattr(p, part)


def _refuse_unless(right: bool, callback: RankAllocator, name: str, legal: str) -> None:
    if not right:
        raise UserError(f"RankAllocator.{name} must {legal}, got {getattr(callback, name)}")


def _and(names: list[str]) -> str:
    return " and ".join(names) if names else "none"
