"""Tables of the character model: after 400 and 2000 steps, every map at a tenth, ReLoRA."""

from statistics import mean

from results.rows import best, differences, gap, read, spread
from results.tables.page import Cells

REPLACED = 786_432
"""Weights of the character model that are made from coefficients; 40,001 others are trained too."""


def character_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row after 400 steps."""
    runs = best(row[0])
    (trainable,) = {int(each["trainable"]) for each in runs.rows.values()}
    count = trainable - int(dense_trainable()) + REPLACED
    return [row[0], f"{count:,}", runs.rate, *outcome(row[0], 400)]


def dense_trainable() -> str:
    """Return what dense weights have to train in all."""
    return next(iter(best("`Dense`").rows.values()))["trainable"]


def outcome(label: str, steps: int) -> Cells:
    """Return loss, gap to dense weights and stable rank."""
    runs = best(label, steps)
    to_dense = "" if label == "`Dense`" else gap(differences(label, "`Dense`", steps))
    return [spread(runs.values()), to_dense, f"{mean(runs.values('stable_rank')):.1f}"]


def long_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row after 2000 steps."""
    return [row[0], best(row[0], 2000).rate, *outcome(row[0], 2000)]


def maps_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of a map at a tenth."""
    runs = best(row[0], maps=True)
    first = next(iter(runs.rows.values()))
    return [
        row[0],
        f"{int(first['coefficients']):,}",
        runs.rate,
        spread(runs.values()),
        f"{mean(runs.values('stable_rank')):.1f}",
        f"{mean(runs.values('effective_rank')):.0f}",
        f"{int(first['training_flops']) / 1e6:.2f}",
        f"{int(first['checkpoint_bytes']) / 1e3:.0f}",
        f"{int(first['decode_bytes']) / 1e6:.2f}",
    ]


LORA = "LoRA-rank=48"
RESTARTED = "-callbacks=ReLoRA+every=400+warmup=50"
RELORA = {
    "plain factors, B A": f"{LORA}-lr=0.002",
    "frozen random W0 + B A": f"{LORA}-base=random-lr=0.004",
    "the same, with restarts each 400 steps": f"{LORA}-base=random-lr=0.004{RESTARTED}",
    "W0 after 400 dense steps, no restarts": f"{LORA}-base=warm-dense_steps=400-lr=0.004",
    "the same, with restarts: ReLoRA": f"{LORA}-base=warm-dense_steps=400-lr=0.004{RESTARTED}",
    "dense": "Dense-lr=0.008",
}
"""What is trained, and the name of its runs less their seed."""


def relora_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of relora.csv; what others published is not ours."""
    name = RELORA[row[0]]
    runs = [each for each in read("relora") if each["run"].rpartition("-seed=")[0] == name]
    runs = [each for each in runs if each["steps"] == "2000"]
    losses = ", ".join(f"{float(each['loss']):.3f}" for each in runs)
    rank = mean(float(each["stable_rank"]) for each in runs)
    return [row[0], runs[0]["lr"], losses, f"{rank:.1f}", row[-1]]
