"""What a run, a peft adapter or a pair of checkpoints changed: dW by layer, or its factors."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.layers.convert import are_updates, is_conv1d, zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.layers.names import matches, summary
from zoo.parameterizations.factory import factory_class
from zoo.runs import checkpoints, peft
from zoo.runs.checkpoint_runs import adapter_run, checkpoint_run, plain_run
from zoo.runs.peft import Factors, own_factors
from zoo.runs.plain_checkpoints import (
    Stored,
    aligned,
    in_memory,
    is_zoo,
    plain_tensors,
    state_files,
)
from zoo.runs.run import Run
from zoo.training.module import ZooModule

EXPECTED = "give a run's folder, a .ckpt, an adapter.safetensors or a peft adapter's folder"
What = Literal["dW", "W"]
LARGEST = 2**31
"""The most entries that a matrix may have."""
SMALLEST_NORM, LARGEST_NORM = 1e-18, 1e18
"""Bounds of a matrix' norm, so that float32 has its square."""


@dataclass(frozen=True, eq=False)
class Update:
    """A matrix: dW = L R, or dW as it is.

    Args:
        left: L, (m, r); or dW, (m, n).
        right: R, (r, n); or None.
    """

    left: Tensor
    right: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        last = self.left if self.right is None else self.right
        return self.left.shape[0], last.shape[1]

    def matrix(self) -> Tensor:
        """Return dW; (m, n), float32."""
        return self.left.float() if self.right is None else self.left.float() @ self.right.float()

    def norm(self) -> float:
        """Return |dW|_F; of factors by |L R|^2 = <L^T L, R R^T>, so that no product is built."""
        left = self.left.double()
        if self.right is None:
            return left.norm().item()
        right = self.right.double()
        return ((left.mT @ left) * (right @ right.mT)).sum().clamp_min(0).sqrt().item()

    def singular_values(self) -> Tensor:
        """Return all singular values that may differ from 0, descending.

        There are min(m, n) of them, or min(m, r, n) of factors, in float64. With L = Q S and
        R^T = P T (QR), those of L R are those of S T^T, which has r columns. Computed once.
        """
        return self._singular_values

    @cached_property
    def _singular_values(self) -> Tensor:
        if self.right is None:
            return torch.linalg.svdvals(self.left.double())
        s = torch.linalg.qr(self.left.double(), mode="r").R
        t = torch.linalg.qr(self.right.double().mT, mode="r").R
        return torch.linalg.svdvals(s @ t.mT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(Run):
    """A run and its updates.

    Args:
        what: the updates are dW; or there is no weight that training started from, and they are W
            itself.
        updates: by layer.
        notes: what a reader of the results must know.
    """

    what: What = "dW"
    updates: dict[str, Update]
    notes: list[str] = field(default_factory=list)


def read(
    path: str,
    before: str | None = None,
    backbone: str | None = None,
    layers: Sequence[str] | None = None,
    trust: Trust = NOBODY,
) -> Source:
    """Return the updates of a run or peft adapter, or what a checkpoint has more than another.

    A run with a frozen backbone has dW. One that trained the backbone in full has W minus the W
    that the same settings start from, which is the projection of W0. One from scratch has W.

    Args:
        path: a run's folder, a zoo checkpoint or adapter, or the folder of a peft adapter;
            with `before` also a folder with `model.safetensors` or `pytorch_model.bin`, in one file
            or several, or a file with a state dict.
        before: what training started from: a run, a folder or a file, as with `path`. Every matrix
            with the same name in both is compared, as it is stored; embeddings only where `layers`
            names them.
        backbone: where a run's pretrained network is now, if it was moved.
        layers: globs of layer names (`zoo.layers.names.matches`) that choose; all of them by
            default.
        trust: whose classes a run may name.

    Returns:
        The updates that are not 0, float32, on the CPU; `zoo.runs.names.label` gives several
        sources names and groups that tell them apart.

    Raises:
        UserError: if there is nothing to read or no update in it, values are not finite or matrices
            beyond measure, shapes differ, or a glob matches nothing.
    """
    if not Path(path).exists():
        raise UserError(f"no file or folder {path!r}: {EXPECTED}")
    adapter = _peft_folder(Path(path))
    if before is not None:
        if adapter:
            raise UserError(
                f"{path!r} is a peft adapter, which is an update already: drop --before"
            )
        source = _pair(path, before, backbone, layers, trust)
    else:
        source = _adapter(path, adapter, layers) if adapter else _run(path, backbone, layers, trust)
    return _checked(source, before)


def _peft_folder(path: Path) -> Path | None:
    folder = peft.find(path)
    return folder if folder is not None and checkpoints.find(folder) is None else None


def _checked(source: Source, before: str | None) -> Source:
    """Return a source without the layers that did not change."""
    where = repr(source.path) if before is None else f"{source.path!r} or {before!r}"
    norms: dict[str, float] = {}
    for name, update in source.updates.items():
        _check_size(name, update.shape, where)
        if not all(side is None or side.isfinite().all() for side in (update.left, update.right)):
            raise _not_finite(name, where)
        norms[name] = update.norm()
        if norms[name] and not SMALLEST_NORM < norms[name] < LARGEST_NORM:
            raise UserError(
                f"{name} has a norm of {norms[name]:.1e} in {where}: use another checkpoint"
            )
    changed = {name: update for name, update in source.updates.items() if norms[name] > 0}
    if not changed and before is not None:
        raise UserError(
            f"{source.path!r} and {before!r} are equal, nothing changed: give another --before"
        )
    if not changed:
        raise UserError(
            f"{source.path!r} has no update to analyse: {source.what} is 0, so it was not trained"
        )
    left_out = len(source.updates) - len(changed)
    note = [f"left out, unchanged: {_count(left_out, 'layer')}"] if left_out else []
    return dataclasses.replace(source, updates=changed, notes=[*source.notes, *note])


def _check_size(name: str, shape: tuple[int, int], where: str) -> None:
    m, n = shape
    if m * n > LARGEST:
        raise UserError(
            f"{name} is {m:,} x {n:,} in {where}, too large to look into: choose others with "
            "--layers"
        )


def _not_finite(name: str, where: str) -> UserError:
    return UserError(
        f"{name} holds NaN or infinite values in {where}: use a checkpoint from before that"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _choose(names: Iterable[str], layers: Sequence[str] | None) -> list[str]:
    names = list(names)
    for pattern in layers or ():
        if not any(matches(name, pattern) for name in names):
            raise UserError(f"--layers: {pattern!r} matches no layer; there are: {summary(names)}")
    return [
        name for name in names if not layers or any(matches(name, pattern) for pattern in layers)
    ]


# ---- Runs and adapters ---------------------------------------------------------------------------


@torch.no_grad()
def _run(path: str, backbone: str | None, layers: Sequence[str] | None, trust: Trust) -> Source:
    file = checkpoints.find(Path(path))
    if (file is None or not is_zoo(file)) and state_files(Path(path)):
        raise UserError(
            f"{path!r} is a checkpoint alone: give what it was before training as --before"
        )
    if file is None:
        inside = next(
            (str(folder) for folder in sorted(Path(path).glob("*")) if checkpoints.find(folder)),
            None,
        )
        raise UserError(
            f"nothing to analyse in {path!r}: {f'did you mean {inside!r}?' if inside else EXPECTED}"
        )
    model = checkpoints.rebuild(file, backbone, trust=trust)
    for name, tensor in model.trained_state().items():
        if not tensor.isfinite().all():
            raise _not_finite(name, repr(path))
    run, notes = checkpoint_run(path, file, model)
    there = zoo_layers(model.net)
    chosen = {name: there[name] for name in _choose(there, layers)}
    dense = any(layer.dense_phase is not None for layer in there.values())
    if dense or are_updates(there) or model.start != "project":
        what: What = "W" if dense or not are_updates(there) else "dW"
        updates = {name: _own(layer) for name, layer in chosen.items()}
        notes += ["trained from scratch: W itself is analysed"] if what == "W" else []
    else:
        what, before = "dW", starting_weights(file, backbone, trust)
        notes.append("trained in full: only the layers that were targets are analysed")
        updates = {
            name: Update(layer.effective_weight().float() - before[name])
            for name, layer in chosen.items()
            if name in before
        }
        if drawn := len(chosen) - len(updates):
            notes.append(f"left out, as it started from random weights: {_count(drawn, 'layer')}")
    return Source(**vars(run), what=what, updates=updates, notes=notes)


def _own(layer: ZooLinear) -> Update:
    """Return s W of a layer, with factors as they are."""
    if layer.dense_phase is None and (own := own_factors(layer)) is not None:
        return _product(own)
    return Update(layer.update().detach().float())


def _product(factors: Factors) -> Update:
    return Update(factors.scale * factors.B.detach(), factors.A.detach())


@torch.no_grad()
def starting_weights(
    file: Path, backbone: str | None = None, trust: Trust = NOBODY
) -> dict[str, Tensor]:
    """Return the effective weights of a run before training, without those drawn at random.

    Only a run that started from the projection of W0 (`tuning.full`) or from W0 itself (an update)
    has such weights.

    Args:
        file: its checkpoint.
        backbone: where its pretrained network is now.
        trust: whose classes it may name.
    """
    built: list[dict[str, Tensor]] = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = checkpoints.rebuild(file, backbone, trained=False, trust=trust)
        built.append(
            {
                name: layer.effective_weight().float()
                for name, layer in zoo_layers(model.net).items()
            }
        )
    first, second = built
    return {name: weight for name, weight in first.items() if torch.equal(weight, second[name])}


def _adapter(path: str, folder: Path, layers: Sequence[str] | None) -> Source:
    adapter = peft.read(folder)
    kind = factory_class(next(iter(adapter.updates.values())).factory()).__name__
    updates = {}
    for name in _choose(adapter.updates, layers):
        update = adapter.updates[name]
        if isinstance(update, Factors):
            updates[name] = _product(update)
        elif update.shape is None or update.of_base:
            lacks = "whose weights" if update.of_base else "of which"
            raise UserError(
                f"{path!r} is {adapter.config['peft_type']}, {lacks} only the backbone knows"
                f"{'' if update.of_base else ' how large a matrix is'}: make it a run with zoo "
                f"import {path}"
            )
        else:
            _check_size(name, update.shape, repr(path))
            updates[name] = Update(update.matrix(update.shape))
    return Source(
        **vars(adapter_run(path, adapter.config, kind)), what="dW", updates=updates, notes=[]
    )


# ---- Pairs of checkpoints ------------------------------------------------------------------------


@torch.no_grad()
def _pair(
    path: str, before: str, backbone: str | None, layers: Sequence[str] | None, trust: Trust
) -> Source:
    (after, model), (old, origin) = (
        _stored(Path(each), backbone, trust) for each in (path, before)
    )
    old = aligned(old, after)
    common = {name: (after[name], old[name]) for name in after if name in old}
    matrices = [
        name for name, pair in common.items() if any(len(stored.shape) == 2 for stored in pair)
    ]
    if not matrices:
        raise UserError(
            f"{path!r} and {before!r} have no matrix in common: give the model before training"
        )
    chosen = _choose(matrices, layers)
    file = checkpoints.find(Path(path))
    run, notes = checkpoint_run(path, file, model) if model and file else (plain_run(path), [])
    # A run has its layers, and lacks nothing else of the other.
    sides = ((after, model, origin), (old, origin, model))
    if only := sum(
        len(names) - len(common) for names, run, other in sides if run is not None or other is None
    ):
        notes.append(f"only in one of the two: {_count(only, 'parameter')}")
    if not layers and (tables := [name for name in chosen if _is_embedding(name)]):
        chosen = [name for name in chosen if name not in tables]
        notes.append(f"left out unless --layers names it: {_count(len(tables), 'embedding')}")
    if not chosen:
        raise UserError(
            f"{path!r} and {before!r} have only embeddings in common: name them with --layers"
        )
    for name in chosen:
        shapes = [stored.shape for stored in common[name]]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} is {shapes[0]} in {path!r} and {shapes[1]} in {before!r}: give the model "
                "before training, or choose layers with --layers"
            )
    updates = {
        name: Update(common[name][0].load().float() - common[name][1].load().float())
        for name in chosen
    }
    run = dataclasses.replace(run, conditions={**run.conditions, "before": before})
    return Source(**vars(run), what="dW", updates=updates, notes=notes)


def _is_embedding(name: str) -> bool:
    return any("embed" in part.lower() or part in ("wte", "wpe") for part in name.split("."))


def _stored(
    path: Path, backbone: str | None, trust: Trust
) -> tuple[dict[str, Stored], ZooModule | None]:
    """Return what a checkpoint has, by name without `.weight`; and the task, if it is zoo's.

    Of a run that is its layers, as merged ones are; of another one every tensor.
    """
    file = checkpoints.find(path)
    if file is None or not is_zoo(file):
        return {
            name.removesuffix(".weight"): stored for name, stored in plain_tensors(path).items()
        }, None
    model = checkpoints.rebuild(file, backbone, trust=trust)
    weights = {}
    for name, layer in zoo_layers(model.net).items():
        weight = layer.effective_weight().detach()
        weights[name] = weight.mT if is_conv1d(layer.replaced) else weight
    return in_memory(weights), model
