"""Which coefficients are trained: exact counts, and orders known from elsewhere."""

import pytest
import torch

from zoo.bases.selection import lowpass_order, mask_norm, random_support, select, zigzag_order

# ITU-T T.81, figure A.6: the place of each coefficient of an 8 x 8 block in the zigzag sequence.
JPEG = [
    [0, 1, 5, 6, 14, 15, 27, 28],
    [2, 4, 7, 13, 16, 26, 29, 42],
    [3, 8, 12, 17, 25, 30, 41, 43],
    [9, 11, 18, 24, 31, 40, 44, 53],
    [10, 19, 23, 32, 39, 45, 52, 54],
    [20, 22, 33, 38, 46, 51, 55, 60],
    [21, 34, 37, 47, 50, 56, 59, 61],
    [35, 36, 48, 49, 57, 58, 62, 63],
]


def test_zigzag_is_jpegs():
    place = torch.empty(64, dtype=torch.long)
    place[zigzag_order(8, 8)] = torch.arange(64)
    assert place.view(8, 8).tolist() == JPEG


def test_zigzag_of_a_rectangle():
    walk = [(i // 5, i % 5) for i in zigzag_order(3, 5).tolist()]
    assert walk == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (1, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (2, 1),
        (2, 2),
        (1, 3),
        (0, 4),
        (1, 4),
        (2, 3),
        (2, 4),
    ]


def test_lowpass_fills_boxes_of_the_matrix_own_proportions():
    for side in range(1, 5):
        box = {(i // 8, i % 8) for i in lowpass_order(4, 8)[: side * 2 * side].tolist()}
        assert box == {(i, j) for i in range(side) for j in range(2 * side)}


@pytest.mark.parametrize("selection", ["random", "zigzag", "lowpass"])
@pytest.mark.parametrize("k", [1, 7, 35])
def test_support_has_exactly_k_positions(selection, k):
    support = select(selection, 5, 7, k, 0)
    assert len(support.unique()) == k and support.min() >= 0 and support.max() < 35
    assert torch.equal(support, support.sort().values)


def test_random_positions_are_uniform():
    """Every position is chosen in a share K / mn of the draws."""
    hits = torch.zeros(24)
    for seed in range(2000):
        hits[select("random", 4, 6, 8, seed)] += 1
    assert (hits / 2000 - 1 / 3).abs().max() < 0.05  # standard error 0.011


def test_an_unknown_selection_is_named():
    with pytest.raises(ValueError, match="random, zigzag or lowpass, got 'best'"):
        select("best", 2, 2, 1, 0)


@pytest.mark.parametrize("selection", ["random", "zigzag", "lowpass"])
def test_mask_norm_is_the_largest_singular_value(selection):
    for m, n, k in ((40, 24, 96), (24, 40, 7), (17, 1, 5), (30, 30, 900)):
        support = select(selection, m, n, k, 7)
        mask = torch.zeros(m * n, dtype=torch.float64)
        mask[support] = 1
        assert mask_norm(support, m, n) == pytest.approx(
            torch.linalg.matrix_norm(mask.view(m, n), 2).item(), rel=1e-6
        )


@pytest.mark.parametrize("m, n", [(40, 50), (1, 64), (300, 7), (97, 89)])
@pytest.mark.parametrize("share", [16, 17, 40, 1000])
def test_few_random_positions_are_the_first_of_a_shuffle(m, n, share):
    """As they were drawn before, so that checkpoints keep their positions."""
    k = max(1, m * n // share)
    for seed in (*range(20), 2**55 + 861):
        generator = torch.Generator().manual_seed(seed)
        wanted = torch.randperm(m * n, generator=generator)[:k].sort().values
        assert torch.equal(random_support(m, n, k, seed), wanted), seed


@pytest.mark.parametrize("k", [3, 60])
def test_positions_on_the_meta_device_are_not_drawn(k):
    with torch.device("meta"):
        found = random_support(8, 16, k, 0)
    assert found.is_meta and found.shape == (k,) and found.dtype == torch.int64


def test_positions_that_were_drawn_for_inference_serve_training():
    with torch.inference_mode():
        found = random_support(9, 16, 5, 123)
    assert not found.is_inference() and random_support(9, 16, 5, 123) is found
