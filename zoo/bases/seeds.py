"""Seeded randomness, and matrices that are made once and shared.

Pure functions of torch.

Everything is drawn on the CPU in float64 and rounded last, so that a basis is the same on every
device.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from zoo import say_where_names_are

P = ParamSpec("P")
T = TypeVar("T")

say_where_names_are(__name__)


def cached(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep what a function returns, as `functools.lru_cache`, but nothing of the meta device.

    A network is built there to learn its shapes; what was kept of it would be used in the next real
    one.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        kept = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if torch.get_default_device().type == "meta":
                return function(*args, **kwargs)
            return kept(*args, **kwargs)  # type: ignore[arg-type]

        call.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
        return call

    return decorate


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which operations on a device keep the dtypes of their operands."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the precision of products on a device under autocast; None without it."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def of_device(constants: Mapping[str, T], device: torch.device | str) -> T:
    """Return the constant of a type of device, "cpu" or "cuda"; other devices take a GPU's."""
    return constants.get(torch.device(device).type, constants["cuda"])


def stream_seed(seed: int, *labels: object) -> int:
    """Return a seed that depends on `seed` and every label, and on nothing else; in [0, 2^56)."""
    digest = hashlib.sha256(":".join(map(str, (seed, *labels))).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(seed: int, *labels: object) -> torch.Generator:
    """Return a CPU generator of the stream that `seed` and the labels name."""
    return torch.Generator("cpu").manual_seed(stream_seed(seed, *labels))


@cached(maxsize=32)
def haar_matrix(n: int, seed: int, *labels: object) -> Tensor:
    """Return a Haar-distributed orthogonal matrix; (n, n), float64.

    QR of a Gaussian matrix with the signs of R's diagonal fixed (Mezzadri, arXiv math-ph/0609050).
    """
    q, r = torch.linalg.qr(
        torch.randn(n, n, dtype=torch.float64, generator=generator(seed, "haar", n, *labels))
    )
    return q * r.diagonal().sign()


def _shift(x: Tensor, bits: int) -> Tensor:
    """Return x >> bits for int64 that stands for an unsigned number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@cached(maxsize=32)
def uniform_matrix(rows: int, columns: int, seed: int, *labels: object) -> Tensor:
    """Return independent entries of mean 0 and variance 1; (rows, columns), float64.

    They are uniform in +-sqrt(3), the corner of one infinite matrix: an entry depends on its place
    and the seed, not on the size, so that layers of different sizes can share one basis. Entry (i,
    j) is the hash SplitMix64 of its place (Steele et al., OOPSLA 2014).
    """
    place = torch.arange(rows)[:, None] * (1 << 32) + torch.arange(columns)
    # 0x9E3779B97F4A7C15, wrapping.
    x = place * -7046029254386353131 + stream_seed(seed, "uniform", *labels)
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    u = _shift(x ^ _shift(x, 31), 11).double() * 2.0**-53
    return (2 * u - 1) * math.sqrt(3)


_copies = WeakTensorKeyDictionary()
"""Of a matrix, by device and dtype, as long as it lives."""
_living: dict[tuple[object, ...], TensorWeakRef] = {}
"""Copies by what is in them."""


def shared(matrix: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return `matrix` on a device in a dtype, one copy for all who ask.

    So it is also for those who ask by another tensor with the same numbers.

    So layers share what a basis draws or computes anew for each of them. A copy goes when nobody
    has it any more and the matrix that it was made of is gone. Numbers are compared by a hash,
    which takes 0.16 s for 4096 x 4096, once.
    """
    # There is nothing to compare.
    if type(matrix) is not Tensor or "meta" in (matrix.device.type, device.type):
        return matrix.to(device, dtype)
    copies = _copies.setdefault(matrix, {})
    if (device, dtype) not in copies:
        numbers = hashlib.sha256(
            matrix.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        ).digest()
        key = (numbers, matrix.dtype, matrix.shape, device, dtype)
        copy = _living[key]() if key in _living else None
        if copy is None:
            for gone in [other for other, reference in _living.items() if reference() is None]:
                del _living[gone]
            with torch.inference_mode(False):  # a later layer may train with it
                # Never the matrix itself, which would not be let go.
                copy = matrix.to(device, dtype, copy=True)
            _living[key] = TensorWeakRef(copy)
        copies[device, dtype] = copy
    return copies[device, dtype]
