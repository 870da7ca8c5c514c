"""Spectra of matrices under transforms, beside two nulls: random directions, and shuffled rows.

Factors stay factors: for dW = B A the coefficients are (L B)(A R^T), and the singular values those
of a small matrix.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.bases import Basis, transform
from zoo.bases.seeds import generator
from zoo.runs.source import Update
from zoo.spectrum import (
    Energies,
    InOrder,
    energy,
    largest_first,
    measures,
    numerical_rank,
)
from zoo.studies.statistics import pearson, spearman
from zoo.studies.turning import Turns

MEASURE_LABELS = {
    "k50": "k50",
    "k90": "k90",
    "k99": "k99",
    "k50_frequency": "k50, lowest first",
    "k90_frequency": "k90, lowest first",
    "k99_frequency": "k99, lowest first",
    "low_10": "energy in 10 %",
    "low_25": "energy in 25 %",
    "low_50": "energy in 50 %",
}
SPECTRAL_MEASURES = tuple(MEASURE_LABELS)
"""What `zoo.spectrum.spectral_energy` measures."""


class Spectrum(NamedTuple):
    """One matrix under one transform, and B draws of it under each of two nulls."""

    values: np.ndarray  # (9,) the SPECTRAL_MEASURES
    null: np.ndarray  # (B, 9), in random directions
    shuffled: np.ndarray  # (B, 9), with rows and columns shuffled
    zeros: float  # share of coefficients below a thousandth of their root mean square
    curves: dict[str, list[float]]  # (101,) each
    # Pearson's and Spearman's correlation of singular-value and coefficient energies
    energies: np.ndarray  # (2,)
    null_energies: np.ndarray  # (B, 2)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch work on one thread.

    Small sums that share two wait for each other: on a busy machine that takes several times as
    long, on a quiet one no less. Two threads of Python, with a matrix each, are no faster either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Plane:
    """The coefficients of a draw; one that several transforms share is sorted once.

    Args:
        coefficients: (M, N).
    """

    def __init__(self, coefficients: Tensor) -> None:
        self._energy = energy(coefficients)
        self._largest: Tensor | None = None

    @cached_property
    def _descending(self) -> Energies:
        return largest_first(self._energy)

    def energies(self, t: Basis, shape: tuple[int, int]) -> tuple[Energies, Energies]:
        """Return its energy largest first, and by the frequencies of a transform of (m, n)."""
        return self._descending, InOrder(self._energy, t.order(*shape))

    def primary(self, t: Basis, shape: tuple[int, int]) -> tuple[float, float]:
        """Return k90 and low_25, the measures that verdicts are about."""
        largest, ordered = self.energies(t, shape)
        first = round(0.25 * largest.size)
        held = float(ordered.held(np.array([first]))[0]) if first else 0.0
        return largest.count(0.9) / largest.size, held / (largest.total or 1.0)

    def correlations(self, energies: np.ndarray) -> np.ndarray:
        """Correlate sorted energies with as many of its largest, by Pearson and Spearman; (2,)."""
        if len(energies) < 3:
            return np.full(2, np.nan)
        if self._largest is None:
            self._largest = self._energy.topk(len(energies)).values.double()
        return np.array([f(energies, self._largest.numpy()) for f in (pearson, spearman)])


@one_thread()
def beside_nulls(
    updates: Sequence[Update],
    transforms: Sequence[str],
    draws: int,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> list[dict[str, Spectrum]]:
    """Measure each update under each transform, beside two nulls.

    A draw of the rotation null is Q dW P with Haar-random Q and P: the same singular values in
    random directions. A draw of the other shuffles rows and columns: what is beyond the rotation
    null and as large after that is no matter of frequency, which is in their order. A draw turns,
    or shuffles, all updates alike, so that directions which layers or runs share, such as those of
    the residual stream, stay shared, and draws of a mean over updates vary as much as the mean
    does. A transform that rotates both sides leaves Haar measure as it is: the draw is then its own
    plane.

    Args:
        updates: dW of some matrices.
        transforms: names of `zoo.bases.TRANSFORMS`.
        draws: B, at least 2.
        seed: of both nulls.
        done: called after each draw of each update.

    Returns:
        For each update, by transform.
    """
    turns = Turns(updates, seed)
    chosen = {key: transform(key) for key in transforms}
    singular_values = [update.singular_values() for update in updates]
    ranks = [
        numerical_rank(s, update.shape) for s, update in zip(singular_values, updates, strict=True)
    ]
    energies = [
        s[:rank].double().square().numpy() for s, rank in zip(singular_values, ranks, strict=True)
    ]
    measured = [
        {
            key: (*_measure(Plane(plane), t, update.shape, energies[i]), _zeros(plane))
            for key, t in chosen.items()
            for plane in [_plane(update, t)]
        }
        for i, update in enumerate(updates)
    ]
    # Room for all results at once: between large planes, small ones that stay would keep memory
    # from being given back.
    room = (len(updates), len(chosen), draws)
    null, shuffled, null_energies = np.empty((*room, 9)), np.empty((*room, 9)), np.empty((*room, 2))
    null_curves = np.zeros((*room[:2], 2, 101))
    for draw in range(draws):
        turn = turns.draw(draw)
        for i, update in enumerate(updates):
            turned, mixed = turn(i), _shuffle(update, draw, seed)
            own = Plane(turned.matrix())
            for j, t in enumerate(chosen.values()):
                plane = own if t.rotates(*update.shape) else Plane(_plane(turned, t))
                null[i, j, draw], curves, null_energies[i, j, draw] = _measure(
                    plane, t, update.shape, energies[i]
                )
                null_curves[i, j] += curves / draws
                shuffled[i, j, draw] = _values(Plane(_plane(mixed, t)).energies(t, update.shape))
            done()
    spectra: list[dict[str, Spectrum]] = [{} for _ in updates]
    for i, of_update in enumerate(measured):
        for j, (key, (values, curves, correlation, zeros)) in enumerate(of_update.items()):
            lines = np.round([*curves, *null_curves[i, j]], 5).tolist()
            spectra[i][key] = Spectrum(
                values,
                null[i, j],
                shuffled[i, j],
                zeros,
                dict(
                    zip(
                        ("magnitude", "frequency", "null_magnitude", "null_frequency"),
                        lines,
                        strict=True,
                    )
                ),
                correlation,
                null_energies[i, j],
            )
    return spectra


def primary_of(update: Update, chosen: Sequence[Basis]) -> np.ndarray:
    """Return k90 and low_25 of an update under some transforms, and nothing else; (t, 2)."""
    return np.array([Plane(_plane(update, t)).primary(t, update.shape) for t in chosen])


def primary_draws(
    updates: Sequence[Update], transforms: Sequence[str], draws: int, seed: int
) -> np.ndarray:
    """Draw k90 and low_25 under the rotation null, and nothing else; (n, t, B, 2).

    It is what `beside_nulls` draws, in a fourth of the time.
    """
    chosen = [transform(key) for key in transforms]
    turns = Turns(updates, seed)
    found = np.empty((len(updates), len(chosen), draws, 2))
    for draw in range(draws):
        turn = turns.draw(draw)
        for i, update in enumerate(updates):
            turned = turn(i)
            own = Plane(turned.matrix())
            for j, t in enumerate(chosen):
                plane = own if t.rotates(*update.shape) else Plane(_plane(turned, t))
                found[i, j, draw] = plane.primary(t, update.shape)
    return found


def _plane(update: Update, t: Basis) -> Tensor:
    return (
        t.forward(update.left)
        if update.right is None
        else t.forward_product(update.left, update.right)
    )


def _shuffle(update: Update, draw: int, seed: int) -> Update:
    """Rows and columns in random order, the same for all of one shape."""
    rows, columns = (
        torch.randperm(n, generator=generator(seed, "shuffle", n, draw, side))
        for side, n in enumerate(update.shape)
    )
    if update.right is None:
        return Update(update.left[rows][:, columns])
    return Update(update.left[rows], update.right[:, columns])


def _zeros(plane: Tensor) -> float:
    """Return the share of coefficients below a thousandth of their root mean square."""
    return (plane.abs() < 1e-3 * plane.square().mean().sqrt()).double().mean().item()


def _values(energies: tuple[Energies, Energies]) -> np.ndarray:
    """Return the SPECTRAL_MEASURES; (9,)."""
    measured = measures(*energies)
    return np.array([measured[key] for key in SPECTRAL_MEASURES])


def _measure(
    plane: Plane, t: Basis, shape: tuple[int, int], energies: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a plane's SPECTRAL_MEASURES (9,), curves (2, 101), correlations of energies (2,)."""
    both = plane.energies(t, shape)
    counts = np.rint(np.arange(101) * both[0].size / 100).astype(np.int64)
    curves = np.stack([each.held(counts.clip(1)) * (counts > 0) / each.total for each in both])
    return _values(both), curves, plane.correlations(energies)


@lru_cache(maxsize=256)
def gaussian_spectrum(
    shape: tuple[int, int], rank: int, draws: int, seed: int
) -> tuple[list[float], list[float]]:
    """Return mean and sd of the singular values of Gaussian matrices, or products, of norm 1.

    Args:
        shape: (m, n).
        rank: below min(m, n), of the product of (m, rank) and (rank, n).
        draws: at least 2.
        seed: of the draws.
    """
    (m, n), values = shape, []
    for draw in range(draws):
        stream = generator(seed, "gaussian", m, n, rank, draw)
        if rank < min(m, n):
            made = Update(
                torch.randn(m, rank, generator=stream), torch.randn(rank, n, generator=stream)
            )
        else:
            made = Update(torch.randn(m, n, generator=stream), None)
        s = made.singular_values().double()
        values.append(s / s.norm())
    spectra = torch.stack(values)
    return spectra.mean(0).tolist(), spectra.std(0).tolist()
