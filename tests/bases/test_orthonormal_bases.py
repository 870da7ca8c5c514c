"""The transforms keep energy and invert; scipy, numpy and PyWavelets agree with them; their orders
run low to high.
"""

import math

import numpy as np
import pytest
import pywt
import scipy.fft
import scipy.linalg
import torch

from zoo.bases import TRANSFORMS, transform
from zoo.bases.cosine import dct_matrix
from zoo.bases.fourier import hartley_matrix
from zoo.bases.hadamard import BlockHadamard, hadamard_blocks, hadamard_matrix, hadamard_size
from zoo.bases.seeds import haar_matrix
from zoo.bases.selection import zigzag_order
from zoo.bases.wavelets import Haar, haar_wavelets
from zoo.testing import agree

NAMES = list(TRANSFORMS)
OF_FREQUENCIES = [name for name in NAMES if name != "random"]
SHAPES = [
    (1, 1),
    (1, 9),
    (10, 1),
    (2, 2),
    (16, 16),
    (12, 40),
    (45, 8),
    (31, 37),
    (24, 20),
    (384, 384),
]
SMALL = [(1, 1), (1, 6), (5, 1), (2, 2), (4, 8), (6, 4), (5, 7), (3, 12)]


def draw(*shape, dtype=torch.float64):
    return torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))
    ).to(dtype)


def changes(h):
    return (h[:, 1:] * h[:, :-1] < 0).sum(1)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_energy_is_kept_and_the_inverse_inverts(name, shape, dtype, tolerance):
    """Parseval; energies are summed in float64, so that only the transform's error counts."""
    t, w = transform(name), draw(*shape, dtype=dtype)
    plane = t.forward(w)
    assert plane.shape == t.plane_shape(*shape) and plane.dtype == dtype
    energy = w.double().square().sum()
    assert abs(plane.double().square().sum() - energy) <= tolerance * energy
    agree(t.inverse(plane, shape), w, 10 * tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_factors_have_the_plane_of_their_product(name, shape):
    left, right = draw(shape[0], 3), draw(3, shape[1])
    agree(
        transform(name).forward_product(left, right), transform(name).forward(left @ right), 1e-12
    )


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_map_is_an_isometry(name, shape):
    """Its (MN, mn) matrix T has T^T T = 1, and where no size is padded, T T^T = 1; `inverse` is
    T^T.
    """
    t, (m, n) = transform(name), shape
    size, padded = math.prod(t.plane_shape(m, n)), math.prod(t.plane_shape(m, n)) > m * n
    assert padded == (name == "hadamard" and shape in [(1, 6), (5, 1), (6, 4), (5, 7), (3, 12)])
    units = torch.eye(m * n, dtype=torch.float64).view(-1, m, n)
    matrix = torch.stack([t.forward(unit).flatten() for unit in units], dim=1)
    agree(matrix.T @ matrix, torch.eye(m * n, dtype=torch.float64), 1e-12)
    if not padded:
        agree(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), 1e-12)
    planes = torch.eye(size, dtype=torch.float64).view(-1, *t.plane_shape(m, n))
    agree(torch.stack([t.inverse(plane, shape).flatten() for plane in planes]), matrix, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_autocast_are_computed_in_float32(name):
    t, left, right = (
        transform(name),
        draw(32, 4, dtype=torch.bfloat16),
        draw(4, 48, dtype=torch.bfloat16),
    )
    w = left.float() @ right.float()
    expected, product = t.forward(w), t.forward_product(left.float(), right.float())
    with torch.autocast("cpu", torch.bfloat16):
        agree(t.forward(w), expected, 1e-6)
        agree(t.forward_product(left, right), product, 1e-6)
        agree(t.inverse(expected, (32, 48)), w, 1e-5)
    assert t.forward(w.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_plane_of_another_shape_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"{name} plane of \(4, 8\) must be \(4, 8\), got \(8, 4\)"
    ):
        transform(name).inverse(torch.zeros(8, 4), (4, 8))


def test_a_transform_that_does_not_exist():
    with pytest.raises(
        ValueError, match="must be dct, fourier, hadamard, haar, random, hartley, got 'dst'"
    ):
        transform("dst")


# --- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_dct_is_scipys(shape):
    """And its inverse too, by matrix products and by FFT: 384 x 384 is large enough for the FFT."""
    w = draw(*shape)
    agree(
        transform("dct").forward(w),
        torch.from_numpy(scipy.fft.dctn(w.numpy(), norm="ortho")),
        1e-12,
    )
    agree(
        transform("dct").inverse(w, shape),
        torch.from_numpy(scipy.fft.idctn(w.numpy(), norm="ortho")),
        1e-12,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_holds_numpys_conjugate_pairs(shape):
    """Of each pair p, -p: sqrt(2) Re F[p] at the first place, sqrt(2) Im F[p] at the second."""
    w, (m, n) = draw(*shape), shape
    plane, f = transform("fourier").forward(w).numpy(), np.fft.fft2(w.numpy(), norm="ortho")
    for k, l in np.random.default_rng(0).integers(0, shape, (200, 2)):
        k2, l2 = -k % m, -l % n
        if (k, l) == (k2, l2):
            assert plane[k, l] == pytest.approx(f[k, l].real, abs=1e-10)
            continue
        if (k2, l2) < (k, l):
            k, l, k2, l2 = k2, l2, k, l
        assert plane[k, l] == pytest.approx(math.sqrt(2) * f[k, l].real, abs=1e-10)
        assert plane[k2, l2] == pytest.approx(math.sqrt(2) * f[k, l].imag, abs=1e-10)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64, 256])
