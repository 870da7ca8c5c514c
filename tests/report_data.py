"""Data of a report as they look for a sweep of the paper's model, made up from a seed."""

import numpy as np
from scipy import stats

from zoo.studies.report.costs import frontiers

WEIGHTS, OTHER = 786432, 40001
BUDGETS = (0.5, 0.1, 0.05)
KINDS = (  # parameterization, arguments, optimizer, loss at each budget, stable rank at each
    ("DCT", {}, "adamw", (1.56, 1.61, 1.65), (11, 14, 16)),
    ("RandomOrthonormal", {}, "adamw", (1.561, 1.612, 1.655), (11.5, 14.5, 17)),
    ("Zigzag", {}, "adamw", (1.58, 1.70, 1.76), (9, 5, 3.4)),
    ("Zigzag", {"basis": "random"}, "adamw", (1.60, 1.72, 1.79), (8, 4.4, 3.1)),
    ("LoRA", {}, "adamw", (1.76, 1.79, 1.85), (3.3, 2.8, 2.2)),
    ("RandLoRA", {"scaling": "paper"}, "adamw", (1.62, 1.66, 1.72), (8, 7, 6.2)),
    ("DCT", {}, "muon", (1.53, 1.57, 1.60), (15, 18, 21)),
    ("Hadamard", {"selection": "stratified"}, "adamw", (1.56, 1.6, 1.64), (11, 14, 15)),
)
HEAD = {
    "zoo": "0.1.0",
    "date": "2026-05-20T12:00:00+00:00",
    "command": "zoo report runs --out report",
    "device": "cpu",
    "threads": 2,
    "seconds": 3.2,
}


def report(
    kinds=6,
    seeds=5,
    budgets=BUDGETS,
    better="lower",
    search=True,
    reference="Dense",
    comparisons=1,
    seed=0,
):
    """What `zoo report` gives to its figures and pages."""
    rng = np.random.default_rng(seed)
    names = [f"tinyshakespeare / CharLM{', steps=400' * i}" for i in range(comparisons)]
    own = [
        comparison(name, KINDS[:kinds], seeds, budgets, better, search, reference, rng)
        for name in names
    ]
    return {**HEAD, "margin": 0.024, "level": 0.05, "skipped": [], "comparisons": own}


def comparison(name, kinds, seeds, budgets, better, search, reference, rng):
    noise = 0.01 * rng.normal(size=seeds)  # of a seed: pairs share it
    runs = []
    methods = [
        method("Dense", "Dense", {}, "adamw", 1.0, 1.54, 7.0, noise, search, better, runs, rng)
    ]
    for kind, arguments, optimizer, losses, ranks in kinds:
        for budget, loss, rank in zip(budgets, losses, ranks, strict=False):
            given = {"ratio": budget, **arguments}
            label = " ".join(
                [
                    kind,
                    *(f"{k}={v}" for k, v in given.items()),
                    *[optimizer] * (optimizer != "adamw"),
                ]
            )
            row = method(
                label, kind, given, optimizer, budget, loss, rank, noise, search, better, runs, rng
            )
            if kind == "LoRA":
                row["count_off"] = 0.016
            methods.append(row)
    base = next((m for m in methods if m["method"] == reference), None)
    for m in methods if base else ():
        if m is not base:
            m["gap"], m["tost"] = gap(np.subtract(m["values"], base["values"]))
    for rank, m in enumerate(
        sorted(methods, key=lambda m: m["mean"] * (1 if better == "lower" else -1)), 1
    ):
        m["rank"] = rank
    return {
        "name": name,
        "metric": "loss" if better == "lower" else "accuracy",
        "better": better,
        "settings": {
            "corpus": "tinyshakespeare",
            "sha256": "86c4e6aa9db7",
            "steps": 1000,
            "batch_size": 32,
        },
        "reference": reference,
        "search": {"equal": True, "words": "4 learning rates per method on seed 0"},
        "frontiers": frontiers(methods, better),
        "methods": methods,
        "runs": runs,
        "notes": [],
    }


