"""Fourier is peft's FourierFT with the same places and numbers, and its twins are accounted for."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from zoo.parameterizations import Fourier
from zoo.testing import ParameterizationTestCase, agree


class TestFourier(ParameterizationTestCase):
    parameterization = Fourier
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.03


class TestFourierWithoutTwins(ParameterizationTestCase):
    parameterization = Fourier
    arguments: ClassVar = {"ratio": 0.5, "twins": False, "scaling": 150.0, "seed": 2}
    std_tolerance = 0.03


def map_of(p):
    """The matrix from coefficients to W, (mn, K)."""
    columns = []
    with torch.no_grad():
        for i in range(p.num_trainable):
            p.fourierft_spectrum.zero_()[i] = 1
            columns.append(p.weight().flatten())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("shape", [(12, 12), (20, 7), (6, 15)])
def test_fourier_is_pefts(shape):
    """To float32, in which peft transforms whatever its coefficients are."""
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    config = peft.FourierFTConfig(n_frequency=50, scaling=150.0, target_modules=["a"])
    layer = peft.get_peft_model(net, config).base_model.model.a
    p = Fourier(m, n, coefficients=50, scaling=150.0).double()
    row, column = layer.indices["default"]
    p.places.copy_(row * n + column)
    with torch.no_grad():
        p.fourierft_spectrum.copy_(layer.fourierft_spectrum["default"])
    agree(layer.get_delta_weight("default").detach(), p.weight().detach(), 1e-6)
    trained = sum(q.numel() for q in layer.parameters() if q.requires_grad)
    assert p.num_trainable == trained == 50


@pytest.mark.parametrize("shape", [(8, 12), (7, 5), (6, 1), (1, 9), (2, 2)])
def test_fourier_is_numpys_inverse(shape):
    p = Fourier(*shape, ratio=1.0, scaling=3.0).double()
    plane = np.zeros(shape)
    plane.reshape(-1)[p.places.numpy()] = p.fourierft_spectrum.detach().numpy()
    agree(p.weight().detach(), torch.from_numpy(3.0 * np.fft.ifft2(plane).real), 1e-12)


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (7, 5), (1, 6), (2, 2)])
def test_without_twins_no_coefficient_is_redundant(shape):
    """All of them span what all places span, (mn + f) / 2 matrices."""
    m, n = shape
    most = (m * n + (2 - m % 2) * (2 - n % 2)) // 2
    p = Fourier(m, n, coefficients=most, twins=False).double()
    assert torch.linalg.matrix_rank(map_of(p)) == most
    assert torch.linalg.matrix_rank(map_of(Fourier(m, n, ratio=1.0).double())) == most
    if most < m * n:
        with pytest.raises(ValueError, match=f"without twins there are {most} coefficients"):
            Fourier(m, n, coefficients=most + 1, twins=False)


def test_cosines_have_norm_one_by_default():
    """But for the places that are their own partner: 0 and the half of each even side."""
    p = Fourier(6, 8, ratio=1.0).double()
    found = dict(zip(p.places.tolist(), map_of(p).square().sum(0).tolist(), strict=True))
    alone = {0, 4, 24, 28}
    assert found == pytest.approx({k: 2.0 if k in alone else 1.0 for k in range(48)})


@pytest.mark.parametrize("coefficients", [10, 40, 63])
def test_the_projection_is_the_least_of_the_best(coefficients):
    """The map's pseudo-inverse, also where both of a pair are drawn."""
    p = Fourier(9, 7, coefficients=coefficients).double()
    target = torch.randn(9, 7, dtype=torch.float64)
    expected = torch.linalg.pinv(map_of(p)) @ target.flatten()
    p.project_(target)
    agree(p.fourierft_spectrum.detach(), expected, 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_energy_is_exact_for_any_places(seed):
    p = Fourier(6, 4, coefficients=9, scaling=40.0, seed=seed).double()
    p.reset_parameters(0.5)
    energies = map_of(p).square().sum()
    torch.manual_seed(seed)
    p.reset_parameters(0.5)
    torch.manual_seed(seed)
    std = (p.fourierft_spectrum / torch.randn(9, dtype=torch.float64)).abs().mean().item()
    assert std**2 * energies.item() == pytest.approx(0.25 * 24)


def test_places_differ_between_layers():
    p, q = (Fourier(16, 16, ratio=0.1).for_layer(name) for name in "ab")
    assert not torch.equal(p.places, q.places)
    assert len(p.places.unique()) == len(p.places) == 26


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a budget"),
        ({"coefficients": 49}, r"coefficients must lie in \[1, 48\]"),
        ({"ratio": 0.6, "twins": False}, "there are 26 coefficients .* a ratio of 0.542, got 29"),
        ({"ratio": 0.5, "scaling": 0.0}, "scaling must be above 0"),
    ],
)
def test_a_bad_argument_names_what_would_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        Fourier(8, 6, **arguments)


def test_peft_calls_for_another_rate():
    """Its scaling of 150 on 768 x 768 is 0.138 of the default, so that lr_mult is 7.2 times."""
    ours, theirs = (Fourier(768, 768, coefficients=1000, scaling=s) for s in (None, 150.0))
    assert theirs.scaling / ours.scaling == pytest.approx(0.138, abs=1e-3)
    assert theirs.lr_mult / ours.lr_mult == pytest.approx(math.sqrt(2) * 768 / 150)
