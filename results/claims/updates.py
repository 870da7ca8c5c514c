"""What SpectralLoRA (arXiv 2604.10649) claims of trained LoRA updates, and zoo of fine-tuning.

The encoder is another one than the paper's: all-MiniLM-L6-v2.
"""

from collections.abc import Iterator

from scipy import stats

from results.claims.claim import OPEN, Claim, below, gaps, holds, link, listed
from results.rows import Row, bracket, only, read
from results.tables.updates import TASKS, group, masked, scores, tuned

OF, UPDATES = "SpectralLoRA", "3 tasks, 3 runs each"


def spectral_claims() -> Iterator[Claim]:
    """Compare spectra with those of the same singular values in random directions, and masks."""
    rows = read("analysis")
    found = {task: only(rows, group=group(task), transform="dct") for task in TASKS}
    value, null = (
        all(abs(float(row[key]) - 1 / 3) < 0.05 for row in found.values())
        for key in ("k90", "k90_null")
    )
    shares = {
        task: f"{float(row['k90']):.3f} +- {float(row['k90_sd']):.3f}, "
        f"null {float(row['k90_null']):.3f}"
        for task, row in found.items()
    }
    text = "A third of the coefficients holds 90 % of the energy"
    source = f"`zoo analyze`: {link('analysis')}"
    yield Claim(OF, text, holds(value, null), listed(shares), UPDATES, source)

    source = f"`zoo mask`: {link('mask')}"
    tenth, null_tenth = (masked("SST-2", "10.0", basis) for basis in ("dct", "random"))
    near, null = (abs(lost(row)[0] + 1.95) < 0.5 for row in (tenth, null_tenth))
    number = f"{points(tenth)}; random basis: {points(null_tenth)}"
    text = "To keep the largest tenth costs 2 points on SST-2"
    yield Claim(OF, text, holds(near, null), number, f"{tenth['runs']} runs", source)

    half = {task: masked(task, "50.0") for task in TASKS}
    better = [lost(row)[1] > 0 for row in half.values()]
    number = listed({task: points(row) for task, row in half.items()})
    text = "To keep half scores above the whole (the paper: on 3 of 8 pairs)"
    yield Claim(OF, text, holds(any(better)), number, UPDATES, source)
    text = "RoBERTa compresses more than BERT"
    yield Claim(OF, text, OPEN, "", "", "one encoder was at hand")


def lost(row: Row) -> tuple[float, float, float]:
    """Return by how many points a mask changes a score, with the 95 % interval that p is of.

    p is that of a paired t-test, so that t, and with it the standard error, follow from it.
    """
    change, n = 100 * float(row["difference"]), int(row["runs"])
    error = abs(change) / stats.t.isf(float(row["p"]) / 2, n - 1)
    half = stats.t.isf(0.025, n - 1) * error
    return change, change - half, change + half


def points(row: Row) -> str:
    """Write it."""
    change, low, high = lost(row)
    return f"{change:+.1f} {bracket(low, high, 1)}"


# ---- zoo -----------------------------------------------------------------------------------------


def fine_tuning_claims() -> Iterator[Claim]:
    """Compare scores of updates of one count."""
    above = {}
    for task in ("CoLA", "RTE"):
        ours, theirs = (scores(tuned(task, name)) for name in ("DCT", "LoRA"))
        above[task] = [a - b for a, b in zip(ours, theirs, strict=True)]
    higher = below(*([-each for each in sample] for sample in above.values()))
    text = "`DCT` scores above `LoRA` at its count, in points"
    source = f"`zoo fit --config glue_cola_lora.yaml`: {link('glue')}"
    yield Claim("zoo", text, holds(higher), gaps(above, 1), "3 seeds", source)
