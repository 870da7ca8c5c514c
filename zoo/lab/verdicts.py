"""The answer in words: is there frequency structure in an update beyond what its singular values force?"""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.lab.statistics import holm
from zoo.spectrum import GAUSSIAN

PRIMARY = ("k90", "low_25")
"""The measures that a verdict is about: one by magnitude, one by frequency."""
LEVEL = 0.05
"""Corrected p below which there is structure."""

Values = dict[str, dict[str, float | None]]
"""By measure: value, null, sd, z, p."""


def verdicts(average: Mapping[str, Values], matrices: Sequence[Mapping[str, Values]]) -> dict[str, dict[str, Any]]:
    """One answer for each transform.

    The smaller p of the two PRIMARY measures of the mean over matrices decides, corrected (Holm) for both measures and
    all transforms.

    Args:
        average: by transform, the measures of the mean.
        matrices: the same of each matrix, for how many show it by themselves (Holm over matrices and measures).

    Returns:
        By transform: structured; p; matrices, how many by themselves; words.
    """
    keys = [(key, measure) for key in average for measure in PRIMARY]
    corrected = dict(zip(keys, holm([_p(average[key], measure) for key, measure in keys]), strict=True))
    found = {}
    for key, values in average.items():
        p = min(corrected[key, measure] for measure in PRIMARY)
        alone = holm([_p(matrix[key], measure) for matrix in matrices for measure in PRIMARY])
        count = sum(min(alone[2 * i : 2 * i + 2]) < LEVEL for i in range(len(matrices)))
        words = _words(values, p, count, len(matrices))
        found[key] = {"structured": p < LEVEL, "p": p, "matrices": count, "words": words}
    return found


def _p(values: Values, measure: str) -> float:
    return float(values[measure]["p"])  # type: ignore[arg-type]


def _words(values: Values, p: float, count: int, n: int) -> str:
    def number(measure: str, field: str) -> float:
        return float(values[measure][field])  # type: ignore[arg-type]

    gap, forced = GAUSSIAN["k90"] - number("k90", "value"), GAUSSIAN["k90"] - number("k90", "null")
    share = f": {forced / gap:.0%} of its distance to a Gaussian matrix ({GAUSSIAN['k90']:.3f}) is theirs" \
        if 0.005 < forced < gap else ""
    alone = f" Of {n} matrices, {count} {'shows' if count == 1 else 'show'} it alone." if n > 1 else ""
    return (
        f"{'Frequency' if p < LEVEL else 'No frequency'} structure beyond what the singular values force "
        f"({in_words(p)}). k90 is {number('k90', 'value'):.3f}, and {number('k90', 'null'):.3f} with the same singular "
        f"values in random directions{share}. The lowest quarter of the frequencies holds "
        f"{number('low_25', 'value'):.1%} of the energy, and there {number('low_25', 'null'):.1%}.{alone}"
    )


def in_words(p: float) -> str:
    """A p-value to two digits, or how small it is at least."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
