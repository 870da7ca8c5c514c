"""Subspaces spanned by K members of an orthonormal basis of the (m, n) matrices.

    W = synthesize(scatter(c)),   c in R^K,   |W|_F = |c|

A subspace is a basis and a support. `synthesize` and its adjoint `analyze` are the basis;
`zoo.parameterizations.subspaces.separable` has both for the bases of `zoo.bases` with one matrix a
side. `selection` is the support. Everything else is inherited: the budget, initialisation,
projection, the learning-rate multiplier, the backward pass and the tests.
"""

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases import seeds
from zoo.bases.selection import Selection, select
from zoo.bases.vmapped import Function, transforming
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget


@contextmanager
def _swapped(subspace: "OrthonormalSubspace", buffers: Sequence[Tensor | None]) -> Iterator[None]:
    before = dict(subspace._buffers)
    subspace._buffers.update(zip(before, buffers, strict=True))
    try:
        yield
    finally:
        subspace._buffers.update(before)


def _with_buffers(
    subspace: "OrthonormalSubspace", buffers: Sequence[Tensor | None]
) -> AbstractContextManager[None]:
    """Return the context in which a subspace has other buffers, given in the order of its own.

    Given none, it has its own.
    """
    return _swapped(subspace, buffers) if buffers else nullcontext()