def method(label, kind, arguments, optimizer, budget, loss, rank, noise, search, better, runs, rng):
    seeds, best = list(range(1, len(noise) + 1)), 0.01
    flip = (lambda v: v) if better == "lower" else (lambda v: 2.4 - v)
    values = [float(flip(loss + n + 0.003 * rng.normal())) for n in noise]
    found = (
        [
            {"lr": lr, "seed": 0, "value": float(flip(loss + 0.05 * np.log2(lr / best) ** 2))}
            for lr in (0.005, 0.01, 0.02, 0.04)
        ]
        if search
        else []
    )
    own = [
        run(label, best, s, v, rank, rng, budget, flip) for s, v in zip(seeds, values, strict=True)
    ]
    runs += [
        run(label, f["lr"], 0, f["value"], rank, rng, budget, flip, searched=True) for f in found
    ] + own
    low, high = interval(values)
    return {
        "method": label,
        "parameterization": kind,
        "arguments": arguments,
        "optimizer": optimizer,
        "other": {},
        "coefficients": round(WEIGHTS * budget),
        "replaced": WEIGHTS,
        "trainable": round(WEIGHTS * budget) + OTHER,
        "cost": cost(kind, round(WEIGHTS * budget)),
        "budget": budget,
        "count_off": 0.0,
        "lr": best,
        "seeds": seeds,
        "n": len(values),
        "tuned_on_reported": False,
        "values": values,
        "mean": float(np.mean(values)),
        "sd": sd(values),
        "low": low,
        "high": high,
        "gap": None,
        "tost": None,
        "stable_rank": {"mean": float(np.mean([r["stable_rank"] for r in own])), "sd": 0.2},
        "terminal": {"sd": 0.0021, "range": 0.006, "n": 4},
        "seconds": {"mean": 47.6, "sd": 0.8},
        "devices": ["cpu"],
        "search": found,
        "rank": 0,
    }


def cost(kind, coefficients):
    """What a map takes that builds W, and what factors take that do not."""
    products, flops = (coefficients, WEIGHTS)[kind != "LoRA"], (4, 6)[kind != "LoRA"]
    training = flops * products + (kind not in ("Dense", "LoRA")) * 40 * WEIGHTS // 64
    return {
        "rows": 4096,
        "forward_flops": training // 3,
        "training_flops": training,
        "total_training_flops": training * 4096 * 1000,
        "checkpoint_bytes": 4 * (coefficients + OTHER),
        "decode_bytes": 4 * products,
    }


def run(label, lr, seed, value, rank, rng, budget, flip, searched=False):
    steps = np.arange(100, 1001, 100)
    rank = float(rank * (1 + 0.03 * rng.normal()))
    curve = flip(
        flip(value)
        + 2.6 * np.exp(-steps / 180)
        + 0.004 * rng.normal(size=len(steps)) * (steps < 1000)
    )
    ranks = rank * (1 + np.exp(-steps / 300))
    return {
        "path": f"runs/{label.replace(' ', '_')}-lr{lr:g}-s{seed}/version_0",
        "name": f"{label} {lr:g} {seed}",
        "method": label,
        "lr": lr,
        "seed": seed,
        "value": value,
        "loss": value,
        "score": None,
        "stable_rank": rank,
        "coefficients": round(WEIGHTS * budget),
        "steps": 1000,
        "terminal_sd": 0.002,
        "searched": searched,
        "device": "cpu",
        "command": f"zoo fit --seed {seed}",
        "date": HEAD["date"],
        "curves": {
            "value": [[int(s), float(v)] for s, v in zip(steps, curve, strict=True)],
            "stable_rank": [[int(s), float(v)] for s, v in zip(steps, ranks, strict=True)],
        },
    }


def gap(differences, margin=0.024):
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return {"n": n, "mean": mean, "low": None, "high": None, "p": None}, None
    low, high = interval(differences)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    p = float(max(above, below))
    own = {
        "n": n,
        "mean": mean,
        "low": low,
        "high": high,
        "p": float(stats.ttest_1samp(differences, 0).pvalue),
    }
    return own, {"margin": margin, "p": p, "equivalent": p < 0.05}


def interval(values):
    if len(values) < 2:
        return None, None
    return tuple(
        map(float, stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values)))
    )


def sd(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
