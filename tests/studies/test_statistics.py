"""Tests and intervals against scipy, and their levels against repetition."""

import numpy as np
import pytest
from scipy import stats

from zoo.studies.statistics import (
    against_null,
    correlations,
    grouped,
    holm,
    interval,
    mean_correlations,
    mean_sd,
    paired,
    pearson,
    spearman,
    tost,
)


def test_against_null_is_a_prediction_test():
    """One value against B is the two-sample t-test with equal variances of which one sample has one
    member.
    """
    draws = np.random.default_rng(0).normal(size=20)
    found = against_null(1.7, draws)
    t, p = stats.ttest_ind([1.7], draws)
    assert found["p"] == pytest.approx(p)
    assert found["z"] == pytest.approx((1.7 - draws.mean()) / draws.std(ddof=1))
    assert (found["value"], found["null"], found["sd"]) == pytest.approx(
        (1.7, draws.mean(), draws.std(ddof=1))
    )


def test_against_null_keeps_its_level():
    rows = np.random.default_rng(4).normal(size=(2000, 21))
    ps = [against_null(row[0], row[1:])["p"] for row in rows]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_against_a_constant_null():
    draws = np.full(5, 0.3)
    assert against_null(0.3, draws) == {
        "value": 0.3,
        "null": pytest.approx(0.3),
        "sd": 0.0,
        "z": None,
        "p": 1.0,
    }
    assert against_null(0.4, draws)["p"] == 0.0


def test_holm():
    """The worked example of Holm's paper: every p times how many are left, never less than one
    before.
    """
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


def test_interval():
    """Student's: that of scipy's one-sample test, and of its paired test for differences."""
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    assert interval(x.tolist()) == pytest.approx(stats.ttest_1samp(x, 0).confidence_interval(0.95))
    found = interval((x - y).tolist(), 0.9)
    assert found == pytest.approx(stats.ttest_rel(x, y).confidence_interval(0.9))
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5)
    )
    assert interval([0.3]) is None and interval([0.3, 0.3]) is None


def test_interval_covers():
    """95 % of the intervals of five normal values hold their mean, where 1.96 standard errors would
    hold 88 %.
    """
    rows = np.random.default_rng(1).normal(0.2, 3, size=(2000, 5))
    inside = [low < 0.2 < high for low, high in map(interval, rows)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_tost():
    """The larger p of scipy's two one-sided paired tests."""
    x, y = np.random.default_rng(2).normal(size=(2, 6))
    below = stats.ttest_rel(x, y - 0.9, alternative="greater").pvalue
    above = stats.ttest_rel(x, y + 0.9, alternative="less").pvalue
    assert tost(x.tolist(), y.tolist(), 0.9) == pytest.approx(max(below, above))
    assert below != pytest.approx(above)
    assert tost([1.0], [1.0], 0.1) is None and tost([1.0, 2.0], [1.0, 2.0], 0.1) is None
    with pytest.raises(ValueError, match="margin must be above 0, got 0"):
        tost([1.0, 2.0], [1.0, 2.5], 0)


def test_tost_is_students_at_any_scale():
    """p = max(P(T > (d + margin) / s), P(T < (d - margin) / s)), s the standard error of d."""
    rng = np.random.default_rng(5)
    for n in (2, 3, 20):
        for scale in 10.0 ** np.arange(-4, 5):
            x, y = rng.normal(size=(2, n)) * scale
            d, s = np.mean(x - y), np.std(x - y, ddof=1) / n**0.5
            margin = 0.5 * scale
            expected = max(
                stats.t.sf((d + margin) / s, n - 1), stats.t.cdf((d - margin) / s, n - 1)
            )
            assert tost(x, y, margin) == pytest.approx(expected, rel=1e-12)
            half = stats.t.ppf(0.975, n - 1) * s
            assert interval(x - y) == pytest.approx((d - half, d + half), rel=1e-10)


def test_tost_of_known_differences():
    """Differences 0, 1, 2, margin 3: s = 1 / sqrt 3, t = (1 - 3) / s = -3.464; a table has P(T_2 <
    t) = 0.0371.
    """
    assert tost([0.0, 1.0, 2.0], [0.0, 0.0, 0.0], 3.0) == pytest.approx(0.0371, abs=5e-5)


def test_tost_is_the_interval_within_the_margin():
    """p < 0.05 exactly where the 90 % interval lies within the margin."""
    rows = np.random.default_rng(3).normal(0.3, 0.6, size=(300, 6))
    zeros, found = np.zeros(6), []
    for row in rows:
        low, high = interval(row, 0.9)
        equivalent = tost(row, zeros, 1.0) < 0.05
        assert equivalent == (low > -1 and high < 1)
        found.append(equivalent)
    assert 0.2 < np.mean(found) < 0.95


def test_tost_keeps_its_level():
    """Of differences that lie on the margin, one in twenty is taken for equivalent; of equal ones
    nearly all are.
    """
    rows = np.random.default_rng(4).normal(0, 0.1, size=(2000, 5))
    zeros = np.zeros(5)
    assert np.mean([tost(row + 0.5, zeros, 0.5) < 0.05 for row in rows]) == pytest.approx(
        0.05, abs=0.015
    )
    assert np.mean([tost(row, zeros, 0.5) < 0.05 for row in rows[:200]]) > 0.95


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
    found = mean_correlations(
        [0.8, 0.9, float("nan")], np.array([[0.7, 0.8, np.nan], [0.5, 0.6, np.nan]])
    )
    assert (found["value"], found["n"]) == (pytest.approx(0.85), 2)
    assert (found["low"], found["high"]) == (pytest.approx(0.8), pytest.approx(0.9))
    assert (found["null"], found["null_sd"]) == (
        pytest.approx(0.65),
        pytest.approx(np.std([0.75, 0.55], ddof=1)),
    )


def test_the_interval_of_a_mean_is_of_95_percent():
    """Of many values it is the normal one, 1.96 standard errors to either side."""
    x = np.random.default_rng(4).normal(size=400)
    found = mean_correlations(x.tolist(), np.zeros((2, 400)))
    error = x.std() / 20
    low, high = ((found[end] - x.mean()) / error for end in ("low", "high"))
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.15)


def test_mean_sd_and_groups():
    assert mean_sd([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    assert mean_sd([1.0]) == {"mean": 1.0, "sd": None}
    rows = [{"k": "b", "n": 1}, {"k": "a", "n": 2}, {"k": "b", "n": 3}, {"k": None, "n": 4}]
    assert grouped(rows, "k") == {"b": [rows[0], rows[2]], "a": [rows[1]]}