def test_hadamard_of_a_power_of_two_is_scipys_by_sequency(n):
    h = torch.from_numpy(scipy.linalg.hadamard(n, dtype=float))
    assert torch.equal(hadamard_matrix(n), h[changes(h).argsort()])
    assert changes(hadamard_matrix(n)).tolist() == list(range(n))


@pytest.mark.parametrize("n", [12, 20, 24, 44, 384, 768])
def test_hadamard_matrices_of_paley(n):
    h = hadamard_matrix(n)
    assert hadamard_size(n) == n
    assert torch.equal(h.abs(), torch.ones_like(h))
    assert torch.equal(h @ h.T, n * torch.eye(n, dtype=h.dtype))
    assert torch.equal(h[0], torch.ones_like(h[0])) and torch.equal(
        h[:, 0], torch.ones_like(h[:, 0])
    )
    assert (changes(h).diff() >= 0).all()


@pytest.mark.parametrize("n", [12, 24, 384])
def test_low_sequencies_are_step_functions(n):
    """The n / 2 lowest rows are constant on pairs, the n / 4 lowest on fours."""
    h = hadamard_matrix(n)
    blocks = n // 12
    while blocks >= 2:
        steps = h[: n // blocks].view(n // blocks, n // blocks, blocks)
        assert torch.equal(steps, steps[..., :1].expand_as(steps))
        blocks //= 2


@pytest.mark.parametrize(
    "n, size", [(3, 4), (5, 8), (9, 12), (28, 32), (33, 40), (100, 104), (768, 768), (3072, 3072)]
)
def test_hadamard_sizes(n, size):
    """28 = 27 + 1 and 36 have matrices by other constructions, and are padded."""
    assert hadamard_size(n) == size
    if n != size:
        with pytest.raises(ValueError, match=f"with a prime q = 3 mod 4, got {n}"):
            hadamard_matrix(n)


def test_padding_is_with_zeros_at_the_end():
    w, padded = draw(5, 12), torch.zeros(8, 12, dtype=torch.float64)
    padded[:5] = w
    agree(transform("hadamard").forward(w), transform("hadamard").forward(padded), 1e-12)


@pytest.mark.parametrize(
    "n, sizes",
    [(1, [1]), (7, [4, 2, 1]), (12, [12]), (13, [12, 1]), (100, [96, 4]), (768, [768])],
)
def test_blocks_of_hadamard_matrices_are_orthonormal(n, sizes):
    """The whole matrix where there is one; otherwise the largest blocks that fill the axis."""
    side = BlockHadamard().side(n, 0)
    assert hadamard_blocks(n) == sizes
    agree(side @ side.T, torch.eye(n, dtype=torch.float64), 1e-12)
    if len(sizes) == 1:
        assert torch.equal(side, hadamard_matrix(n) / math.sqrt(n))
    at = 0
    for size in sizes:
        block = side[:, at : at + size]
        rows = block[block.abs().sum(1) > 0]
        assert torch.equal(rows, hadamard_matrix(size) / math.sqrt(size))
        at += size
    constant = torch.block_diag(*(torch.ones(1, size).double() / math.sqrt(size) for size in sizes))
    assert torch.equal(side[: len(sizes)], constant)  # the lowest frequency of each block first


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_hartley_is_the_real_and_imaginary_part_of_numpys_fft(n):
    """H x = Re F - Im F by frequency; the matrix is its own inverse but for the order."""
    x = draw(n)
    f = np.fft.fft(x.numpy(), norm="ortho")
    k = sorted(range(n), key=lambda k: (min(k, n - k), k))
    agree(hartley_matrix(n) @ x, torch.from_numpy((f.real - f.imag)[k]), 1e-12)
    assert transform("hartley").frequency(n).tolist() == [min(each, n - each) for each in k]
    natural = hartley_matrix(n)[torch.tensor(k).argsort()]
    agree(natural @ natural, torch.eye(n, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (4, 32), (64, 2), (128, 128)])
def test_haar_is_pywavelets_fully_separable_transform(shape):
    """Along each axis [approximation, coarsest detail, ..., finest detail], the rows of
    `haar_wavelets`.
    """
    w = draw(*shape)
    expected = pywt.fswavedecn(w.numpy(), "haar").coeffs
    agree(transform("haar").forward(w), torch.from_numpy(expected), 1e-12)


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_haar_of_three_times_a_power_of_two(levels):
    """Of 3 * 2^k values the k finest levels are pywt's; the top is the mean, and what is left."""
    x = draw(3 * 2**levels)
    _, *details = pywt.wavedec(x.numpy(), "haar", level=levels)
    ours = haar_wavelets(len(x)) @ x
    agree(ours[3:], torch.from_numpy(np.concatenate(details)), 1e-12)
    assert ours[0] == pytest.approx(float(x.sum()) / math.sqrt(len(x)), abs=1e-12)


def test_haar_of_three_and_five_by_hand():
    """3: (x0, x1), then their pair with x2, supports 2 and 1. 5: x4 goes up twice, to meet a
    support of 4.
    """
    s2, s6, s20 = math.sqrt(2), math.sqrt(6), math.sqrt(20)
    third = 1 / math.sqrt(3)
    three = [[third, third, third], [1 / s6, 1 / s6, -2 / s6], [1 / s2, -1 / s2, 0]]
    agree(haar_wavelets(3), torch.tensor(three, dtype=torch.float64), 1e-12)
    five = [[1 / math.sqrt(5)] * 5, [1 / s20] * 4 + [-4 / s20], [0.5, 0.5, -0.5, -0.5, 0]]
    agree(haar_wavelets(5)[:3], torch.tensor(five, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 12, 45])
def test_haar_frequency_counts_the_coarser_rows(n):
    """Rows of one level have one frequency, the number of rows above it; every row but the first
    sums to zero.
    """
    frequency, rows = Haar().frequency(n), haar_wavelets(n)
    assert len(frequency) == n
    assert all(int(f) == int((frequency < f).sum()) for f in frequency)
    agree(rows.sum(1), torch.eye(n, dtype=torch.float64)[0] * math.sqrt(n), 1e-12)
    if n == 8:
        assert frequency.tolist() == [0, 1, 2, 2, 4, 4, 4, 4]


# --- orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OF_FREQUENCIES)
def test_an_order_holds_every_place_once_and_starts_at_the_constant(name, shape):
    t = transform(name)
    order = t.order(*shape)
    assert torch.equal(order.sort().values, torch.arange(math.prod(t.plane_shape(*shape))))
    assert order[0] == 0
    energy = t.forward(torch.ones(shape, dtype=torch.float64)).flatten()[order].square()
    assert energy.argmax() == 0
    if t.plane_shape(*shape) == shape:
        assert energy[0] == pytest.approx(math.prod(shape))


@pytest.mark.parametrize("name", ["dct", "hadamard"])
def test_evenly_spaced_frequencies_are_in_zigzag_order(name):
    t = transform(name)
    assert torch.equal(t.order(24, 40), zigzag_order(24, 40))
    assert torch.equal(t.order(5, 7), zigzag_order(*t.plane_shape(5, 7)))


def test_the_fourier_order_wraps():
    """Frequency 1 stands at 1 and at n - 1."""
    assert set(transform("fourier").order(8, 8)[1:5].tolist()) == {1, 7, 8, 56}
    assert transform("fourier").order(8, 8)[-1] == 4 * 8 + 4


def test_the_haar_order_is_by_level():
    """Of 4 x 4: frequencies 0 1 2 2 on each side, so 1 place of sum 0, 2 of 1, 1 + 4 of 2."""
    sums = torch.tensor([0, 1, 2, 2])[:, None] + torch.tensor([0, 1, 2, 2])
    assert sums.flatten()[transform("haar").order(4, 4)].tolist() == sorted(sums.flatten().tolist())


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (62, 92)])
@pytest.mark.parametrize("name", OF_FREQUENCIES)
def test_smooth_signals_are_low_and_alternating_ones_high(name, shape):
    """Three periods of a cosine along both sides: over 90 % in the first quarter, noise a quarter,
    a checkerboard 0.
    """
    t, (m, n) = transform(name), shape
    order = t.order(m, n)

    def first_quarter(w):
        energy = t.forward(w).flatten()[order].square()
        return float(energy[: len(order) // 4].sum() / energy.sum())

    i, j = (
        torch.arange(m, dtype=torch.float64)[:, None] / m,
        torch.arange(n, dtype=torch.float64) / n,
    )
    assert first_quarter(torch.cos(2 * math.pi * (3 * i + 3 * j) + 0.5)) > 0.9
    assert abs(first_quarter(draw(m, n)) - 0.25) < 0.06
    checkers = (-1.0) ** (torch.arange(m)[:, None] + torch.arange(n)).double()
    assert first_quarter(checkers) < 0.05


# --- rotations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 12), (5, 8), (7, 6)])
@pytest.mark.parametrize("name", NAMES)
def test_rotates_says_whether_singular_values_survive(name, shape):
    """S = L W R^T has W's singular values for every W; rows of a unit matrix give L and R."""
    t, (m, n) = transform(name), shape
    w = haar_matrix(m, 0)[:, : min(m, n)] @ haar_matrix(n, 1)[: min(m, n)] + draw(m, n)
    expected, actual = torch.linalg.svdvals(w), torch.linalg.svdvals(t.forward(w))
    same = torch.allclose(expected, actual[: len(expected)], rtol=1e-10)
    assert t.rotates(m, n) == (same and t.plane_shape(m, n) == shape)
    assert t.rotates(m, n) == (
        name in ("dct", "haar", "hartley", "random") or (name == "hadamard" and shape == (8, 12))
    )


def test_products_of_sides_by_hand():
    """forward_product is not only consistent with forward: C_m (left right) C_n^T for the cosine
    transform.
    """
    left, right = draw(9, 2), draw(2, 14)
    expected = dct_matrix(9) @ left @ right @ dct_matrix(14).T
    agree(transform("dct").forward_product(left, right), expected, 1e-12)


def test_a_random_basis_has_no_frequency():
    """A smooth signal is anywhere in it, and the basis is always the same."""
    t = transform("random")
    smooth = torch.cos(2 * math.pi * torch.arange(64) / 64)[:, None] * torch.ones(64)
    energy = t.forward(smooth).flatten()[t.order(64, 64)].square()
    assert (energy[:1024].sum() / energy.sum()).item() == pytest.approx(0.25, abs=0.15)
    assert torch.equal(t.forward(smooth), transform("random").forward(smooth))
