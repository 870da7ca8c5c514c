"""Which K of N coefficients are kept, as bytes and exactly back, by the shortest encoding.

Both numbers are known to the reader: N from the shape of the matrix, K from how many values are
stored. Choices that follow a rule cost nothing ("all", "prefix") or 8 bytes ("seed"); any other is
listed, in the shorter of two ways. With h(p) the entropy of a coin, no list of K = p N random
places is shorter on average than log2 of N over K, about N h(p) bits, h(p) / p a place:

    p                   1 %    2 %    5 %   10 %   25 %   50 %   75 %   90 %
    entropy, a place   8.08   7.07   5.73   4.69   3.25   2.00   1.08   0.52
    here               8.11   7.10   5.79   4.76   3.29   2.00   1.10   0.53
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.bases.seeds import stream_seed
from zoo.bases.selection import random_support

Encoding = Literal["all", "prefix", "seed", "bitmap", "rice"]
Bits = NDArray[np.uint8]
Integers = NDArray[np.int64]


class Places(NamedTuple):
    """K of N places.

    Attributes:
        encoding: "all": K = N. "prefix": the first K of an order that the reader has too. "seed":
            `random_places`. "bitmap": a bit for each of the N. "rice": Golomb-Rice coded gaps of
            the places kept, or of those dropped where they are fewer (Golomb, IEEE Trans. Inf.
            Theory 12(3), 1966; Rice, JPL Publication 79-22, 1979).
        data: nothing for "all" and "prefix", 8 bytes for "seed".
    """

    encoding: Encoding
    data: bytes = b""


def random_places(count: int, kept: int, seed: int) -> Tensor:
    """K of N places, all subsets equally likely, the choice of a seed; (kept,), ascending."""
    return random_support(1, count, kept, stream_seed(seed, "places"))


def seeded(seed: int) -> Places:
    """Places that stand for `random_places` of this seed.

    Raises:
        ValueError: for a seed outside [0, 2^64).
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")
    return Places("seed", seed.to_bytes(8, "little"))


def encode(places: Tensor, count: int) -> Places:
    """Write the shortest list of K of `count` places, nothing if they are all of them.

    Args:
        places: (K,) integers, ascending, on any device.
        count: N, K at most.

    Raises:
        ValueError: for no place, and for places that do not ascend or lie outside [0, count).
    """
    kept = places.detach().cpu().numpy().astype(np.int64)
    if not len(kept) or kept[0] < 0 or kept[-1] >= count or (np.diff(kept) <= 0).any():
        got = f"{len(kept)} from {kept[0]} to {kept[-1]}" if len(kept) else "none"
        raise ValueError(f"places must ascend in [0, {count}), and be one at least, got {got}")
    if len(kept) == count:
        return Places("all")
    mask = np.zeros(count, np.uint8)
    mask[kept] = 1
    listed = kept if 2 * len(kept) <= count else np.flatnonzero(mask == 0)
    return min(
        Places("bitmap", np.packbits(mask).tobytes()),
        Places("rice", _rice(listed)),
        key=lambda p: len(p.data),
    )


def decode(places: Places, count: int, kept: int, order: Tensor | None = None) -> Tensor:
    """Read the places that `encode` wrote.

    Args:
        places: what `encode` or `seeded` gave, or `Places("prefix")`.
        count: N.
        kept: K, in [1, N].
        order: (N,) all places, for "prefix": the first K of these.

    Returns:
        (K,), int64, ascending, on the CPU.

    Raises:
        ValueError: for bytes that are not K of N places in this encoding.
    """
    encoding, data = places
    if not 0 < kept <= count:
        raise ValueError(f"kept must be in [1, {count}], got {kept}")
    lengths = {"all": 0, "prefix": 0, "seed": 8, "bitmap": -(-count // 8)}
    if len(data) != lengths.get(encoding, len(data)):
        raise ValueError(
            f"{encoding} places of {count} must be {lengths[encoding]} bytes, got {len(data)}"
        )
    match encoding:
        case "all":
            found = torch.arange(count)
        case "prefix":
            if order is None or len(order) != count:
                raise ValueError(f"prefix places need an order of all {count} places")
            found = order[:kept].cpu().sort().values
        case "seed":
            found = random_places(count, kept, int.from_bytes(data, "little"))
        case "bitmap":
            found = torch.from_numpy(np.flatnonzero(_bits(data)))
        case "rice":
            listed = _unrice(data, count, min(kept, count - kept))
            mask = np.full(count, 2 * kept > count)
            mask[listed] = 2 * kept <= count
            found = torch.from_numpy(np.flatnonzero(mask))
        case _:
            raise ValueError(
                f"encoding must be all, prefix, seed, bitmap or rice, got {encoding!r}"
            )
    if len(found) != kept or found[-1] >= count:
        raise ValueError(f"damaged {encoding} places: they are not {kept} of {count}")
    return found


def _bits(data: bytes) -> Bits:
    return np.unpackbits(np.frombuffer(data, np.uint8))


def _rice(places: Integers) -> bytes:
    """Return gaps g, each as g mod 2^b and g // 2^b.

    A byte holds b; then come all the former in b bits, and all the latter in unary.

    Two streams rather than pairs, so that both directions are a few operations on whole arrays.
    """
    gaps = np.diff(places, prepend=-1) - 1
    b = min(
        range(int(gaps.max()).bit_length() + 1),
        key=lambda b: len(gaps) * b + int((gaps >> b).sum()),
    )
    remainders = (gaps[:, None] >> np.arange(b)) & 1  # lowest bit first
    ends = np.cumsum((gaps >> b) + 1) - 1
    unary = np.zeros(ends[-1] + 1, np.uint8)
    unary[ends] = 1
    return (
        bytes([b])
        + np.packbits(remainders.astype(np.uint8)).tobytes()
        + np.packbits(unary).tobytes()
    )


def _unrice(data: bytes, count: int, listed: int) -> Integers:
    """Read the `listed` places that `_rice` wrote, below `count`.

    Raises:
        ValueError: if it cannot have written this.
    """
    b = data[0] if data else 0
    cut = 1 + -(-listed * b // 8)
    remainders, unary = _bits(data[1:cut]), _bits(data[cut:])
    ends = np.flatnonzero(unary)
    places = np.full(listed, count)
    if b <= count.bit_length() and len(ends) == listed > 0:
        weights = np.int64(1) << np.arange(b)
        gaps = ((np.diff(ends, prepend=-1) - 1) << b) + remainders[: listed * b].reshape(
            listed, b
        ) @ weights
        places = np.cumsum(gaps + 1) - 1
    if (
        not listed
        or places[-1] >= count
        or len(unary) - ends[-1] > 8
        or remainders[listed * b :].any()
    ):
        raise ValueError(f"damaged rice places: they are not {listed} of {count}")
    return places
