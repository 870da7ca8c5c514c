"""VeRA as peft has it: dW = diag(b) B diag(d) A, with corners of one A (r, N) and one B (M, r)."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import VeRA
from zoo.parameterizations.factory import ParameterizationFactory
from zoo.runs.peft.adapter import Found, Update, same_bases
from zoo.runs.peft.formats import (
    Parts,
    Written,
    alike,
    all_are,
    nothing_unsupported,
    of_dimensions,
    read_layers,
    tensors_of,
)
from zoo.runs.peft.settings import Settings

CONV1D, BIAS = True, "vera_only"
unsupported = nothing_unsupported

SEED = "projection_prng_key"
"""The key of the config with the seed of A and B; peft reads them from the file, with
`save_projection`."""


@dataclass(frozen=True, eq=False)
class Vectors(Update):
    """VeRA's two vectors, and the matrices that layers share.

    Args:
        b: (m,).
        d: (r,).
        A: (r, N), N >= n.
        B: (M, r), M >= m.
        drawn: who draws these matrices of `seed`, if anyone: peft, or zoo.
        seed: of A and B.
    """

    b: Tensor
    d: Tensor
    A: Tensor
    B: Tensor
    drawn: Literal["peft", "zoo", None]
    seed: int

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether a weight can be (out_features, in_features) = `shape`."""
        return len(self.b) == shape[0] <= len(self.B) and shape[1] <= self.A.shape[1]

    def size(self) -> str:
        """Write the sizes that the weight can have."""
        return f"{len(self.b)} by at most {self.A.shape[1]}"

    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        left = self.b[:, None] * self.B[: shape[0]]
        return left @ (self.d[:, None] * self.A[:, : shape[1]])

    def tensors(self) -> Iterable[Tensor]:
        return self.b, self.d, self.A, self.B

    def factory(self) -> ParameterizationFactory:
        """Return VeRA, or a dense update of matrices that no seed brings back."""
        if self.drawn is None:
            return super().factory()
        cut_from = [len(self.B), self.A.shape[1]] if self.drawn == "peft" else None
        return functools.partial(VeRA, rank=len(self.d), cut_from=cut_from, seed=self.seed)

    def fill_(self, p: Any, base: Tensor, scale: float) -> None:
        if self.drawn is None:
            return super().fill_(p, base, scale)
        p.vera_lambda_b.copy_(self.b / scale)
        own = 1.0 if self.drawn == "peft" else math.sqrt(p.in_features / self.A.shape[1])
        p.vera_lambda_d.copy_(self.d * own)  # zoo's A has the variance 2 / n, and not 2 / N
        return None


def read(where: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Found:
    """Read the vectors of each layer, with the matrices of all.

    Raises:
        UserError: if the matrices are not in the file, or something is damaged.
    """
    shared, rest = same_bases(where, tensors, "vera")
    a, b = shared.get("A"), shared.get("B")
    if a is None or b is None:
        raise UserError(
            f"{where} has no matrices A and B, and only its backbone knows how large peft would "
            "draw them: save it with save_projection, or merge it with peft instead"
        )
    if not a.ndim == b.ndim == 2 or len(a) != b.shape[1] or not a.numel() or not b.numel():
        raise UserError(f"{where} has no matrices (r, N) and (M, r): use another one")
    seed = Settings(config).seed(SEED, 0)
    a, b = a.float(), b.float()
    drawn = _drawn_by(a, b, seed)

    def update(settings: Settings, parts: Parts) -> Vectors:
        left = of_dimensions(parts, "vera_lambda_b", 1)
        right = of_dimensions(parts, "vera_lambda_d", 1)
        if len(right) != len(a) or len(left) > len(b):
            raise ValueError(settings.layer)
        return Vectors(left, right, a, b, drawn, seed)

    return read_layers(where, config, rest, "vera_lambda_[bd]", "vera_", update)


def _drawn_by(a: Tensor, b: Tensor, seed: int) -> Literal["peft", "zoo", None]:
    """Return who draws these matrices of a seed; nobody does of a rank that zoo's VeRA has not."""
    sides = len(b), a.shape[1]
    if len(a) > math.prod(sides):
        return None
    ways: dict[Literal["peft", "zoo"], tuple[int, int] | None] = {"peft": sides, "zoo": None}
    for who, cut_from in ways.items():
        p = VeRA(*sides, rank=len(a), cut_from=cut_from, seed=seed)
        if torch.allclose(a, p.vera_A.float()) and torch.allclose(b, p.vera_B.float()):
            return who
    return None


def holds(layers: Mapping[str, ZooLayer]) -> bool:
    """Return whether all are VeRA of one rank and seed, cut from matrices of one kind."""
    return all_are(layers, VeRA) and alike(layers, "rank", "seed", "cut_from")


def write(layers: Mapping[str, ZooLayer]) -> Written:
    """Return config, the vectors of each layer, and A and B once; a layer's scale goes into b."""
    ps: dict[str, Any] = {name: layer.parameterization for name, layer in layers.items()}
    p = next(iter(ps.values()))
    rows, columns = (max(each.shape[i] for each in ps.values()) for i in (0, 1))
    # Corners of this one, which is as large as peft would make it.
    whole = VeRA(rows, columns, rank=p.rank, cut_from=p.cut_from, seed=p.seed)

    def parts(layer: ZooLayer) -> Parts:
        one: Any = layer.parameterization
        own = 1.0 if p.cut_from else math.sqrt(columns / one.in_features)
        return {
            "vera_lambda_b": layer.scale * one.vera_lambda_b,
            "vera_lambda_d": own * one.vera_lambda_d,
        }

    config = {
        "peft_type": "VERA",
        "r": p.rank,
        SEED: p.seed,
        "save_projection": True,
        "vera_dropout": 0.0,
        "d_initial": p.d_initial,
    }
    matrices = {f"base_model.vera_{each}": getattr(whole, f"vera_{each}") for each in "AB"}
    return config, tensors_of(layers, parts) | matrices
