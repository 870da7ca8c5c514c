"""RandLoRA as peft has it: each layer takes its corner of one pair of bases, and N = ceil(d / r).

peft pairs row k of the n-th scaled A not with column k of B_n, but with column k N + n of all of B.
Which column belongs to which base so depends on N; layers of different smaller sides d share bases
in peft, but not as zoo pairs them.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases.seeds import uniform_matrix
from zoo.errors import UserError
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import RandLoRA
from zoo.parameterizations.factory import ParameterizationFactory
from zoo.runs.peft.adapter import PREFIX, Found, Update, by_layer, same_bases
from zoo.runs.peft.formats import nothing_unsupported
from zoo.runs.peft.settings import Settings, whole_if_it_is

CONV1D, BIAS = True, "randlora_only"
unsupported = nothing_unsupported

SEED = "projection_prng_key"
"""The key of the config that says with which seed zoo has the bases; peft reads them from the file,
with `save_projection`."""


@dataclass(frozen=True, eq=False)
class Diagonals(Update):
    """RandLoRA's dW = scale sum_n B_n diag(lambda_n) A diag(gamma_n), on bases that layers share.

    With M and d the larger and the smaller side of dW, which is transposed where it is wide: A is
    (r, 1, >= d), B (>= M, >= N, r), lam (r, N) and gamma (N, d). Row k of the n-th scaled A goes
    with column k N + n of B's first N bases side by side, and not with column k of B_n.

    Args:
        lam: lambda, (r, N).
        gamma: (N, d).
        A: (r, 1, >= d).
        B: (>= M, >= N, r).
        scale: the factor on the sum.
        seed: with which `zoo.parameterizations.RandLoRA` has the same bases; None if it has them
            with none.
    """

    lam: Tensor
    gamma: Tensor
    A: Tensor
    B: Tensor
    scale: float
    seed: int | None

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether a weight can be (out_features, in_features) = `shape`."""
        return min(shape) == self.gamma.shape[1] and max(shape) <= len(self.B)

    def size(self) -> str:
        """Write the sizes that the weight can have."""
        return f"{self.gamma.shape[1]} by at most {len(self.B)}"

    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        """Return dW of this shape, float32."""
        bases, d = self.gamma.shape
        lam, gamma, a = self.lam.float()[:, :, None], self.gamma.float(), self.A[:, :, :d].float()
        inner = (lam * a * gamma).flatten(0, 1)  # (r N, d)
        outer = self.B[: max(shape), :bases].float().flatten(1)  # (M, N r)
        dw = self.scale * (outer @ inner)
        return dw if shape[0] >= shape[1] else dw.mT

    def for_zoo(self) -> tuple[Tensor, Tensor]:
        """Return lambda (N, r) and gamma (N, d) as zoo has them.

        Bases at the end that are only filled up are left out.
        """
        used = (self.lam.mT.abs().sum(1) + self.gamma.abs().sum(1)).nonzero()
        count = int(used.max()) + 1 if used.numel() else 1
        return self.lam.mT[:count], self.gamma[:count]

    def tensors(self) -> Iterable[Tensor]:
        return self.lam, self.gamma, self.A, self.B

    def factory(self) -> ParameterizationFactory:
        """Return RandLoRA, or a dense update of bases that zoo cannot draw again."""
        if self.seed is None:
            return super().factory()
        lam, _ = self.for_zoo()
        rank = lam.shape[1]
        return functools.partial(
            RandLoRA, rank=rank, num_bases=len(lam), alpha=self.scale * rank, seed=self.seed
        )

    def fill_(self, p: Any, base: Tensor, scale: float) -> None:
        if self.seed is None:
            return super().fill_(p, base, scale)
        lam, gamma = self.for_zoo()
        p.randlora_lambda.copy_(lam / scale)
        p.randlora_gamma.copy_(gamma)
        return None


def peft_order(columns: Tensor, bases: int, rank: int) -> Tensor:
    """Order B's columns as peft pairs them.

    From those of B_1, ..., B_N side by side, (M, N r), it makes (M, N, r).
    """
    return columns.unflatten(1, (bases, rank)).mT.reshape(-1, bases, rank)


