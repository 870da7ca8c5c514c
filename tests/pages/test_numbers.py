"""Numbers as text."""

import pytest

from zoo.pages.numbers import human_bytes


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
