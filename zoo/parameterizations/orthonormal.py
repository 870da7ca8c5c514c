"""Subspaces spanned by K members of an orthonormal basis of the (m, n) matrices.

    W = synthesize(scatter(c)),   c in R^K,   |W|_F = |c|

Two abstract classes, and a new basis is a subclass of either: `OrthonormalSubspace` needs
`synthesize` and its adjoint `analyze`; `SeparableSubspace`, W = L^T S R, needs one orthogonal
matrix per side. Everything else is inherited: the budget, the selection, initialisation,
projection, the learning-rate multiplier, the backward pass and the tests.
"""

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bases import seeds, transforms
from zoo.bases.selection import Selection, mask_norm, select
from zoo.bases.vmapped import Function, transforming
from zoo.parameterizations.base import WeightParameterization, overtaken
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
    """The context in which a subspace has other buffers, all of its own in their order; or, given none, its own."""
    return _swapped(subspace, buffers) if buffers else nullcontext()


class _Synthesize(Function):
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.subspace, buffers = inputs
        ctx.save_for_backward(*buffers)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Analyze.apply(grad, ctx.subspace, ctx.saved_tensors), None, None


class _Analyze(Function):
    """W -> c, the adjoint of `_Synthesize`; differentiable itself, so that second derivatives exist."""

    @staticmethod
    def forward(
        weight: Tensor, subspace: "OrthonormalSubspace", buffers: tuple[Tensor | None, ...]
    ) -> Tensor:
        with _with_buffers(subspace, buffers):
            return subspace.gather(weight, subspace.places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.subspace, buffers = inputs
        ctx.save_for_backward(*buffers)

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
    ahead: Tensor | None = None
    """W, if it has been built already (`zoo.layers.batched`)."""

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
        """W from all mn coefficients: (m, n) to (m, n), linear, |W| = |S|.

        `plane` may be overwritten.

        It may depend on the layer. Layers whose class has this from `SeparableSubspace`, which
        takes several at a time too, are built as one batch where their sides are the same; a class
        of its own is built alone (`batch_key`).
        """

    @abstractmethod
    def analyze(self, weight: Tensor) -> Tensor:
        """The adjoint of `synthesize`, which is its inverse: (m, n) to (m, n)."""

    # ---- A subclass may override -----------------------------------------------------------------

    def layout(self) -> tuple[Tensor | None, tuple[int, ...]]:
        """Where each coefficient stands in the flat plane, (m, n) (None: in natural order), and the plane's shape."""
        return None, self.shape

    def storage_order(self) -> Tensor | None:
        """Rank of each coefficient, (m, n), by which `coef` is ordered (None: natural order); of no device or size."""
        return None

    def batch_key(self) -> Hashable:
        """What maps have in common that can be built as one batch (`zoo.layers.batched`); None: W is built alone.

        Whoever returns a key says that `expand_batch` and `gather_batch` of maps with equal keys
        are the `expand` and `gather` of each.
        """
        return None

    @staticmethod
    def expand_batch(maps: "Sequence[Any]", coefs: Sequence[Tensor]) -> Tensor:
        """`expand` of B maps of one `batch_key`; B of (K_i,) to (B, m, n), in the dtype that W is built in."""
        raise NotImplementedError

    @staticmethod
    def gather_batch(maps: "Sequence[Any]", weights: Tensor) -> Sequence[Tensor]:
        """The adjoint of `expand_batch`: (B, m, n) to B of (K_i,)."""
        raise NotImplementedError

    # ---- Concrete --------------------------------------------------------------------------------

    @property
    def support(self) -> Tensor:
        """Flat positions in the (m, n) plane of the trained coefficients, in the order of `coef`; (K,), on the CPU."""
        generator = seeds.generator(self.seed, "support", self.layer)
        support = select(self.selection, *self.shape, len(self.coef), generator)
        order = self.storage_order()
        return support if order is None else support[order.flatten()[support].argsort()]

    def reset_buffers(self) -> None:
        self._buffers.clear()
        self.compute_dtype = torch.promote_types(
            self.coef.dtype, torch.float32
        )  # W is built in it and rounded once
        places, self.plane_shape = self.layout()
        support = self.support
        places = support if places is None else places.flatten()[support]
        self.register_buffer("places", places.to(self.coef.device), persistent=False)

    def expand(self, coef: Tensor, places: Tensor) -> Tensor:
        """synthesize(scatter(c)); (K,) to (m, n), in c's dtype."""
        plane = torch.zeros(self.plane_shape, dtype=self.compute_dtype, device=coef.device)
        plane.view(-1).scatter_(0, places, coef.to(self.compute_dtype))
        return self.synthesize(plane).to(coef.dtype)

    def gather(self, weight: Tensor, places: Tensor) -> Tensor:
        """The adjoint of `expand`: (m, n) to (K,)."""
        plane = self.analyze(weight.to(self.compute_dtype))
        return plane.reshape(-1).index_select(0, places).to(weight.dtype)

    def weight(self) -> Tensor:
        if self.ahead is not None:
            return self.ahead
        # A transform may have a batch of buffers; asked for by name, those of the meta device are
        # rebuilt.
        buffers = tuple(getattr(self, name) for name in [*self._buffers]) if transforming() else ()
        return _Synthesize.apply(self.coef, self, buffers)

    def spread(self, coef: Tensor) -> Tensor:
        """The matrix of coefficients up to rotations, P W Q with P and Q orthogonal; (K,) to (m, n). Here W itself."""
        return self.expand(coef, self.places)

    def collect(self, matrix: Tensor) -> Tensor:
        """The adjoint of `spread`: (m, n) to (K,)."""
        return self.gather(matrix, self.places)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """c_i ~ N(0, std^2 mn / K): |W|^2 = |c|^2, so E[W_ij^2] = std^2."""
        self.coef.normal_(0, 1).mul_(
            std * math.sqrt(self.out_features * self.in_features / len(self.coef))
        )

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """c = scatter^T(analyze(target)), the least-squares solution."""
        self.coef.copy_(self.gather(target.to(self.coef.device, self.compute_dtype), self.places))

    @property
    def lr_mult(self) -> float:
        """mn / K: along a gradient that the basis mixes well, K moves of +-lr go K / mn as far as a dense step's mn.

        -<G, dW> = lr sum_K |analyze(G)_i| ~ lr (K / mn) sum_mn |G_ij|
        """
        return self.out_features * self.in_features / len(self.coef)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, selection={self.selection!r}"


class SeparableSubspace(OrthonormalSubspace):
    """W = L^T S R: one orthogonal matrix per side.

    L is (m, m), R (n, n). A subclass whose sides are `dct_matrix` may say `cosine = True` (or a
    property of it): large ones then go through the FFT, where no class below it redefines `side`,
    `synthesize` or `analyze`; with `rows_only`, where the left side is None.
    """

    cosine = False
    rows_only = False

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def side(self, n: int, axis: int) -> Tensor | None:
        """The orthogonal matrix of axis 0 (rows of W) or 1 (columns), basis vectors as rows; (n, n), float64.

        None leaves the axis as it is.
        """

    # ---- Concrete --------------------------------------------------------------------------------

    def layout(self) -> tuple[Tensor | None, tuple[int, ...]]:
        if not self.fast:
            return None, self.shape
        shape = *self.shape, self.rows_only
        return transforms.packed_places(*shape), transforms.packed_shape(*shape)

    def storage_order(self) -> Tensor | None:
        """The packed plane's, for cosines: the scatter then runs through memory in order."""
        return transforms.packed_places(*self.shape) if self.cosine and not self.rows_only else None

    def reset_buffers(self) -> None:
        device = self.coef.device
        self._own_places: Tensor | None = None
        self._lr_mult: float | None = None
        cosine = self.cosine and not overtaken(
            type(self), "cosine", ("side", "synthesize", "analyze")
        )
        self.fast: bool = cosine and transforms.fft_pays(*self.shape, device)
        super().reset_buffers()
        tables: transforms.SomeSides | transforms.CosinePlan
        if self.fast:
            tables = transforms.cosine_plan(*self.shape, device, self.compute_dtype, self.rows_only)
        else:
            tables = transforms.SomeSides(
                *(self._shared(self.side(n, axis)) for axis, n in enumerate(self.shape))
            )
        self._tables = type(tables)
        for name, table in tables._asdict().items():
            self.register_buffer(name, table, persistent=False)

    def batch_key(self) -> Hashable:
        return (type(self), self.shape, self.coef.dtype, *map(id, self.tables))

    @staticmethod
    def expand_batch(maps: "Sequence[SeparableSubspace]", coefs: Sequence[Tensor]) -> Tensor:
        first = maps[0]
        planes = coefs[0].new_zeros(len(maps), *first.plane_shape, dtype=first.compute_dtype)
        for plane, space, coef in zip(planes.flatten(1), maps, coefs, strict=True):
            plane.scatter_(0, space.places, coef.to(first.compute_dtype))
        return first.synthesize(planes)

    @staticmethod
    def gather_batch(maps: "Sequence[SeparableSubspace]", weights: Tensor) -> Sequence[Tensor]:
        planes = maps[0].analyze(weights.to(maps[0].compute_dtype)).flatten(1)
        return [
            plane.index_select(0, space.places) for plane, space in zip(planes, maps, strict=True)
        ]

    def _shared(self, side: Tensor | None) -> Tensor | None:
        return None if side is None else seeds.shared(side, self.coef.device, self.compute_dtype)

    @property
    def tables(self) -> transforms.SomeSides | transforms.CosinePlan:
        """What W is built with: the two sides, or the tables of the fast cosine transform."""
        return self._tables(*(getattr(self, name) for name in self._tables._fields))

    def spread(self, coef: Tensor) -> Tensor:
        """S = L W R^T, (m, n): the coefficients at their places."""
        return (
            coef.new_zeros(self.out_features * self.in_features)
            .scatter_(0, self.own_places, coef)
            .view(self.shape)
        )

    def collect(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(-1).index_select(0, self.own_places)

    @property
    def lr_mult(self) -> float:
        """sqrt(mn) / |M|_2, M the (m, n) matrix of zeros and ones that is 1 where there is a coefficient.

        A step of +-lr a coefficient moves W by L^T (lr P) R with P in {-1, 0, 1} on the support,
        and so by

            |dW|_2 = lr |P|_2 <= lr |M|_2,     a dense one by at most lr sqrt(mn),

        with equality where the signs are those of a matrix of rank one, as a gradient's nearly are:
        it is a sum of few outer products that agree from batch to batch, and noise. lr_mult makes
        the two bounds equal, so that features move alike ("A Spectral Condition for Feature
        Learning", arXiv 2310.17813). Evenly spread places have |M|_2 = K / sqrt(mn), so mn / K; a
        box has |M|_2 = sqrt(K), so sqrt(mn / K); zigzag's triangle lies between.
        """
        if self._lr_mult is None:
            self._lr_mult = math.sqrt(self.out_features * self.in_features) / mask_norm(
                self.support, *self.shape
            )
        return self._lr_mult

    @property
    def own_places(self) -> Tensor:
        """`support` where the coefficients are; made when first asked for."""
        if self._own_places is None:
            self._own_places = self.support.to(self.coef.device)
        return self._own_places

    def synthesize(self, plane: Tensor) -> Tensor:
        return transforms.synthesize(plane, self.shape, self.tables)

    def analyze(self, weight: Tensor) -> Tensor:
        return transforms.analyze(weight, self.tables)
