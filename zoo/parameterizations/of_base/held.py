"""Matrices that follow from W0 and are computed once, until W0 is another one."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.compiler import is_compiling

from zoo.bases.vmapped import transforming

Pair = tuple[Tensor, Tensor]


class HeldPair:
    """Two factors of W0, (m, r) and (r, n), that no checkpoint, copy or pickle has.

    W0 counts as another one where autograd's version counter says so, where it lies elsewhere in
    memory, or where it has another dtype or device. A compiled or transformed pass, which cannot
    look, takes those that are there.

    Args:
        compute: returns both of W0.
    """

    def __init__(self, compute: Callable[[Tensor], Pair]) -> None:
        self._compute = compute
        self._seen: tuple[object, ...] | None = None
        self._pair: Pair | None = None

    def of(self, base: Tensor, dtype: torch.dtype) -> Pair:
        """Return both factors of W0 in a dtype, without gradients."""
        blind = is_compiling() or transforming()
        if self._pair is not None and blind:
            return self._pair
        if blind or base.is_meta:
            return self._made(base, dtype)
        seen = base.data_ptr(), base._version, base.dtype, base.device, dtype
        if self._pair is None or self._seen != seen:
            with torch.inference_mode(False), torch.no_grad():
                self._pair, self._seen = self._made(base, dtype), seen
        return self._pair

    def _made(self, base: Tensor, dtype: torch.dtype) -> Pair:
        left, right = self._compute(base.detach())
        return left.to(dtype), right.to(dtype)

    def fingerprint(self) -> str:
        """Return a hash of both factors to four decimals, as they were last computed."""
        digest = hashlib.sha256()
        for side in self._pair or ():
            values = (side.double() * 1e4).round().long()
            digest.update(values.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def singular(base: Tensor, rank: int, largest: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, r), S (r,) and V^T (r, n) of the largest or smallest singular values, float64.

    The largest entry of each row of V^T is above 0, so that signs are the same on every machine.
    """
    u, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    some = slice(0, rank) if largest else slice(len(s) - rank, len(s))
    u, s, vh = u[:, some], s[some], vh[some]
    sign = vh.gather(1, vh.abs().argmax(1, keepdim=True)).sign()  # (r, 1)
    return u * sign.mT, s, vh * sign
