"""Maps of W0 by two matrices that follow from it alone, computed once, until W0 is another one."""

import hashlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from zoo.bases.seeds import without_autocast
from zoo.bases.vmapped import transforming
from zoo.parameterizations.low_rank.products import add_product
from zoo.parameterizations.of_base.base_map import OfBase

Pair = tuple[Tensor, Tensor]
STORED = "zoo_stored"
"""The attribute of a W0 that is made for each use, of what it is made of."""


def made_of(base: Tensor, stored: Tensor) -> Tensor:
    """Mark a W0 as made of a tensor in other memory, which tells whether W0 has changed."""
    shares = base is stored or base._base is stored
    if not (shares or is_compiling() or transforming()):
        setattr(base, STORED, stored)
    return base


class SidesOfBase(OfBase):
    """W' = W0 + s L R, with factors of the coefficients and of two matrices of W0, its sides.

    Sides are in no checkpoint, copy or pickle. W0 counts as another one where autograd's version
    counter says so, where it lies elsewhere in memory, or where it has another dtype or device. A
    compiled or transformed pass, which cannot look, takes those that are there.
    """

    _held: tuple[tuple[object, ...], Pair] | None = None

    @abstractmethod
    def compute_sides(self, base: Tensor) -> Pair:
        """Return both sides of W0, (m, r) and (r, n), in any dtype."""

    @abstractmethod
    def factors(self, base: Tensor) -> Pair:
        """Return L (m, k) and R (k, n) with W' = W0 + s L R."""

    def sides(self, base: Tensor) -> Pair:
        """Return both sides of W0 in the coefficients' dtype but at least float32, detached."""
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        held, blind = self._held, is_compiling() or transforming()
        if held is not None and blind:
            return held[1]
        if blind or base.is_meta:
            return self._made(base, dtype)
        stored = getattr(base, STORED, base)
        seen = stored.data_ptr(), stored._version, base.dtype, base.device, dtype
        if held is None or held[0] != seen:
            with torch.inference_mode(False), torch.no_grad():
                # Not by an attribute, which would count as another map.
                held = self.__dict__["_held"] = seen, self._made(base, dtype)
        return held[1]

    def _made(self, base: Tensor, dtype: torch.dtype) -> Pair:
        left, right = self.compute_sides(base.detach())
        return left.to(dtype), right.to(dtype)

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        with without_autocast(base.device):
            left, right = self.factors(base)
            update = left @ right
            wide = torch.promote_types(base.dtype, next(self.parameters()).dtype)
            return (base + (update if scale == 1 else scale * update)).to(wide)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (x R^T) L^T."""
        return add_product(x, base, bias, *self.factors(base), scale)

    def fingerprint(self) -> str:
        """Return a hash of both sides to four decimals, as they were last computed."""
        digest = hashlib.sha256()
        for side in self._held[1] if self._held is not None else ():
            values = (side.double() * 1e4).round().long()
            digest.update(values.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        """Give a pickle or a copy all but the sides, which follow from W0."""
        return {**self.__dict__, "_held": None}


def singular(base: Tensor, rank: int, largest: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, r), S (r,) and V^T (r, n) of the largest or smallest singular values, float64.

    The largest entry of each row of V^T is above 0, so that signs are the same on every machine.
    """
    u, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    some = slice(0, rank) if largest else slice(len(s) - rank, len(s))
    u, s, vh = u[:, some], s[some], vh[some]
    sign = vh.gather(1, vh.abs().argmax(1, keepdim=True)).sign()  # (r, 1)
    return u * sign.mT, s, vh * sign
