"""Tests and intervals against scipy, and their levels against repetition."""

import numpy as np
import pytest
from scipy import stats

from zoo.lab.statistics import (
    against_null,
    correlations,
    grouped,
    holm,
    mean_correlations,
    paired,
    pearson,
    spearman,
    spread,
)


def test_against_null_is_a_prediction_test():
    """One value against B is the two-sample t-test with equal variances of which one sample has one member."""
    draws = np.random.default_rng(0).normal(size=20)
    found = against_null(1.7, draws)
    t, p = stats.ttest_ind([1.7], draws)
    assert found["p"] == pytest.approx(p)
    assert found["z"] == pytest.approx((1.7 - draws.mean()) / draws.std(ddof=1))
    assert (found["value"], found["null"], found["sd"]) == pytest.approx((1.7, draws.mean(), draws.std(ddof=1)))


def test_against_null_keeps_its_level():
    rows = np.random.default_rng(4).normal(size=(2000, 21))
    ps = [against_null(row[0], row[1:])["p"] for row in rows]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_against_a_constant_null():
    draws = np.full(5, 0.3)
    assert against_null(0.3, draws) == {"value": 0.3, "null": pytest.approx(0.3), "sd": 0.0, "z": None, "p": 1.0}
    assert against_null(0.4, draws)["p"] == 0.0


def test_holm():
    """The worked example of Holm's paper: every p times how many are left, never less than one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_paired_is_scipys():
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    found = paired(x.tolist(), y.tolist())
    expected = stats.ttest_rel(x, y)
    assert found == pytest.approx(((x - y).mean(), expected.statistic, expected.pvalue))


@pytest.mark.parametrize("values", [([0.2], [0.1]), ([0.2, 0.3], [0.1, 0.2])])
def test_paired_without_a_spread_has_no_p(values):
    assert paired(*values) == (pytest.approx(0.1), None, None)


def test_correlations_are_scipys():
    x, y = np.random.default_rng(1).normal(size=(2, 4, 15))
    for row in range(4):
        assert pearson(x, y)[row] == pytest.approx(stats.pearsonr(x[row], y[row]).statistic)
        assert spearman(x, y)[row] == pytest.approx(stats.spearmanr(x[row], y[row]).statistic)
    assert np.isnan(pearson(np.ones(4), np.arange(4.0)))


def test_bootstrap_interval_covers():
    """95 % intervals hold a correlation of 0.6 in about 95 % of the samples."""
    rng, inside = np.random.default_rng(2), 0
    for _ in range(100):
        x, e = rng.normal(size=(2, 50))
        found = correlations(x, 0.6 * x + 0.8 * e)["pearson"]
        inside += found["low"] < 0.6 < found["high"]
    assert 88 <= inside <= 99


def test_correlation_beside_its_null():
    y = np.arange(10.0)
    null = np.random.default_rng(3).normal(size=(200, 10))
    found = correlations(y + 1, y, null)["spearman"]
    assert (found["value"], found["n"]) == (pytest.approx(1), 10)
    assert found["null"] == pytest.approx(0, abs=0.1)
    assert found["null_sd"] == pytest.approx(1 / 3, abs=0.05)  # 1 / sqrt(n - 1)


def test_what_is_undefined_is_none():
    empty = {"value": None, "low": None, "high": None, "null": None, "null_sd": None}
    assert correlations([1, 1, 1, 1], [1, 2, 3, 4])["pearson"] == {**empty, "n": 4}
    assert correlations([1, 2], [1, 2])["pearson"] == {**empty, "n": 2}
    assert mean_correlations([float("nan")], np.full((3, 1), np.nan)) == {**empty, "n": 0}


def test_mean_correlations():
    found = mean_correlations([0.8, 0.9, float("nan")], np.array([[0.7, 0.8, np.nan], [0.5, 0.6, np.nan]]))
    assert (found["value"], found["n"]) == (pytest.approx(0.85), 2)
    assert (found["low"], found["high"]) == (pytest.approx(0.8), pytest.approx(0.9))
    assert (found["null"], found["null_sd"]) == (pytest.approx(0.65), pytest.approx(np.std([0.75, 0.55], ddof=1)))


def test_the_interval_of_a_mean_is_of_95_percent():
    """Of many values it is the normal one, 1.96 standard errors to either side."""
    x = np.random.default_rng(4).normal(size=400)
    found = mean_correlations(x.tolist(), np.zeros((2, 400)))
    error = x.std() / 20
    low, high = ((found[end] - x.mean()) / error for end in ("low", "high"))
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.15)


def test_spread_and_groups():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    assert spread([1.0]) == {"mean": 1.0, "sd": None}
    rows = [{"k": "b", "n": 1}, {"k": "a", "n": 2}, {"k": "b", "n": 3}, {"k": None, "n": 4}]
    assert grouped(rows, "k") == {"b": [rows[0], rows[2]], "a": [rows[1]]}
