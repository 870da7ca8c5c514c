"""Wavelet is PyWavelets' one level, and peft's WaveFT with the same places and numbers."""

from typing import ClassVar

import numpy as np
import pytest
import pywt
import torch

from zoo.parameterizations import Haar, Wavelet
from zoo.testing import OrthonormalTestCase, agree


class TestWavelet(OrthonormalTestCase):
    parameterization = Wavelet
    arguments: ClassVar = {"ratio": 0.3}
    std_tolerance = 0.02


def plane_of(p):
    plane = torch.zeros(p.shape, dtype=torch.float64)
    plane.view(-1)[p.support] = p.coef.detach()
    return plane


@pytest.mark.parametrize("shape", [(8, 8), (12, 6), (4, 10)])
def test_wavelet_is_pywavelets_one_level(shape):
    p = Wavelet(*shape, ratio=0.4).double()
    low, (down, across, both) = pywt.dwt2(p.weight().detach().numpy(), "haar")
    found = np.block([[low, across], [down, both]])
    agree(torch.from_numpy(found), plane_of(p), 1e-12)


@pytest.mark.parametrize("shape", [(12, 12), (20, 6), (8, 14), (9, 7), (1, 5)])
def test_wavelet_is_pefts(shape):
    """At peft's places, with the two mixed quarters exchanged and its factor of 25.

    Of an odd size, peft has 1 / sqrt(2) for the weight without a partner, and some places more.
    """
    peft = pytest.importorskip("peft")
    m, n = shape
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(n, m, False)})
    count = max(1, m * n // 3)
    config = peft.WaveFTConfig(n_frequency=count, target_modules=["a"], init_weights=False)
    layer = peft.get_peft_model(net, config).double().base_model.model.a
    spectrum = layer.waveft_spectrum["default"]
    assert spectrum.numel() == Wavelet(m, n, coefficients=count).num_trainable
    up, left = (m + 1) // 2, (n + 1) // 2  # averages
    plane = torch.zeros(m, n, dtype=torch.float64)
    with torch.no_grad():
        for k, (i, j) in enumerate(layer.waveft_indices["default"].T.tolist()):
            if i < up and j >= left:
                i, j = i + up, j - left
            elif i >= up and j < left:
                i, j = i - up, j + left
            if i >= m or j >= n:
                assert m % 2 or n % 2
                spectrum[k] = 0
            else:
                cut = (m % 2 and i == up - 1) + (n % 2 and j == left - 1)
                plane[i, j] = 25 * spectrum[k] * 0.5 ** (cut / 2)
        p = Wavelet(m, n, ratio=1.0).double()
        p.coef.copy_(plane.flatten())
    agree(p.weight().detach(), layer.get_delta_weight("default").detach(), 1e-12)


def test_a_coefficient_moves_neighbours_and_of_haar_up_to_all():
    """Four weights at most each, where `Haar` has one that moves all."""
    for cls, most in ((Wavelet, 4), (Haar, 16 * 8)):
        p, moved = cls(16, 8, ratio=1.0), []
        with torch.no_grad():
            for i in range(128):
                p.coef.zero_()[i] = 1
                moved.append(int((p.weight().abs() > 1e-6).sum()))
        assert max(moved) == most


def test_a_size_of_one_and_odd_ones_are_orthonormal():
    for shape in ((1, 1), (5, 3), (1, 8)):
        p = Wavelet(*shape, ratio=1.0).double()
        w = p.weight().detach()
        agree(p.analyze(w.clone()), plane_of(p), 1e-12)
