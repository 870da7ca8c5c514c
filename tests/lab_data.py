"""Contents of analysis.json and mask.json as they look for fine-tuned encoders, made up from a
seed.
"""

import math

import numpy as np

MEASURES = {  # a k90 as each of them: times, plus
    "k50": (0.3, 0),
    "k90": (1, 0),
    "k99": (1.6, 0),
    "k50_frequency": (1.3, 0),
    "k90_frequency": (1, 0.5),
    "k99_frequency": (1, 0.6),
    "low_10": (0.1, 0.07),
    "low_25": (0.1, 0.22),
    "low_50": (0.1, 0.46),
}
KINDS = (
    "attention.self.query",
    "attention.self.value",
    "attention.self.key",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    "a.b.c1",
    "a.b.c2",
    "a.b.c3",
    "a.b.c4",
    "a.b.c5",
    "a.b.c6",
)
GROUPS = (
    ("CoLA / minilm / LoRA", "cola", "minilm", "LoRA", "matthews", 0.24),
    ("RTE / minilm / LoRA", "rte", "minilm", "LoRA", "accuracy", 0.59),
    ("CoLA / minilm / DCT", "cola", "minilm", "DCT", "matthews", 0.26),
    (
        "RTE / roberta-base-with-a-long-name / RandLoRA rank=8, lr=0.001",
        "rte",
        "roberta",
        "RandLoRA",
        "accuracy",
        0.61,
    ),
    ("SST-2 / minilm / LoRA", "sst2", "minilm", "LoRA", "accuracy", 0.88),
    ("SST-2 / minilm / DCT", "sst2", "minilm", "DCT", "accuracy", 0.87),
    ("CoLA / gpt2 / LoRA", "cola", "gpt2", "LoRA", "matthews", 0.30),
    ("CoLA / gpt2 / Zigzag", "cola", "gpt2", "Zigzag", "matthews", 0.28),
)
HEAD = {
    "zoo": "0.1.0",
    "date": "2026-05-20T12:00:00",
    "command": "zoo analyze runs/*",
    "device": "cpu",
    "seconds": 41.5,
}


def analysis(groups=2, seeds=3, blocks=6, kinds=2, transforms=("dct", "haar"), rank=8, seed=0):
    """What analysis.json holds, parsed."""
    rng = np.random.default_rng(seed)
    chosen = GROUPS[:groups]
    runs = [
        run(about, s, blocks, KINDS[:kinds], transforms, rank, rng)
        for about in chosen
        for s in range(seeds)
    ]
    return {
        **HEAD,
        "transforms": list(transforms),
        "draws": 20,
        "seed": 0,
        "runs": runs,
        "groups": [
            group(about, [r for r in runs if r["group"] == about[0]], transforms)
            for about in chosen
        ],
    }


def run(about, seed, blocks, kinds, transforms, rank, rng):
    name, task, model, parameterization, metric, score = about
    matrices = [matrix(b, k, blocks, transforms, rank, rng) for b in range(blocks) for k in kinds]
    x = {
        "value": 0.91,
        "low": 0.87,
        "high": 0.94,
        "null": 0.905,
        "null_sd": 0.01,
        "n": len(matrices),
    }
    undefined = dict.fromkeys(x, None) | {"n": len(matrices)}
    across = {"pearson": x | {"value": -0.43}, "spearman": undefined}
    correlation = {"energies": {"pearson": x, "spearman": x | {"value": 1.0}}} | dict.fromkeys(
        ("k90_stable_rank", "k90_effective_rank", "k90_block"), across
    )
    structured = parameterization == "LoRA" and task == "cola"
    words = (
        "k90 lies below the rotation null in 11 of 12 matrices."
        if structured
        else "k90 is what the null gives."
    )
    p = 1e-6 if structured else 0.41
    ordered = structured and seed < 2
    verdict = {
        "structured": structured,
        "p": p,
        "ordered": ordered,
        "shuffled_p": p,
        "zeros": 0.0,
        "matrices": 0,
        "words": words,
    }
    return {
        "name": f"{task}-{model}-{parameterization}-s{seed}".lower(),
        "path": f"runs/x/version_{seed}",
        "what": "dW",
        "group": name,
        "task": task,
        "model": model,
        "parameterization": parameterization,
        "seed": seed,
        "loss": float(0.6 + 0.05 * rng.normal()),
        "score": float(score + 0.02 * rng.normal()),
        "metric": metric,
        "notes": [],
        "matrices": matrices,
        "averages": {
            "run": {"all": average(matrices, transforms)},
            "block": {
                str(b): average([m for m in matrices if m["block"] == b], transforms)
                for b in range(blocks)
            },
            "kind": {
                k: average([m for m in matrices if m["kind"] == k], transforms) for k in kinds
            },
        },
        "correlation": {t: correlation for t in transforms},
        "verdicts": dict.fromkeys(transforms, verdict),
    }


