"""Numbers as text."""

import pytest

from zoo.pages.numbers import engineering, human_bytes


@pytest.mark.parametrize(
    "count, words",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1500, "1.5 kB"),
        (294912, "294.9 kB"),
        (10**6, "1 MB"),
        (7077888, "7.1 MB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_human_bytes(count, words):
    assert human_bytes(count) == words


@pytest.mark.parametrize(
    "count, words",
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (999, "999"),
        (999.7, "1k"),
        (39322, "39.3k"),
        (999_999, "1M"),
        (7.06e6, "7.06M"),
        (3.3e17, "330P"),
        (2e21, "2e+03E"),
    ],
)
def test_counts_have_three_digits(count, words):
    assert engineering(count) == words
