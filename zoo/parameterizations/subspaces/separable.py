"""Subspaces of bases with one orthogonal matrix a side, W = L^T S R."""

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from zoo.bases.basis import Plan, Separable, plan_of_sides
from zoo.bases.selection import mask_norm
from zoo.parameterizations.base import overtaken
from zoo.parameterizations.subspaces.orthonormal import OrthonormalSubspace


def _side_of_basis(self: "SeparableSubspace", n: int, axis: int) -> Tensor | None:
    """Return the side that the basis has."""
    assert self.basis is not None
    return self.basis.side(n, axis)


class SeparableSubspace(OrthonormalSubspace):
    """W = L^T S R: one orthogonal matrix per side.

    L is (m, m), R (n, n). A subclass names a `basis` of `zoo.bases`, or defines `side`. A basis
    multiplies in its own way, such as the cosines' FFT, where no class below the one that names it
    redefines `side`, `synthesize` or `analyze`.

        >>> class Identity(zoo.SeparableSubspace):
        ...     def side(self, n, axis):
        ...         return torch.eye(n, dtype=torch.float64)
        >>> Identity(8, 4, ratio=0.25).num_trainable
        8
    """

    basis: ClassVar[Separable | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take `side` from a basis that a class names, and not from a class above it.

        Raises:
            TypeError: for a class that says `cosine = True`, as it once did to have the FFT.
        """
        if "cosine" in vars(cls):
            raise TypeError(f"{cls.__name__}.cosine is basis = zoo.bases.cosine.Cosine() now")
        if "basis" in vars(cls) and "side" not in vars(cls):
            cls.side = _side_of_basis  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def side(self, n: int, axis: int) -> Tensor | None:
        """Return the orthogonal matrix of axis 0 (rows of W) or 1 (columns); (n, n), float64.

        Basis vectors are its rows. None leaves the axis as it is. A class with a `basis` has that
        one's.
        """

    # ---- Concrete --------------------------------------------------------------------------------

    def layout(self) -> tuple[Tensor | None, tuple[int, ...]]:
        basis = self._serving_basis()
        return (None, self.shape) if basis is None else basis.layout(*self.shape, self.coef.device)

    def storage_order(self) -> Tensor | None:
        """Return the order of the basis that is named, also where it does not serve."""
        return None if self.basis is None else self.basis.storage_order(*self.shape)

    def _serving_basis(self) -> Separable | None:
        """Return the basis, unless a subclass has sides or a transform of its own."""
        own = overtaken(type(self), "basis", ("side", "synthesize", "analyze"))
        return None if own else self.basis

    def reset_buffers(self) -> None:
        self._own_places: Tensor | None = None
        self._lr_mult: float | None = None
        super().reset_buffers()
        basis, place = self._serving_basis(), (self.coef.device, self.compute_dtype)
        plan: Plan = (
            plan_of_sides(self.side, self.shape, *place)
            if basis is None
            else basis.plan(*self.shape, *place)
        )
        self._plan: Any = type(plan)
        for name, table in plan._asdict().items():
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

    @property
    def tables(self) -> Any:
        """What W is built with: the plan of the basis, of buffers."""
        return self._plan(*(getattr(self, name) for name in self._plan._fields))

    def spread(self, coef: Tensor) -> Tensor:
        """Return S = L W R^T, (m, n): the coefficients at their places."""
        return (
            coef.new_zeros(self.out_features * self.in_features)
            .scatter_(0, self.own_places, coef)
            .view(self.shape)
        )

    def collect(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(-1).index_select(0, self.own_places)

    @property
    def lr_mult(self) -> float:
        """sqrt(mn) / |M|_2, M the (m, n) matrix that is 1 where there is a coefficient, else 0.

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

    def building(self) -> tuple[int, int]:
        """Count those of the plan, either way: mn (m + n) with two sides, less through an FFT."""
        count = self.tables.multiply_adds(self.shape)
        return count, count

    def synthesize(self, plane: Tensor) -> Tensor:
        return self.tables.synthesize(plane, self.shape)

    def analyze(self, weight: Tensor) -> Tensor:
        return self.tables.analyze(weight)
