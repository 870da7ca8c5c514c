"""Optimizers: their settings, schedule, and parameter groups by rate and decay."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from zoo.errors import UserError
from zoo.layers.convert import is_linear, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.layers.transfer import rates_of
from zoo.parameterizations import Dense, Isometry, WeightParameterization
from zoo.training.muon import StepScale, Subspace, SubspaceMuon

OF_MUON = ("momentum", "muon_scale")
"""Settings that AdamW does not look at."""
EPS = 1e-8
"""AdamW's, which torch has by default."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or subspace Muon, with linear warm-up and cosine decay.

    Args:
        name: `adamw`, or `muon` for the coefficients of dense and orthonormal weights and AdamW for
            the rest.
        lr: the peak rate of a dense weight; a parameterization's coefficients get `lr * lr_mult`
            from AdamW.
        weight_decay: shrinks W by `lr * weight_decay` a step, whatever the parameterization.
        beta1: AdamW's decay of the first moment.
        beta2: AdamW's decay of the second moment.
        momentum: Muon's.
        muon_scale: which norm of Muon's step in a subspace is that of a dense one, `spectral` or,
            as it was before, `frobenius` (`zoo.training.muon`).
        warmup: steps from 0 to `lr`; below 1, a share of all steps.
        final_lr: share of `lr` at the last step.
        clip: largest global gradient norm, or null.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 6e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    momentum: float = 0.95
    muon_scale: StepScale = "spectral"
    warmup: float = 100
    final_lr: float = 0.1
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        """Raises UserError for a value out of range."""
        for name in ("lr", "weight_decay", "warmup", "final_lr"):
            value = getattr(self, name)
            if not (0 <= value <= 1 if name == "final_lr" else 0 <= value < math.inf):
                legal = "lie in [0, 1]" if name == "final_lr" else "be at least 0 and finite"
                raise UserError(f"optimizer.{name} must {legal}, got {value}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise UserError(f"optimizer.clip must be above 0 and finite, or null, got {self.clip}")

    def warmup_steps(self, steps: int) -> int:
        """Return the steps of warm-up in a run of `steps`."""
        return round(self.warmup * steps if self.warmup < 1 else self.warmup)

    def share(self, step: int, steps: int) -> float:
        """Return the learning rate's share of its peak at a step of a run of `steps`."""
        return warmup_cosine(step, steps, self.warmup_steps(steps), self.final_lr)

    def settings(self) -> dict[str, object]:
        """Return the settings that matter to this optimizer, by name."""
        settings = dataclasses.asdict(self)
        if self.name == "adamw":
            for name in OF_MUON:
                del settings[name]
        return settings


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """Return the learning rate's share of its peak.

    It rises as (step + 1) / warmup, then falls from 1 to `final` as a half cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    own: Mapping[nn.Parameter, float] | None = None,
    muon: Mapping[nn.Parameter, Subspace] | None = None,
) -> list[dict[str, Any]]:
    """Group trained parameters by learning rate and decay.

    Decided by the module that owns a parameter, not by its number of dimensions: coefficients and
    the weights of linear layers decay; biases, norms and embeddings do not. AdamW multiplies W by 1
    - lr lr_mult decay, so a group's decay is divided by its lr_mult, and every parameterization
    shrinks W by the same lr decay. `own` has the rates of parameters that are not trained at `lr`.
    Those in `muon` are groups with `"muon": True` and need no lr_mult, since Muon's step is scaled
    in W. The rates of a network that is scaled from a smaller one are multiplied by its factors
    (`zoo.layers.transfer`), and a group's decay is divided by them.
    """
    muon = muon or {}
    factors = rates_of(model, muon)
    decayed: dict[int, float] = {}
    parts: set[nn.Module] = set()
    mult: float | None
    for module in model.modules():
        if module in parts:  # the map that has it decides for it
            continue
        if isinstance(module, WeightParameterization):
            parts.update(module.modules())
            mults = module.lr_mults()
            for name, p in module.named_parameters():
                # Two digits, so that layers alike share a group.
                mult = 1.0 if p in muon else float(f"{mults[name]:.2g}")
                decayed.setdefault(id(p), mult)
        elif is_linear(module):
            decayed[id(module.weight)] = 1.0
        elif isinstance(module, ZooLayer) and module.kind != "embedding":
            decayed.update((id(p), 1.0) for p in module.base_parameters)
    groups: dict[tuple[float, float, bool, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            rate = lr if own is None else own.get(p, lr)
            mult, (factor, eps) = decayed.get(id(p)), factors.get(p, (1.0, 1.0))
            key = (
                (rate * factor, 0.0, False, eps)
                if mult is None
                else (rate * mult * factor, weight_decay / (mult * factor), p in muon, eps)
            )
            groups.setdefault(key, []).append(p)
    return [
        {"params": ps, "lr": rate, "weight_decay": decay, "muon": is_muon}
        | ({} if eps == 1 else {"eps": EPS * eps})
        for (rate, decay, is_muon, eps), ps in groups.items()
    ]


def muon_subspaces(model: nn.Module) -> dict[nn.Parameter, Subspace]:
    """Find the coefficients that Muon can train, and their maps; in a dense phase W0."""
    found: dict[nn.Parameter, Subspace] = {}
    for layer in zoo_layers(model).values():
        space = layer.parameterization
        if layer.dense_phase is not None and isinstance(base := layer.base, nn.Parameter):
            with torch.device("meta"):  # a dense W of this shape, whose numbers are W0's
                found[base] = Dense(*space.shape)
        elif isinstance(space, Dense | Isometry) and space.coef.requires_grad:
            found[space.coef] = space
    return found


def groups_of(
    model: nn.Module, config: OptimizerConfig, own: Mapping[nn.Parameter, float] | None = None
) -> list[dict[str, Any]]:
    """Make the parameter groups of a network, as its optimizer has them."""
    muon = muon_subspaces(model) if config.name == "muon" else None
    return parameter_groups(model, config.lr, config.weight_decay, own, muon)


def build(
    model: nn.Module,
    config: OptimizerConfig,
    own: Mapping[nn.Parameter, float] | None = None,
    fused: bool = True,
) -> torch.optim.AdamW:
    """Make the optimizer of a network.

    Args:
        model: the network whose trained parameters it moves.
        config: its settings.
        own: peak rates of parameters that are not trained at the config's.
        fused: whether AdamW runs in one kernel.

    Raises:
        UserError: for Muon on a network that has neither dense nor orthonormal coefficients.
    """
    groups, betas = groups_of(model, config, own), (config.beta1, config.beta2)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=fused)
    subspaces = muon_subspaces(model)
    spaces = [layer.parameterization for layer in zoo_layers(model).values()]
    if not any(isinstance(space, Dense | Isometry) for space in spaces):
        kinds = "+".join(
            {type(layer.parameterization).__name__ for layer in zoo_layers(model).values()}
        )
        raise UserError(
            f"muon trains dense and orthonormal weights, and this network has only {kinds}: "
            "--model.optimizer.name adamw"
        )
    return SubspaceMuon(
        groups, subspaces, config.lr, betas, config.momentum, fused, config.muon_scale
    )


def regroup(
    model: nn.Module,
    config: OptimizerConfig,
    own: Mapping[nn.Parameter, float],
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
) -> None:
    """Have an optimizer move what is trained now, as if `build` had made it now.

    What it knows of parameters that it moves no more is dropped. The rest is as in `follow`.
    """
    groups = groups_of(model, config, own)
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group(group)
    moved = {p for group in groups for p in group["params"]}
    for p in [*optimizer.state]:
        if p not in moved:
            del optimizer.state[p]
    if isinstance(optimizer, SubspaceMuon):
        optimizer.subspaces = muon_subspaces(model)
    schedule.lr_lambdas = [schedule.lr_lambdas[0]] * len(groups)
    follow(model, config, own, optimizer, schedule)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def follow(
    model: nn.Module,
    config: OptimizerConfig,
    own: Mapping[nn.Parameter, float],
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
) -> None:
    """Let a config decide rates and decay where a checkpoint has brought its own.

    Args:
        model: the network whose parameters the optimizer moves.
        config: the settings that hold from now on.
        own: peak rates of parameters that are not trained at the config's.
        optimizer: as `build` has made it, with the state of the checkpoint.
        schedule: of that optimizer, at the checkpoint's step.
    """
    groups = groups_of(model, config, own)
    schedule.base_lrs = [group["lr"] for group in groups]
    share = schedule.lr_lambdas[0](schedule.last_epoch)
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group.update(
            initial_lr=fresh["lr"],
            lr=fresh["lr"] * share,
            weight_decay=fresh["weight_decay"],
            betas=(config.beta1, config.beta2),
        )
