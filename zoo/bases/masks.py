"""Keep a share of a matrix's coefficients, in as few bytes as they take, and restore the matrix."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from zoo.bases import TRANSFORMS, transform
from zoo.bases.encoding import Encoding, Places, decode, encode, seeded

Order = Literal["magnitude", "frequency", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)


class Kept(NamedTuple):
    """A matrix of which K of MN coefficients are left.

    Attributes:
        shape: (m, n).
        transform: whose coefficients.
        values: (K,), float32, in ascending order of their places in the plane.
        places: where they are.
    """

    shape: tuple[int, int]
    transform: str
    values: Tensor
    places: Places


def count(share: float, coefficients: int) -> int:
    """K for a share in (0, 1] of MN coefficients: rounded, at least 1."""
    return max(1, round(share * coefficients))


def keep(
    plane: Tensor, shape: tuple[int, int], name: str, order: Order, share: float, seed: int = 0
) -> Kept:
    """Keep a share of a plane's coefficients.

    Args:
        plane: (M, N), a transform of an (m, n) matrix.
        shape: (m, n).
        name: of the transform.
        order: `magnitude` keeps the largest, whose places have to be listed; `frequency` the
            lowest, a rule that costs no bytes; `random` what a seed chooses, 8 bytes.
        share: in (0, 1].
        seed: of `random`, in [0, 2^63).

    Raises:
        ValueError: if share or order is none of these.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    if order not in ORDERS:
        raise ValueError(f"order must be {', '.join(ORDERS)}, got {order!r}")
    flat, k = plane.detach().flatten().cpu(), count(share, plane.numel())
    rule = (
        Places("all")
        if k == len(flat)
        else Places("prefix")
        if order == "frequency"
        else seeded(seed)
    )
    if order == "magnitude":
        largest = np.argpartition(flat.abs().numpy(), len(flat) - k)[len(flat) - k :]
        rule = encode(torch.from_numpy(largest).sort().values, len(flat))
    kept = Kept(shape, name, flat[:0], rule)
    return kept._replace(values=flat[_places(kept, k)].float())


def _places(kept: Kept, k: int) -> Tensor:
    t = transform(kept.transform)
    m, n = t.plane_shape(*kept.shape)
    return decode(
        kept.places, m * n, k, t.order(*kept.shape) if kept.places.encoding == "prefix" else None
    )


def restore(kept: Kept) -> Tensor:
    """Build the matrix whose other coefficients are 0; (m, n), float32.

    Raises:
        ValueError: if the places are damaged.
    """
    t = transform(kept.transform)
    plane = torch.zeros(t.plane_shape(*kept.shape))
    plane.view(-1)[_places(kept, len(kept.values))] = kept.values
    return t.inverse(plane, kept.shape)


def pack(matrices: Mapping[str, Kept]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return masked matrices as tensors for a file, and what else a reader must know.

    The tensors are `<name>.values` and `<name>.places`.
    """
    tensors, about = {}, {}
    for name, kept in matrices.items():
        tensors[f"{name}.values"] = kept.values
        if kept.places.data:
            tensors[f"{name}.places"] = torch.frombuffer(
                bytearray(kept.places.data), dtype=torch.uint8
            )
        about[name] = {
            "shape": list(kept.shape),
            "transform": kept.transform,
            "encoding": kept.places.encoding,
        }
    return tensors, about


def unpack(
    tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Kept]]:
    """Undo `pack`: all other tensors as they are, and the masked matrices by name.

    No matrix is built: whoever knows what shape it must have compares that first (`restore`).

    Raises:
        KeyError, TypeError, ValueError: if a file is damaged.
    """
    rest, masked = dict(tensors), {}
    for name, entry in about.items():
        values, places = rest.pop(f"{name}.values"), rest.pop(f"{name}.places", None)
        data = b"" if places is None else places.numpy().tobytes()
        m, n = entry["shape"]
        encoding: Encoding = entry["encoding"]
        if type(m) is not int or type(n) is not int or min(m, n) < 1 or values.ndim != 1:
            raise ValueError(f"a masked matrix of shape {entry['shape']}")
        if entry["transform"] not in TRANSFORMS or not values.is_floating_point():
            raise ValueError(f"a masked matrix in {entry['transform']!r}")
        masked[name] = Kept((m, n), entry["transform"], values, Places(encoding, data))
    return rest, masked
