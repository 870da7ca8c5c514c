"""Errors of rebuilt matrices are those that rounding must have, and no more."""

import math

import numpy as np
import pytest
import scipy.fft
import torch
from scipy import integrate, stats

from zoo.parameterizations import DCT, Dense, LoRA, RandomOrthonormal, RowDCT, Zigzag
from zoo.studies.coordinates.figures import ROUNDING
from zoo.studies.coordinates.rebuild import PATHS, rebuild_errors


def rounding(std: float) -> float:
    """Of normal numbers to 8 significand bits: steps of 2^(e - 7) between 2^e and 2^(e + 1), off by
    half at most.
    """
    binades = range(-40, 10)
    parts = [
        (4.0**e * (stats.norm.sf(2.0**e, scale=std) - stats.norm.sf(2.0 ** (e + 1), scale=std)))
        for e in binades
    ]
    return math.sqrt(2 * sum(parts) / 3) * 2.0**-8 / std


@pytest.mark.parametrize("cls", [DCT, RandomOrthonormal])
@pytest.mark.parametrize("n", [32, 100, 256])
def test_rounding_once_costs_what_it_must_at_every_size(cls, n):
    errors = rebuild_errors(cls(n, n, ratio=0.5))
    assert list(errors) == list(PATHS)
    once = rounding(n**-0.5)
    assert errors["rounded"] == pytest.approx(once, rel=6 / n)
    assert errors["module"] == pytest.approx(
        math.sqrt(once**2 + rounding((0.5 * n) ** -0.5) ** 2), rel=6 / n
    )
    assert 2.0**-26 < errors["float32"] < 1e-6
    assert errors["bases"] > 1.8 * errors["rounded"]


def test_the_line_in_the_figure_is_the_mean_over_all_scales():
    mean = integrate.quad(lambda log: rounding(2.0**log), 0, 1)[0]
    assert pytest.approx(mean, rel=0.01) == ROUNDING
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    rounded = torch.from_numpy(x).bfloat16().double().numpy()
    assert np.linalg.norm(rounded - x) / np.linalg.norm(x) == pytest.approx(
        rounding(1.0), rel=0.005
    )


def test_float32_errs_as_scipy_says():
    """Against scipy's transform of the same coefficients in float64."""
    p = DCT(200, 200, ratio=0.3)
    plane = np.zeros((200, 200))
    plane.flat[p.support.numpy()] = p.coef.detach().numpy()
    exact = scipy.fft.idctn(plane, norm="ortho")
    error = np.linalg.norm(p.weight().detach().numpy() - exact) / np.linalg.norm(exact)
    assert rebuild_errors(p)["float32"] == pytest.approx(error, rel=1e-3)


def test_who_has_something_to_rebuild():
    assert rebuild_errors(Dense(8, 8)) is None and rebuild_errors(LoRA(8, 8, rank=1)) is None
    assert rebuild_errors(Zigzag(64, 64, ratio=0.5))["bases"] > 0
    # one side alone: rounded are the coefficients, a side, and the product
    one, two = rebuild_errors(RowDCT(128, 128, ratio=0.5)), rebuild_errors(DCT(128, 128, ratio=0.5))
    assert 1.5 * one["rounded"] < one["bases"] < two["bases"]
