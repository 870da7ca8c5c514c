"""Rows of numbers as a data frame whose columns have one type each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def frame(
    rows: Iterable[Mapping[str, Any]], whole: Sequence[str] = (), numbers: Iterable[str] = ()
) -> pd.DataFrame:
    """Return rows as a data frame.

    Args:
        rows: one each.
        whole: columns of whole numbers, some of which may be missing.
        numbers: columns of numbers, some of which may be missing, which is NaN.
    """
    made = pd.DataFrame(list(rows))
    kinds = dict.fromkeys(numbers, "float64") | dict.fromkeys(whole, "Int64")
    return made.astype({key: kind for key, kind in kinds.items() if key in made})
