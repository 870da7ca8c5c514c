"""Structure of known strength, planted into an adapter's own singular values.

What would a census have seen? A planted matrix has the singular values, the shape and the rank of
one that was analysed, so that its null is that one's, and singular vectors of which a part of the
energy lies where structure is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.bases import transform
from zoo.bases.cosine import dct_matrix
from zoo.bases.seeds import generator
from zoo.runs.source import Update
from zoo.spectrum import numerical_rank
from zoo.studies.spectra import primary_of
from zoo.studies.statistics import against_moments, holm
from zoo.studies.verdicts import PRIMARY

STRENGTHS = (0.01, 0.03, 0.1)
"""Share of the energy of singular vectors, before they are made orthogonal, that is planted."""
KINDS = {
    "nothing": "random directions: what is found is found by chance",
    "frequency": "the lowest quarter of the frequencies of the DCT",
    "blocks": "vectors that are constant on sixteenths, the coarse part of Haar's basis",
    "feature": "one coordinate, the same in all matrices of a size",
    "direction": "one random direction, the same in all matrices of a size",
}
"""What is planted."""
BLOCKS = 16


def plants(
    updates: Sequence[Update],
    mean: dict[str, Any],
    draws: int,
    transforms: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Plant each kind at each strength once, and test the mean over matrices against its null.

    Args:
        updates: of an adapter.
        mean: by transform, the measures of the mean over them beside the null.
        draws: of that null.
        transforms: names of `zoo.bases.TRANSFORMS`.
        seed: of the directions.

    Returns:
        Rows of kind, strength, transform and p, the smaller of both PRIMARY measures (Holm).
    """
    spectra = [(update.shape, _values(update)) for update in updates]
    chosen, rows = [transform(key) for key in transforms], []
    for kind in KINDS:
        for strength in STRENGTHS if kind != "nothing" else (0.0,):
            planted = [
                _planted(shape, s, kind, strength, seed, i) for i, (shape, s) in enumerate(spectra)
            ]
            found = np.mean([primary_of(update, chosen) for update in planted], axis=0)
            for key, values in zip(transforms, found, strict=True):
                nulls = [mean[key][measure] for measure in PRIMARY]
                ps = [
                    against_moments(float(value), null["null"], null["sd"], draws)[1]
                    for value, null in zip(values, nulls, strict=True)
                ]
                rows.append(
                    {"kind": kind, "strength": strength, "transform": key, "p": min(holm(ps))}
                )
    return rows


def _values(update: Update) -> Tensor:
    s = update.singular_values()
    return s[: numerical_rank(s, update.shape)]


def _planted(
    shape: tuple[int, int], s: Tensor, kind: str, strength: float, seed: int, place: int
) -> Update:
    sides = [
        _side(size, len(s), kind, strength, generator(seed, "plant", kind, strength, place, side))
        for side, size in enumerate(shape)
    ]
    return Update((sides[0] * s).float(), sides[1].mT.float().contiguous())


def _side(size: int, rank: int, kind: str, strength: float, stream: torch.Generator) -> Tensor:
    """Return orthonormal columns, part of whose energy is planted; (size, rank), float64."""
    free = torch.randn(size, rank, generator=stream, dtype=torch.float64)
    if kind != "nothing":
        held = _structured(size, rank, kind, stream)
        free = (1 - strength) ** 0.5 * free / free.norm(dim=0) + strength**0.5 * (
            held / held.norm(dim=0)
        )
    q, r = torch.linalg.qr(free)
    return q * r.diagonal().sign()


def _structured(size: int, rank: int, kind: str, stream: torch.Generator) -> Tensor:
    if kind == "frequency":
        low = dct_matrix(size)[: max(1, size // 4)].double()
        return low.mT @ torch.randn(len(low), rank, generator=stream, dtype=torch.float64)
    if kind == "blocks":
        levels = torch.randn(BLOCKS, rank, generator=stream, dtype=torch.float64)
        return levels[torch.arange(size) * BLOCKS // size]
    if kind == "feature":
        held = torch.zeros(size, rank, dtype=torch.float64)
        held[size // 3] = 1
        return held
    common = generator(0, "common direction", size)
    return torch.randn(size, 1, generator=common, dtype=torch.float64).expand(-1, rank)
