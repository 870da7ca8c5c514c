"""Isometries: W is a sum of K orthonormal matrices, each with its coefficient.

    W = expand(c) = sum_i c_i E_i,   <E_i, E_j> = 1 if i = j else 0,   |W|_F = |c|

`expand` and its adjoint `gather` are the map. Everything else is inherited: initialisation,
projection, the learning-rate multiplier, the backward pass and the tests. The K matrices may be
members of a basis of the plane (`zoo.parameterizations.subspaces.orthonormal`), or any others.
"""

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases.vmapped import Function, transforming
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget


@contextmanager
def _swapped(isometry: "Isometry", buffers: Sequence[Tensor | None]) -> Iterator[None]:
    before = dict(isometry._buffers)
    isometry._buffers.update(zip(before, buffers, strict=True))
    try:
        yield
    finally:
        isometry._buffers.update(before)


def _with_buffers(
    isometry: "Isometry", buffers: Sequence[Tensor | None]
) -> AbstractContextManager[None]:
    """Return the context in which an isometry has other buffers, given in the order of its own.

    Given none, it has its own.
    """
    return _swapped(isometry, buffers) if buffers else nullcontext()


class _OfIsometry(Function):
    """A map (input, isometry, buffers) -> output whose backward pass needs the latter two alone."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.isometry, buffers = inputs
        ctx.save_for_backward(*buffers)


class _Expand(_OfIsometry):
    """c -> W.

    The map is linear and isometric, so its backward pass is `_Gather`, written out; nothing is
    kept.
    """

    @staticmethod
    def forward(coef: Tensor, isometry: "Isometry", buffers: tuple[Tensor | None, ...]) -> Tensor:
        with _with_buffers(isometry, buffers):
            return isometry.expand(coef)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grad, ctx.isometry, ctx.saved_tensors), None, None


class _Gather(_OfIsometry):
    """W -> c, the adjoint of `_Expand`.

    It is differentiable itself, so that second derivatives exist.
    """

    @staticmethod
    def forward(weight: Tensor, isometry: "Isometry", buffers: tuple[Tensor | None, ...]) -> Tensor:
        with _with_buffers(isometry, buffers):
            return isometry.gather(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Expand.apply(grad, ctx.isometry, ctx.saved_tensors), None, None


MAPPED_BY = ("weight", "expand", "gather")
"""What makes W of an isometry."""


class Isometry(WeightParameterization):
    """W = sum_i c_i E_i, a span of K orthonormal matrices.

    Orthonormal: |W| = |c|; K parameters.

        >>> issubclass(zoo.DCT, zoo.Isometry), issubclass(zoo.LoRA, zoo.Isometry)
        (True, False)

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: K = ratio mn, rounded, ratio in (0, 1]; or
        coefficients: K, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        seed: of everything that is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all.
    """

    shortcuts = {
        **WeightParameterization.shortcuts,
        "forward": MAPPED_BY,
        "forward_update": MAPPED_BY,
        "building": MAPPED_BY,
        "cost": (*MAPPED_BY, "forward", "forward_update"),
        "batch_key": (*MAPPED_BY, "reset_buffers"),
        "spread": (*MAPPED_BY, "reset_buffers"),
        "collect": (*MAPPED_BY, "reset_buffers"),
    }

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        self.coef = nn.Parameter(
            torch.empty(layer_budget(out_features, in_features, ratio, coefficients, lora_rank))
        )
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def expand(self, coef: Tensor) -> Tensor:
        """Return W of coefficients; (K,) to (m, n), linear, |W| = |c|.

        It is built in `compute_dtype` and rounded once, to c's dtype. It may compute in place,
        since `weight` has a backward pass of its own, which is `gather`.
        """

    @abstractmethod
    def gather(self, weight: Tensor) -> Tensor:
        """Return the adjoint of `expand`, which inverts it: (m, n) to (K,)."""

    # ---- A subclass may override -----------------------------------------------------------------

    def batch_key(self) -> Hashable:
        """Return what maps have in common that can be built as one batch (`zoo.layers.batched`).

        None means that W is built alone.

        Whoever returns a key says that `expand_batch` and `gather_batch` of maps with equal keys
        are the `expand` and `gather` of each.
        """
        return None

    @staticmethod
    def expand_batch(maps: "Sequence[Any]", coefs: Sequence[Tensor]) -> Tensor:
        """Return `expand` of B maps of one `batch_key`; B of (K_i,) to (B, m, n).

        It is in the dtype that W is built in.
        """
        raise NotImplementedError

    @staticmethod
    def gather_batch(maps: "Sequence[Any]", weights: Tensor) -> Sequence[Tensor]:
        """Return the adjoint of `expand_batch`: (B, m, n) to B of (K_i,)."""
        raise NotImplementedError

    def spread(self, coef: Tensor) -> Tensor:
        """Return the matrix of coefficients up to rotations; (K,) to (m, n).

        It is P W Q with P and Q orthogonal, here W itself.
        """
        return self.expand(coef)

    def collect(self, matrix: Tensor) -> Tensor:
        """Return the adjoint of `spread`: (m, n) to (K,)."""
        return self.gather(matrix)

    # ---- Concrete --------------------------------------------------------------------------------

    @property
    def compute_dtype(self) -> torch.dtype:
        """The precision that W is built in, to be rounded once: float32, or float64 of such c."""
        return torch.promote_types(self.coef.dtype, torch.float32)

    def weight(self) -> Tensor:
        # A transform may have a batch of buffers; asked for by name, those of the meta device are
        # rebuilt.
        buffers = tuple(getattr(self, name) for name in [*self._buffers]) if transforming() else ()
        return _Expand.apply(self.coef, self, buffers)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw c_i ~ N(0, std^2 mn / K): |W|^2 = |c|^2, so E[W_ij^2] = std^2."""
        self.coef.normal_(0, 1).mul_(
            std * math.sqrt(self.out_features * self.in_features / len(self.coef))
        )

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Set c = gather(target), the least-squares solution."""
        self.coef.copy_(self.gather(target.to(self.coef.device, self.compute_dtype)))

    @property
    def lr_mult(self) -> float:
        """mn / K, by which K moves of +-lr go as far as a dense step's mn.

        So it is along a gradient that the matrices mix well:

        -<G, dW> = lr sum_K |gather(G)_i| ~ lr (K / mn) sum_mn |G_ij|
        """
        return self.out_features * self.in_features / len(self.coef)
