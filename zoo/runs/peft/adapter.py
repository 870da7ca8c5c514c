"""What an adapter is, whatever wrote it: updates of layers, and what else was trained."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

CONFIG, TENSORS, BINARY, PREFIX = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "base_model.model.",
)


class Factors(NamedTuple):
    """dW = scale B A, with A (r, in_features) and B (out_features, r)."""

    A: Tensor
    B: Tensor
    scale: float

    def fits(self, shape: tuple[int, int]) -> bool:
        """Whether a weight can be (out_features, in_features) = `shape`."""
        return (len(self.B), self.A.shape[1]) == shape

    def size(self) -> str:
        """Of the weight, in words."""
        return f"({len(self.B)}, {self.A.shape[1]})"

    def matrix(self, shape: tuple[int, int]) -> Tensor:
        """dW, float32; `shape` is known anyway."""
        return self.scale * (self.B.float() @ self.A.float())


class Diagonals(NamedTuple):
    """RandLoRA's dW = scale sum_n B_n diag(lambda_n) A diag(gamma_n), a corner of bases that layers share.

    With M and d the larger and the smaller side of dW, which is transposed where it is wide: A is
    (r, 1, >= d), B (>= M, >= N, r), lam (r, N) and gamma (N, d). Row k of the n-th scaled A goes
    with column k N + n of B's first N bases side by side, and not with column k of B_n.

    Args:
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
        """Whether a weight can be (out_features, in_features) = `shape`."""
        return min(shape) == self.gamma.shape[1] and max(shape) <= len(self.B)

    def size(self) -> str:
        """Of the weight, in words."""
        return f"{self.gamma.shape[1]} by at most {len(self.B)}"

    def matrix(self, shape: tuple[int, int]) -> Tensor:
        """dW of this shape, float32."""
        bases, d = self.gamma.shape
        inner = (
            self.lam.float()[:, :, None] * self.A[:, :, :d].float() * self.gamma.float()
        )  # (r, N, d)
        dw = self.scale * (
            self.B[: max(shape), :bases].float().flatten(1) @ inner.flatten(0, 1)
        )  # (M, d)
        return dw if shape[0] >= shape[1] else dw.mT

    def for_zoo(self) -> tuple[Tensor, Tensor]:
        """lambda (N, r) and gamma (N, d) as zoo has them, without the bases at the end that are only filled up."""
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


def peft_order(columns: Tensor, bases: int, rank: int) -> Tensor:
    """B's columns as peft pairs them, (M, N, r), from those of B_1, ..., B_N side by side, (M, N r)."""
    return columns.unflatten(1, (bases, rank)).mT.reshape(-1, bases, rank)


def finite(update: Update) -> bool:
    """Whether all of its numbers are."""
    return all(bool(torch.isfinite(part).all()) for part in update if isinstance(part, Tensor))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, whatever their dtypes."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())
