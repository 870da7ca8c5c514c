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
"""By measure: value; null, sd, z and p of the rotation null; shuffled and its p, of shuffled rows and columns."""


def verdicts(average: Mapping[str, Values], matrices: Sequence[Mapping[str, Values]]) -> dict[str, dict[str, Any]]:
    """One answer for each transform.

    The smaller p of the two PRIMARY measures of the mean over matrices decides, corrected (Holm) for both measures and
    all transforms.

    Args:
        average: by transform, the measures of the mean.
        matrices: the same of each matrix, for how many show it by themselves (Holm over matrices and measures).

    Returns:
        By transform: structured; p; ordered, whether it differs from shuffled rows and columns too, and shuffled_p;
        matrices, how many are structured by themselves; words.
    """
    against = {field: _least(list(average.values()), field) for field in ("p", "shuffled_p")}
    found = {}
    for i, (key, values) in enumerate(average.items()):
        p, shuffled_p = (against[field][i] for field in ("p", "shuffled_p"))
        count = sum(alone < LEVEL for alone in _least([matrix[key] for matrix in matrices], "p"))
        found[key] = {
            "structured": p < LEVEL, "p": p, "ordered": shuffled_p < LEVEL, "shuffled_p": shuffled_p, "matrices": count,
            "words": _words(values, p, shuffled_p, count, len(matrices)),
        }
    return found


def _least(tests: Sequence[Values], field: str) -> list[float]:
    """For each the smaller p of both measures, corrected for all of them."""
    corrected = holm([_number(values, measure, field) for values in tests for measure in PRIMARY])
    return [min(corrected[i : i + len(PRIMARY)]) for i in range(0, len(corrected), len(PRIMARY))]


def _number(values: Values, measure: str, field: str) -> float:
    return float(values[measure][field])  # type: ignore[arg-type]


def _words(values: Values, p: float, shuffled_p: float, count: int, n: int) -> str:
    fields = ("value", "null", "shuffled")
    k90, low = ({field: _number(values, measure, field) for field in fields} for measure in PRIMARY)
    structured, ordered = p < LEVEL, shuffled_p < LEVEL
    answer = "Structure, but no sign of frequency," if structured and not ordered else \
        f"{'Frequency' if structured else 'No frequency'} structure"
    gap, forced = GAUSSIAN["k90"] - k90["value"], GAUSSIAN["k90"] - k90["null"]
    theirs = f": {percent(forced / gap, 0)} of its distance to a Gaussian matrix ({GAUSSIAN['k90']:.3f}) is theirs" \
        if 0.005 < forced < gap else ""
    sentences = [
        f"{answer} beyond what the singular values force ({in_words(p)}).",
        f"k90 is {k90['value']:.3f}, against {k90['null']:.3f} with the same singular values in random directions"
        f"{theirs}.",
        f"The lowest quarter of the frequencies holds {percent(low['value'])} of the energy, "
        f"against {percent(low['null'])}.",
    ]
    if structured:
        part = "their order matters" if ordered else "no sign that their order matters"
        found = f"{k90['shuffled']:.3f} and {percent(low['shuffled'])}"
        sentences.append(f"Shuffled rows and columns have {found}: {part} ({in_words(shuffled_p)}).")
    if n > 1:
        sentences.append(f"Of {n} matrices, {count} {'shows' if count == 1 else 'show'} it alone.")
    return " ".join(sentences)


def percent(share: float, digits: int = 1) -> str:
    """A share as in 25.0 %."""
    return f"{100 * share:.{digits}f} %"


def in_words(p: float) -> str:
    """A p-value to two digits, or how small it is at least."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