def matrix(block, kind, blocks, transforms, rank, rng):
    s = np.sort(
        np.exp(-0.35 * np.arange(rank) * (1 + 0.5 * rng.random())) * (1 + 0.2 * rng.random(rank))
    )[::-1]
    s *= (0.3 + 0.1 * block) / np.linalg.norm(s)
    flat = np.linspace(1.2, 0.8, rank)
    flat *= np.linalg.norm(s) / np.linalg.norm(flat)
    p = s**2 / (s**2).sum()
    spectra, curves = {}, {}
    for i, t in enumerate(transforms):
        spectra[t], null = {}, 0.38 + 0.005 * rng.normal()
        k90 = null - 0.03 * block / blocks * (kind.endswith("query") + 0.2) + 0.01 * i
        for m, (scale, add) in MEASURES.items():
            value, expected = float(k90 * scale + add), float(null * scale + add)
            z = (value - expected) / 0.003
            p_value = math.erfc(abs(z) / 2**0.5)
            beside = {"shuffled": expected + 0.001, "shuffled_p": p_value}
            spectra[t][m] = {
                "value": value,
                "null": expected,
                "sd": 0.003,
                "z": z,
                "p": p_value,
                **beside,
            }
        x = np.linspace(0, 1, 101)
        curve, null_curve = (1 - (1 - x) ** (1 / k) for k in (k90, null))
        both = {
            "magnitude": curve,
            "frequency": x**0.9,
            "null_magnitude": null_curve,
            "null_frequency": x,
        }
        curves[t] = {k: v.tolist() for k, v in both.items()}
    return {
        "layer": f"bert.encoder.layer.{block}.{kind}",
        "block": block,
        "kind": kind,
        "shape": [384, 384],
        "norm": float(np.linalg.norm(s)),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "numerical_rank": rank,
        "singular_values": s.tolist(),
        "gaussian_singular_values": {"mean": flat.tolist(), "sd": (0.02 * flat).tolist()},
        "spectra": spectra,
        "curves": curves,
    }


def average(matrices, transforms):
    ranks = {
        r: float(np.mean([m[r] for m in matrices]))
        for r in ("stable_rank", "effective_rank", "numerical_rank")
    }
    fields = ("value", "null", "sd", "z", "p", "shuffled", "shuffled_p")
    spectra = {
        t: {
            k: {f: float(np.mean([m["spectra"][t][k][f] for m in matrices])) for f in fields}
            for k in MEASURES
        }
        for t in transforms
    }
    return {"matrices": len(matrices), **ranks, "spectra": spectra}


def over(values):
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def group(about, runs, transforms):
    a = [r["averages"]["run"]["all"] for r in runs]
    spectra = {
        t: {
            k: over([x["spectra"][t][k]["value"] for x in a])
            | {"null": float(np.mean([x["spectra"][t][k]["null"] for x in a])), "null_sd": 0.003}
            for k in MEASURES
        }
        for t in transforms
    }
    return {
        "group": about[0],
        "task": about[1],
        "model": about[2],
        "parameterization": about[3],
        "runs": [r["name"] for r in runs],
        "spectra": spectra,
        "verdicts": runs[0]["verdicts"],
        **{r: over([x[r] for x in a]) for r in ("stable_rank", "effective_rank")},
        **{k: over([r[k] for r in runs]) for k in ("loss", "score")},
    }


def mask(groups=2, seeds=3, transforms=("dct",), budgets=(1, 2, 5, 10, 25, 50, 75, 100), seed=0):
    """What mask.json holds, parsed."""
    rng = np.random.default_rng(seed)
    orders = {"magnitude": 0.15, "frequency": 0.5, "random": 0.9}
    runs, found = [], []
    for name, task, model, parameterization, metric, score in GROUPS[:groups]:
        own = []
        for s in range(seeds):
            unmasked = score + 0.02 * rng.normal()
            points = []
            for t in transforms:
                for o, power in orders.items():
                    for b in budgets:
                        value = (
                            unmasked * (b / 100) ** power * (1 + 0.01 * rng.normal() * (b < 100))
                        )
                        kept = round(b / 100 * 1769472)
                        cheap = {
                            "magnitude": ("rice", kept // 2),
                            "frequency": ("order", 0),
                            "random": ("seed", 8),
                        }[o]
                        points.append(
                            {
                                "transform": t,
                                "order": o,
                                "budget": float(b),
                                "kept": kept,
                                "energy": (b / 100) ** (power / 2),
                                "value": value,
                                "values": [value] * (3 if o == "random" else 1),
                                "bytes": {
                                    "values": 4 * kept,
                                    "places": cheap[1],
                                    "encoding": cheap[0],
                                    "file": None,
                                },
                            }
                        )
            own.append(
                {
                    "name": f"{task}-s{s}",
                    "path": f"runs/{task}/version_{s}",
                    "group": name,
                    "task": task,
                    "model": model,
                    "parameterization": parameterization,
                    "seed": s,
                    "what": "dW",
                    "metric": metric,
                    "better": "higher",
                    "unmasked": unmasked,
                    "reported": unmasked,
                    "notes": [],
                    "points": points,
                    "bytes": {"dense": 7077888, "trained": 294912, "other": 3080},
                }
            )
        runs += own
        points = []
        for i, p in enumerate(own[0]["points"]):
            values = [r["points"][i]["value"] for r in own]
            difference = float(np.mean(values) - np.mean([r["unmasked"] for r in own]))
            tested = seeds > 1 and p["budget"] < 100
            holm = min(1.0, 1e-5 / abs(difference) ** 3) if tested else None
            points.append(
                {
                    **{k: p[k] for k in ("transform", "order", "budget")},
                    **over(values),
                    "difference": difference,
                    "t": 120 * difference if tested else None,
                    "p": holm / 5 if tested else None,
                    "p_holm": holm,
                }
            )
        found.append(
            {
                "group": name,
                "task": task,
                "model": model,
                "parameterization": parameterization,
                "runs": [r["name"] for r in own],
                "n": seeds,
                "metric": metric,
                "better": "higher",
                "unmasked": over([r["unmasked"] for r in own]),
                "points": points,
            }
        )
    head = HEAD | {"command": "zoo mask runs/* --budgets " + ",".join(map(str, budgets))}
    return {
        **head,
        "transforms": list(transforms),
        "orders": list(orders),
        "budgets": [float(b) for b in budgets],
        "draws": 3,
        "runs": runs,
        "groups": found,
    }
