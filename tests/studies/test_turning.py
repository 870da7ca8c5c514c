"""Draws of the rotation null: what a turn keeps, and that it is as random as a whole rotation."""

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.bases import TRANSFORMS, transform
from zoo.runs.source import Update
from zoo.spectrum import random_sides
from zoo.studies.spectra import (
    SPECTRAL_MEASURES,
    beside_nulls,
    primary_draws,
    primary_of,
)
from zoo.studies.turning import Turns

M, N = 24, 20


def factors(rank=2, m=M, n=N, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return Update(torch.randn(m, rank, generator=stream), torch.randn(rank, n, generator=stream))


CASES = {
    "a few directions": [factors(seed=i) for i in range(3)],
    "more directions than rows": [factors(8, seed=i) for i in range(3)],
    "a rank above the sides": [factors(30, 6, 7)],
    "with a full one": [factors(), Update(factors(seed=1).matrix())],
    "other sizes": [factors(), factors(m=M, n=7, seed=1), factors(m=5, n=N, seed=2)],
    "the same twice": [factors(), factors()],
    "one by one": [factors(1, 1, 1)],
}


def grams(updates):
    """Products of all pairs of updates as far as they share a side: what no rotation changes."""
    whole = [update.matrix().double() for update in updates]
    pairs = [(a, b) for a in whole for b in whole]
    return [
        *(a @ b.mT @ b @ a.mT for a, b in pairs if a.shape[1] == b.shape[1]),
        *(a.mT @ b @ b.mT @ a for a, b in pairs if a.shape[0] == b.shape[0]),
    ]


@pytest.mark.parametrize("updates", CASES.values(), ids=CASES)
def test_singular_values_are_kept(updates):
    turn = Turns(updates, 0).draw(3)
    for i, update in enumerate(updates):
        turned = turn(i)
        assert turned.shape == update.shape
        before, after = (torch.linalg.svdvals(u.matrix().double()) for u in (update, turned))
        assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before[0]))
        assert update.shape == (1, 1) or not torch.allclose(update.matrix(), turned.matrix())


@pytest.mark.parametrize("updates", CASES.values(), ids=CASES)
def test_shared_directions_stay_shared(updates):
    """The spectra of what updates have in common, on either side, are as they were."""
    turn = Turns(updates, 0).draw(0)
    turned = [turn(i) for i in range(len(updates))]
    for before, after in zip(grams(updates), grams(turned), strict=True):
        one, other = (torch.linalg.svdvals(gram) for gram in (before, after))
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one[0]) + 1e-9)


def test_grams_of_factors_are_kept():
    """L_i^T L_j, and R_i R_j^T, of all pairs."""
    updates = CASES["a few directions"]
    turn = Turns(updates, 0).draw(0)
    turned = [turn(i) for i in range(3)]
    for i in range(3):
        for j in range(3):
            pairs = [
                (u[i].left.mT @ u[j].left, u[i].right @ u[j].right.mT) for u in (updates, turned)
            ]
            for before, after in zip(*pairs, strict=True):
                assert torch.allclose(before, after, atol=1e-4)


def test_factors_and_their_product_turn_alike():
    """A full update has the rotation of those of factors with as many rows or columns."""
    update = factors()
    other = Update(torch.randn(M, 7), None)
    turn = Turns([update, Update(update.matrix()), other], 0).draw(1)
    assert torch.allclose(turn(0).matrix(), turn(1).matrix(), atol=1e-4)
    sides = random_sides(M, N, 1, 0, update.left)
    whole = sides.left @ update.matrix() @ sides.right.mT
    assert torch.allclose(turn(1).matrix(), whole, atol=1e-4)


def test_a_draw_is_of_its_number_and_the_seed_and_of_no_order():
    updates = CASES["a few directions"]
    first, again = Turns(updates, 0), Turns(updates[::-1], 0)
    for draw in (1, 0):
        for i in range(3):
            one, other = first.draw(draw)(i).matrix(), again.draw(draw)(2 - i).matrix()
            assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(first.draw(0)(0).matrix(), first.draw(1)(0).matrix(), atol=0.1)
    assert not torch.allclose(
        first.draw(0)(0).matrix(), Turns(updates, 1).draw(0)(0).matrix(), atol=0.1
    )


def test_rows_and_columns_turn_apart():
    """Of a square matrix too: no direction of its columns is that of its rows."""
    v = torch.ones(M, 1) / M**0.5
    dots = [
        float((turned.left.mT @ turned.right.mT).abs())
        for turned in (Turns([Update(v, v.mT)], 0).draw(draw)(0) for draw in range(50))
    ]
    assert np.mean(dots) < 0.3


def test_a_turned_direction_is_uniform():
    """Each coordinate of a unit vector has mean 0 and variance 1 / n, and no sign is preferred."""
    turns = Turns([factors(3, m=6, n=30)], 0)
    units = torch.stack(
        [u.left[:, 0] / u.left[:, 0].norm() for u in (turns.draw(d)(0) for d in range(600))]
    )
    assert torch.allclose(units.mean(0), torch.zeros(6), atol=4 * (1 / 6 / 600) ** 0.5)
    assert torch.allclose(units.mT @ units / 600, torch.eye(6) / 6, atol=0.04)


def test_k90_is_spread_as_with_whole_rotations():
    """Mean and standard deviation of the mean over updates, which draws of frames make as well."""
    updates, t, draws = CASES["a few directions"], transform("dct"), 300
    frames = primary_draws(updates, ["dct"], draws, 0)[:, 0].mean(0)  # (B, 2)
    whole = np.empty((draws, 2))
    for draw in range(draws):
        q, p = random_sides(M, N, draw, 1, updates[0].left)
        turned = [Update(q @ u.left, u.right @ p.mT) for u in updates]
        whole[draw] = np.mean([primary_of(u, [t])[0] for u in turned], axis=0)
    for k in range(2):
        assert stats.ttest_ind(frames[:, k], whole[:, k]).pvalue > 1e-3
        assert frames[:, k].std() / whole[:, k].std() == pytest.approx(1, abs=0.25)
        assert stats.ks_2samp(frames[:, k], whole[:, k]).pvalue > 1e-3


@pytest.mark.parametrize("case", ["a few directions", "with a full one", "other sizes"])
def test_primary_draws_are_those_of_an_analysis(case):
    """k90 and low_25 of every draw, under every transform."""
    updates, keys = CASES[case], list(TRANSFORMS)
    spectra = beside_nulls(updates, keys, 4, seed=5)
    drawn = primary_draws(updates, keys, 4, seed=5)
    columns = [SPECTRAL_MEASURES.index(measure) for measure in ("k90", "low_25")]
    for i, of_update in enumerate(spectra):
        for j, spectrum in enumerate(of_update.values()):
            assert drawn[i, j] == pytest.approx(spectrum.null[:, columns], rel=1e-5, abs=1e-6)
        values = primary_of(updates[i], [transform(key) for key in keys])
        wanted = [spectrum.values[columns] for spectrum in of_update.values()]
        assert values == pytest.approx(np.array(wanted), rel=1e-5, abs=1e-6)
