"""Verdicts: is there frequency structure in an update beyond what its singular values force?"""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.pages.numbers import percent
from zoo.spectrum import GAUSSIAN
from zoo.studies.statistics import holm

PRIMARY = ("k90", "low_25")
"""The measures that a verdict is about: one by magnitude, one by frequency."""
LEVEL = 0.05
"""Corrected p below which there is structure."""

EMPTY = 0.05
"""A larger share of zeros was left out on purpose; of a LoRA update about 0.005 are as small."""
DIRECTIONS = {
    "k90": ("energy in fewer coefficients", "energy in more coefficients"),
    "low_25": ("less energy in low frequencies", "more energy in low frequencies"),
}
"""Of a measure below its null and above it."""

Values = dict[str, dict[str, float | None]]
"""By measure: value; null, sd, z, p of the rotation null; shuffled, shuffled_p of the other."""


def verdicts(
    average: Mapping[str, Values],
    matrices: Sequence[Mapping[str, Values]],
    zeros: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Judge an update, with one answer for each transform.

    A PRIMARY measure of the mean over matrices decides if it differs from the rotation null;
    p-values are corrected (Holm) for both measures and all transforms. The structure is one of
    order, as frequency is, if such a measure differs from shuffled rows and columns as well, and in
    the same direction; corrected likewise.

    Args:
        average: by transform, the measures of the mean.
        matrices: the same of each matrix, for how many are structured by themselves (Holm over
            matrices and measures).
        zeros: by transform, the share of coefficients that are 0.

    Returns:
        By transform: structured; p; ordered; shuffled_p; zeros; matrices, how many are structured
            by themselves; words.
    """
    tests = list(average.values())
    against, shuffled = (_corrected(tests, field) for field in ("p", "shuffled_p"))
    judged = {}
    for i, (key, values) in enumerate(average.items()):
        deciding = [measure for measure in PRIMARY if against[i][measure] < LEVEL]
        ordered = [
            measure
            for measure in deciding
            if shuffled[i][measure] < LEVEL and _same_direction(values[measure])
        ]
        alone = _corrected([matrix[key] for matrix in matrices], "p")
        facts = {
            "structured": bool(deciding),
            "p": min(against[i].values()),
            "ordered": bool(ordered),
            "shuffled_p": min(shuffled[i][measure] for measure in deciding or PRIMARY),
            "zeros": (zeros or {}).get(key, 0.0),
            "matrices": sum(min(ps.values()) < LEVEL for ps in alone),
        }
        judged[key] = {**facts, "words": _words(values, deciding, facts, len(matrices))}
    return judged


def _corrected(tests: Sequence[Values], field: str) -> list[dict[str, float]]:
    """Correct the p-value of each PRIMARY measure for all of them."""
    corrected = iter(
        holm([_number(values[measure], field) for values in tests for measure in PRIMARY])
    )
    return [{measure: next(corrected) for measure in PRIMARY} for _ in tests]


def _number(values: Mapping[str, float | None], field: str) -> float:
    return float(values[field])  # type: ignore[arg-type]


def _same_direction(values: Mapping[str, float | None]) -> bool:
    value, null, shuffled = (_number(values, field) for field in ("value", "null", "shuffled"))
    return (value - null) * (value - shuffled) > 0


def _words(values: Values, deciding: Sequence[str], facts: Mapping[str, Any], n: int) -> str:
    fields = ("value", "null", "shuffled")
    k90, low = ({field: _number(values[measure], field) for field in fields} for measure in PRIMARY)
    what = " and ".join(
        DIRECTIONS[measure][_number(values[measure], "value") > _number(values[measure], "null")]
        for measure in deciding
    )
    beyond, p = "beyond what the singular values force", in_words(facts["p"])
    if not deciding:
        answer = f"No frequency structure {beyond} ({p})."
    elif facts["ordered"]:
        answer = f"Frequency structure {beyond}: {what} ({p})."
    else:
        answer = f"Structure {beyond}, but no sign that it is one of frequency: {what} ({p})."
    gap, forced = GAUSSIAN["k90"] - k90["value"], GAUSSIAN["k90"] - k90["null"]
    explained = (
        f": the singular values alone explain {percent(forced / gap, 0)} of the distance to a "
        f"Gaussian matrix ({GAUSSIAN['k90']:.3f})"
        if 0.005 < forced < gap
        else ""
    )
    sentences = [
        answer,
        f"k90 is {k90['value']:.3f}, against {k90['null']:.3f} with the same singular values in "
        f"random directions{explained}.",
        f"The lowest quarter of the frequencies holds {percent(low['value'])} of the energy, "
        f"against {percent(low['null'])}.",
    ]
    if deciding:
        part = "their order matters" if facts["ordered"] else "no sign that their order matters"
        shuffled = f"{k90['shuffled']:.3f} and {percent(low['shuffled'])}"
        sentences.append(
            f"Shuffled rows and columns have {shuffled}: {part} ({in_words(facts['shuffled_p'])})."
        )
    if n > 1:
        count = facts["matrices"]
        are = "is structured by itself" if count == 1 else "are structured by themselves"
        sentences.append(f"Of {n} matrices, {count} {are}.")
    if facts["zeros"] > EMPTY:
        sentences.append(
            f"But {percent(facts['zeros'], 0)} of the coefficients are 0: a parameterization or a "
            "mask left them out, and that is structure by construction."
        )
    return " ".join(sentences)


def in_words(p: float) -> str:
    """Write a p-value to two digits, or how small it is at least."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
