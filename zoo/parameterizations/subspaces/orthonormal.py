"""Subspaces spanned by K members of an orthonormal basis of the (m, n) matrices.

    W = synthesize(scatter(c)),   c in R^K,   |W|_F = |c|

A subspace is a basis and a support. `synthesize` and its adjoint `analyze` are the basis;
`zoo.parameterizations.subspaces.separable` has both for the bases of `zoo.bases` with one matrix a
side. `selection` is the support. Everything else is inherited: the budget, initialisation,
projection, the learning-rate multiplier, the backward pass and the tests.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from zoo.bases import seeds
from zoo.bases.selection import Selection, select
from zoo.parameterizations.isometry import MAPPED_BY, Isometry

BUILT_FROM = (*MAPPED_BY, "synthesize", "analyze", "tables")
"""What makes W of an orthonormal subspace."""


class OrthonormalSubspace(Isometry):
    """W = synthesize(S), S with K coefficients in it.

    Orthonormal: |W| = |c|. The positions are fixed by `selection`; K parameters.

        >>> class Transposed(zoo.OrthonormalSubspace):
        ...     def synthesize(self, spectrum):
        ...         return spectrum.flip(-1)
        ...
        ...     def analyze(self, weight):
        ...         return weight.flip(-1)
        >>> Transposed(8, 8, ratio=0.25).weight().shape
        torch.Size([8, 8])

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
        **Isometry.shortcuts,
        "forward": BUILT_FROM,
        "forward_update": BUILT_FROM,
        "building": BUILT_FROM,
        "cost": (*BUILT_FROM, "forward", "forward_update"),
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
        self.selection = selection  # before super(), which builds the buffers
        super().__init__(out_features, in_features, ratio, coefficients, seed, lora_rank)

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

    # ---- Concrete --------------------------------------------------------------------------------

    @property
    def support(self) -> Tensor:
        """Flat positions of the trained coefficients in the (m, n) plane; (K,), on the CPU.

        They are in the order of `coef`.
        """
        support, order = self._selected(), self.storage_order()
        return support if order is None else support[order.flatten()[support].argsort()]

    def _selected(self) -> Tensor:
        """Return `support` in ascending order."""
        seed = seeds.stream_seed(self.seed, "support", self.layer)
        return select(self.selection, *self.shape, len(self.coef), seed)

    def reset_buffers(self) -> None:
        self._buffers.clear()
        places, self.plane_shape = self.layout()
        if places is not None and places is self.storage_order():
            # They are stored as they stand in the plane: one sort in place of two.
            places = places.flatten()[self._selected()].sort().values
        else:
            support = self.support
            places = support if places is None else places.flatten()[support]
        self.register_buffer("places", places.to(self.coef.device), persistent=False)

    def expand(self, coef: Tensor) -> Tensor:
        """Return synthesize(scatter(c)); (K,) to (m, n), in c's dtype."""
        plane = torch.zeros(self.plane_shape, dtype=self.compute_dtype, device=coef.device)
        plane.view(-1).scatter_(0, self.places, coef.to(self.compute_dtype))
        return self.synthesize(plane).to(coef.dtype)

    def gather(self, weight: Tensor) -> Tensor:
        """Return the adjoint of `expand`: (m, n) to (K,)."""
        plane = self.analyze(weight.to(self.compute_dtype))
        return plane.reshape(-1).index_select(0, self.places).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, selection={self.selection!r}"
