"""Tests and intervals: numbers in, plain numbers out. What is undefined is None."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import stats

Row = TypeVar("Row", bound=Mapping[str, Any])
RESAMPLES = 2000
"""Draws that a bootstrap interval is of."""
SAME = 1e-12
"""Differences with a standard deviation of at most this are taken for equal ones."""


class Paired(NamedTuple):
    """A paired t-test."""

    difference: float
    t: float | None
    p: float | None


def against_null(value: float, draws: np.ndarray) -> dict[str, float | None]:
    """Compare a value with draws from its null distribution, two-sided.

    t = (x - mean) / (sd sqrt(1 + 1 / B)) is Student's with B - 1 degrees of freedom if the null is
    normal: x is then one more draw. Unlike the share of draws beyond x, at least 1 / (B + 1), p can
    be small after few draws.

    Args:
        value: x.
        draws: (B,), B at least 2.

    Returns:
        value; null, sd: mean and standard deviation of the draws; z = (x - mean) / sd; p. Where all
        draws are equal, z is None and p is 1 if x equals them, else 0.
    """
    mean, sd = float(np.mean(draws)), float(np.std(draws, ddof=1))
    z, p = against_moments(value, mean, sd, len(draws))
    return {"value": value, "null": mean, "sd": 0.0 if z is None else sd, "z": z, "p": p}


def against_moments(value: float, mean: float, sd: float, draws: int) -> tuple[float | None, float]:
    """Return z and p of `against_null`, of draws of which mean and deviation are known."""
    if sd <= 1e-12 * max(1.0, abs(mean)):
        same = abs(value - mean) <= 1e-9 * max(1.0, abs(mean))
        return None, 1.0 if same else 0.0
    z = (value - mean) / sd
    # `stats.ttest_ind([value], draws).pvalue`, which takes nine times as long, thousands of times
    return z, float(2 * stats.t.sf(abs(z) / (1 + 1 / draws) ** 0.5, draws - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for their number, so that all may be read at one level.

    The i-th smallest of m, i = 0, 1, ..., is multiplied by m - i, and none is less than one before
    it (Holm, Scand. J. Stat. 6, 1979; scipy has other corrections alone).
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for i, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - i) * ps[place]))
        adjusted[place] = least
    return adjusted


def paired(values: Sequence[float], reference: Sequence[float]) -> Paired:
    """Test (Student) that the mean difference of pairs is 0.

    t and p are None for one pair, or equal differences.
    """
    difference = np.subtract(values, reference)
    mean = float(difference.mean())
    if not _vary(difference):
        return Paired(mean, None, None)
    result = stats.ttest_1samp(difference, 0)
    return Paired(mean, float(result.statistic), float(result.pvalue))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return Student's interval of a mean; of differences, it is a paired one.

    mean -+ t_{n-1, (1 + level) / 2} sd / sqrt(n). None for one value, or equal values: they say
    nothing of how far the mean may be off.
    """
    if not _vary(np.asarray(values, float)):
        return None
    low, high = stats.ttest_1samp(values, 0).confidence_interval(level)
    return float(low), float(high)


def tost(values: Sequence[float], reference: Sequence[float], margin: float) -> float | None:
    """Test (two one-sided paired t-tests) that the mean difference lies within (-margin, margin).

    The larger p of both (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). At a level a, p < a
    exactly where the interval of level 1 - 2 a lies within the margin. None for one pair, or equal
    differences.

    Raises:
        ValueError: for a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    difference = np.subtract(values, reference)
    if not _vary(difference):
        return None
    above = stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(difference, margin, alternative="less").pvalue
    return float(max(above, below))


def _vary(values: np.ndarray) -> bool:
    """Tell whether several values differ, without which scipy warns and returns NaN."""
    return len(values) > 1 and bool(values.std() > SAME)


def grouped(rows: Iterable[Row], field: str) -> dict[str, list[Row]]:
    """Group rows by the value of a field, as a word, in the order of their first.

    Rows without a value are left out.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row[field] is not None:
            groups.setdefault(str(row[field]), []).append(row)
    return groups


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean, and the standard deviation with n - 1, None for one value."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


# ---- Correlation ---------------------------------------------------------------------------------
# scipy's `pearsonr` takes 19 times as long for one pair of lists, since it tests, and warns of each
# resample that is constant; its `spearmanr` takes no batches. Its `bootstrap` draws the same
# resamples, but has no interval where one of them is constant, as of four pairs some always are.


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's r along the last axis; NaN where x or y is constant."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return (x * y).sum(-1) / np.where(scale > 1e-24, scale, np.nan)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's rho, r of the ranks, along the last axis; ties have their mean rank."""
    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


CORRELATIONS = {"pearson": pearson, "spearman": spearman}


def correlations(
    x: Sequence[float], y: Sequence[float], null_x: np.ndarray | None = None, seed: int = 0
) -> dict[str, dict[str, float | int | None]]:
    """Correlate pairs (Pearson, Spearman), with 95 % percentile bootstrap intervals over the pairs.

    Args:
        x: (n,) values.
        y: (n,) values.
        null_x: (B, n), draws of x under a null that leaves y as it is.
        seed: of the resampling.

    Returns:
        `pearson` and `spearman`, each: value; low, high: the interval; null, null_sd: mean and
        standard deviation under the null; n. All None where x or y is constant or there are fewer
        than 3 pairs.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    rows = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    correlated = {}
    for name, correlation in CORRELATIONS.items():
        value = float(correlation(a, b)) if len(a) >= 3 else float("nan")
        resampled = null = np.empty(0)
        if np.isfinite(value):
            resampled = correlation(a[rows], b[rows])
            null = (
                correlation(null_x, np.broadcast_to(b, null_x.shape))
                if null_x is not None
                else null
            )
        correlated[name] = _correlation(value, resampled, null, len(a))
    return correlated


def mean_correlations(
    values: Sequence[float], null: np.ndarray, seed: int = 0
) -> dict[str, float | int | None]:
    """Average one correlation of each of n matrices, with a bootstrap interval over the matrices.

    Args:
        values: (n,); NaN where it is undefined.
        null: (B, n), the same of draws under the null.
        seed: of the resampling.
    """
    x = np.asarray(values, float)
    defined = np.isfinite(x)
    x, null = x[defined], np.asarray(null, float)[:, defined]
    if not len(x):
        return _correlation(float("nan"), np.empty(0), np.empty(0), 0)
    rows = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    return _correlation(
        float(x.mean()), x[rows].mean(1) if len(x) > 1 else np.empty(0), null.mean(1), len(x)
    )


def _correlation(
    value: float, resampled: np.ndarray, null: np.ndarray, n: int
) -> dict[str, float | int | None]:
    resampled, null = resampled[np.isfinite(resampled)], null[np.isfinite(null)]
    low, high = np.percentile(resampled, (2.5, 97.5)).tolist() if len(resampled) else (None, None)
    return {
        "value": value if np.isfinite(value) else None,
        "low": low,
        "high": high,
        "null": float(null.mean()) if len(null) else None,
        "null_sd": float(null.std(ddof=1)) if len(null) > 1 else None,
        "n": n,
    }
