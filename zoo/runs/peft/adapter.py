"""What an adapter is, whatever wrote it: updates of layers, and what else was trained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

CONFIG, TENSORS, BINARY = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""What peft puts before the names of the backbone."""


class Factors(NamedTuple):
    """An update of factors: dW = scale B A, with A (r, in_features) and B (out_features, r)."""

    A: Tensor
    B: Tensor
    scale: float

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether a weight can be (out_features, in_features) = `shape`."""
        return (len(self.B), self.A.shape[1]) == shape

    def size(self) -> str:
        """Write the size of the weight."""
        return f"({len(self.B)}, {self.A.shape[1]})"

    def matrix(self, shape: tuple[int, int]) -> Tensor:
        """Return dW, float32; its shape is known from the factors anyway."""
        return self.scale * (self.B.float() @ self.A.float())


class Diagonals(NamedTuple):
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

    def matrix(self, shape: tuple[int, int]) -> Tensor:
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


Update = Factors | Diagonals


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read.

    Args:
        config: its adapter_config.json, or what stands for one.
        updates: by the layer's name in the backbone.
        saved: parameters that were trained as they are, such as those of the head, by name.
        bases: weights of layers before their updates, which the backbone must have as well, by the
            layer's name.
    """

    config: dict[str, Any]
    updates: dict[str, Update]
    saved: dict[str, Tensor]
    bases: dict[str, Tensor]


def by_layer(
    tensors: Mapping[str, Tensor], pattern: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Group tensors by the layer and the part that a pattern finds in their names.

    Args:
        tensors: by name.
        pattern: of a whole name, with a group for the layer and one for the part.

    Returns:
        Parts by layer and part, and the tensors whose names do not match, by name.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(pattern, name):
            layers.setdefault(match[1], {})[match[2]] = tensor
        else:
            others[name] = tensor
    return layers, others


def apart_from_bases(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what was trained as it is, and weights below an update, by the backbone's names."""
    layers, saved = by_layer(tensors, r"(.+)\.base_layer\.(weight|bias)")
    bases = {f"{layer}.{part}": each[part] for layer, each in layers.items() for part in each}
    return saved, bases


def peft_order(columns: Tensor, bases: int, rank: int) -> Tensor:
    """Order B's columns as peft pairs them.

    From those of B_1, ..., B_N side by side, (M, N r), it makes (M, N, r).
    """
    return columns.unflatten(1, (bases, rank)).mT.reshape(-1, bases, rank)


def finite(update: Update) -> bool:
    """Return whether all numbers of an update are finite."""
    return all(bool(torch.isfinite(part).all()) for part in update if isinstance(part, Tensor))


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, whatever their dtypes."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())