class _OfSubspace(Function):
    """A map (input, subspace, buffers) -> output whose backward pass needs the latter two alone."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.subspace, buffers = inputs
        ctx.save_for_backward(*buffers)


class _Synthesize(_OfSubspace):
    """c -> W.

    The map is linear and isometric, so its backward pass is `_Analyze`, written out; nothing is
    kept.
    """

    @staticmethod
    def forward(
        coef: Tensor, subspace: "OrthonormalSubspace", buffers: tuple[Tensor | None, ...]
    ) -> Tensor:
        with _with_buffers(subspace, buffers):
            return subspace.expand(coef, subspace.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Analyze.apply(grad, ctx.subspace, ctx.saved_tensors), None, None


class _Analyze(_OfSubspace):
    """W -> c, the adjoint of `_Synthesize`.

    It is differentiable itself, so that second derivatives exist.
    """

    @staticmethod
    def forward(
        weight: Tensor, subspace: "OrthonormalSubspace", buffers: tuple[Tensor | None, ...]
    ) -> Tensor:
        with _with_buffers(subspace, buffers):
            return subspace.gather(weight, subspace.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Synthesize.apply(grad, ctx.subspace, ctx.saved_tensors), None, None


BUILT_FROM = ("weight", "expand", "gather", "synthesize", "analyze", "tables")
"""What makes W of an orthonormal subspace."""


class OrthonormalSubspace(WeightParameterization):
    """W = synthesize(S), S with K coefficients in it.

    Orthonormal: |W| = |c|. The positions are fixed by `selection`; K parameters.

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: the share of the mn coefficients that is trained, in (0, 1]; or
        coefficients: their number, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        selection: which ones: `random`, `zigzag` (lowest anti-diagonals) or `lowpass` (a box at the
            origin).
        seed: of the basis and, together with the layer's name, of a random selection.

    Raises:
        ValueError: for a budget out of range, given twice or not at all.
    """

    shortcuts = {
        **WeightParameterization.shortcuts,
        "forward": BUILT_FROM,
        "forward_update": BUILT_FROM,
        "batch_key": (*BUILT_FROM, "layout", "reset_buffers"),
        "spread": (*BUILT_FROM, "layout", "reset_buffers"),
        "collect": (*BUILT_FROM, "layout", "reset_buffers"),
    }
    places: Tensor

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        selection: Selection = "random",
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        self.selection = selection
        self.coef = nn.Parameter(
            torch.empty(layer_budget(out_features, in_features, ratio, coefficients, lora_rank))
        )
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def synthesize(self, plane: Tensor) -> Tensor:
        """Return W from all mn coefficients: (m, n) to (m, n), linear, |W| = |S|.

        `plane` may be overwritten.

        It may depend on the layer. Layers whose class has this from `SeparableSubspace`, which
        takes several at a time too, are built as one batch where their sides are the same; a class
        of its own is built alone (`batch_key`).
        """

    @abstractmethod
    def analyze(self, weight: Tensor) -> Tensor:
        """Return the adjoint of `synthesize`, which is its inverse: (m, n) to (m, n)."""

    # ---- A subclass may override -----------------------------------------------------------------

    def layout(self) -> tuple[Tensor | None, tuple[int, ...]]:
        """Return where each coefficient stands in the flat plane, (m, n), and the plane's shape.

        None means in natural order.
        """
        return None, self.shape

    def storage_order(self) -> Tensor | None:
        """Return the rank of each coefficient, (m, n), by which `coef` is ordered.

        It is the same on every device. None means in natural order.
        """
        return None

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

    # ---- Concrete --------------------------------------------------------------------------------

    @property
    def support(self) -> Tensor:
        """Flat positions of the trained coefficients in the (m, n) plane; (K,), on the CPU.

        They are in the order of `coef`.
        """
        generator = seeds.generator(self.seed, "support", self.layer)
        support = select(self.selection, *self.shape, len(self.coef), generator)
        order = self.storage_order()
        return support if order is None else support[order.flatten()[support].argsort()]

    def reset_buffers(self) -> None:
        self._buffers.clear()
        # W is built in it and rounded once.
        self.compute_dtype = torch.promote_types(self.coef.dtype, torch.float32)
        places, self.plane_shape = self.layout()
        support = self.support
        places = support if places is None else places.flatten()[support]
        self.register_buffer("places", places.to(self.coef.device), persistent=False)

    def expand(self, coef: Tensor, places: Tensor) -> Tensor:
        """Return synthesize(scatter(c)); (K,) to (m, n), in c's dtype."""
        plane = torch.zeros(self.plane_shape, dtype=self.compute_dtype, device=coef.device)
        plane.view(-1).scatter_(0, places, coef.to(self.compute_dtype))
        return self.synthesize(plane).to(coef.dtype)

    def gather(self, weight: Tensor, places: Tensor) -> Tensor:
        """Return the adjoint of `expand`: (m, n) to (K,)."""
        plane = self.analyze(weight.to(self.compute_dtype))
        return plane.reshape(-1).index_select(0, places).to(weight.dtype)

    def weight(self) -> Tensor:
        # A transform may have a batch of buffers; asked for by name, those of the meta device are
        # rebuilt.
        buffers = tuple(getattr(self, name) for name in [*self._buffers]) if transforming() else ()
        return _Synthesize.apply(self.coef, self, buffers)

    def spread(self, coef: Tensor) -> Tensor:
        """Return the matrix of coefficients up to rotations; (K,) to (m, n).

        It is P W Q with P and Q orthogonal, here W itself.
        """
        return self.expand(coef, self.places)

    def collect(self, matrix: Tensor) -> Tensor:
        """Return the adjoint of `spread`: (m, n) to (K,)."""
        return self.gather(matrix, self.places)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw c_i ~ N(0, std^2 mn / K): |W|^2 = |c|^2, so E[W_ij^2] = std^2."""
        self.coef.normal_(0, 1).mul_(
            std * math.sqrt(self.out_features * self.in_features / len(self.coef))
        )

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Set c = scatter^T(analyze(target)), the least-squares solution."""
        self.coef.copy_(self.gather(target.to(self.coef.device, self.compute_dtype), self.places))

    @property
    def lr_mult(self) -> float:
        """mn / K, by which K moves of +-lr go as far as a dense step's mn.

        So it is along a gradient that the basis mixes well:

        -<G, dW> = lr sum_K |analyze(G)_i| ~ lr (K / mn) sum_mn |G_ij|
        """
        return self.out_features * self.in_features / len(self.coef)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, selection={self.selection!r}"