# ---- Reading -------------------------------------------------------------------------------------


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read diagonals by layer with the bases of all, and what else was trained.

    Raises:
        UserError: if the bases are not in the file, or something is damaged.
    """
    shared, rest = same_bases(where, tensors, "randlora")
    layers, others = by_layer(rest, r"(.+)\.randlora_(lambda|gamma)")
    settings, (a, b) = Settings(config), (shared.get("A"), shared.get("B"))
    scale = settings.number("randlora_alpha", 640) / settings.whole("r", 32)
    if a is None or b is None:
        raise UserError(
            f"{where} has no bases, and peft would draw them anew, not on every machine alike: "
            "save it with save_projection, or merge it with peft instead"
        )
    if a.ndim != 3 or b.ndim != 3 or a.shape[1] != 1 or a.shape[0] != b.shape[2]:
        raise UserError(f"{where} has no bases (r, 1, d) and (M, N, r): use another one")
    updates: dict[str, Update] = {}
    for layer, parts in layers.items():
        lam, gamma = parts.get("lambda"), parts.get("gamma")
        if lam is None or gamma is None or not _fit(lam, gamma, a, b):
            raise UserError(
                f"{where}: {layer} has no diagonals (r, N) and (N, d) of its bases: use another one"
            )
        seed = _seed(config, a, b, len(gamma))
        updates[layer] = Diagonals(lam.float(), gamma.float(), a.float(), b.float(), scale, seed)
    return Found(updates, others)


def _fit(lam: Tensor, gamma: Tensor, a: Tensor, b: Tensor) -> bool:
    """Return whether diagonals are (r, N) and (N, d), with no more than the bases have."""
    if not lam.ndim == gamma.ndim == 2 or not gamma.numel():
        return False
    bases, d = gamma.shape
    return lam.shape == (len(a), bases) and bases <= b.shape[1] and d <= a.shape[2]


def _seed(config: dict[str, Any], a: Tensor, b: Tensor, bases: int) -> int | None:
    """Return the seed with which zoo draws these bases, N = `bases` of them, or None."""
    key = config.get(SEED)
    if type(key) is not int or not -(2**63) <= key < 2**63:
        return None
    mine_a, mine_b = _bases(len(a), a.shape[2], len(b), bases, key)
    ours = torch.allclose(a[:, 0].float(), mine_a)
    return key if ours and torch.allclose(b[:, :bases].float(), mine_b) else None


def _bases(rank: int, smaller: int, larger: int, bases: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return zoo's bases, A (r, d) and B (M, N, r) in peft's order, float32."""
    b = uniform_matrix(larger, bases * rank, seed, "B")
    return uniform_matrix(rank, smaller, seed, "A").float(), peft_order(b, bases, rank).float()


# ---- Writing -------------------------------------------------------------------------------------


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all layers are RandLoRA on corners of the same bases.

    peft must have as many of them for every layer, for the number decides which column of B belongs
    to which base, and no fewer than a layer has.
    """
    ps: list[Any] = [layer.parameterization for layer in layers.values()]
    if not all(isinstance(p, RandLoRA) for p in ps):
        return False
    alike = len({(p.seed, p.rank, _peft_bases(p)) for p in ps}) == 1
    return alike and all(p.num_bases <= _peft_bases(p) for p in ps)


def _peft_bases(p: RandLoRA) -> int:
    """Return the fewest bases that reach full rank."""
    return math.ceil(min(p.shape) / p.rank)


def write(layers: Mapping[str, ZooLayer]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config, lambda (r, N) and gamma (N, d) of each layer, and the bases once.

    Lambda and gamma are filled up with zeros.
    """
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    scales = {name: layer.scale * ps[name].scale for name, layer in layers.items()}
    scale = Counter(scales.values()).most_common(1)[0][0]
    tensors = {}
    for name, p in ps.items():
        missing = _peft_bases(p) - p.num_bases
        lam = nn.functional.pad(p.randlora_lambda * (scales[name] / scale), (0, 0, 0, missing)).mT
        gamma = nn.functional.pad(p.randlora_gamma, (0, 0, 0, missing))
        tensors[f"{PREFIX}{name}.randlora_lambda"] = lam
        tensors[f"{PREFIX}{name}.randlora_gamma"] = gamma
    rank, seed, bases = p.rank, p.seed, _peft_bases(p)
    sides = [max(p.shape[i] for p in ps.values()) for i in (0, 1)]
    # peft makes as many bases as the largest of both sides would need.
    unused = math.ceil(min(sides) / rank) - bases
    a, b = _bases(rank, min(sides), max(sides), bases, seed)
    tensors["base_model.randlora_A"] = a[:, None, :]  # (r, 1, d)
    tensors["base_model.randlora_B"] = nn.functional.pad(b, (0, 0, 0, unused))  # (M, N, r)
    config = {
        "peft_type": "RANDLORA",
        "r": rank,
        "randlora_alpha": whole_if_it_is(scale * rank),
        "randlora_dropout": 0.0,
        "save_projection": True,
        SEED: seed,
        "sparse": False,
        "very_sparse": False,
    }
    return config, tensors
