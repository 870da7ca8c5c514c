"""Measures what the README and zoo/transforms.py state, and prints it as CSV rows.

    python results/measure.py transforms >> results/transforms.csv   # rebuilding W: matrix products against FFT
    python results/measure.py step >> results/step.csv               # a training step of each config against dense
    python results/measure.py muon >> results/muon.csv               # a training step with Muon against AdamW
    python results/measure.py loop >> results/loop.csv               # zoo fit of dense against a plain PyTorch loop
    python results/measure.py table RUNS >> results/glue.csv         # summaries of runs, one row each
    python results/measure.py analysis DIR >> results/analysis.csv   # a report of zoo analyze
    python results/measure.py mask DIR >> results/mask.csv           # a report of zoo mask

Alternatives are timed in alternation within one process; a ratio is the median of ratios of neighbours, with its
quartiles. Tiny Shakespeare is looked for as `zoo fit` does, in $ZOO_DATA or the cache.
"""

import contextlib
import csv
import io
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F

from tasks import CharData, CharLM
from tasks.char_lm.model import GPT
from tasks.text.windows import WindowLoader
from zoo import transforms
from zoo.bases import dct_matrix
from zoo.cli import run
from zoo.optimizers import OptimizerConfig, build, warmup_cosine


def main(argv: list[str]) -> None:
    """Print the rows of one measurement."""
    measurements = {
        "transforms": measure_transforms, "step": measure_step, "muon": measure_muon, "loop": measure_loop,
        "table": table, "analysis": analysis, "mask": mask,
    }
    rows = measurements[argv[0]](*argv[1:])
    source = {
        "command": "python results/measure.py " + " ".join(argv[:1]), "commit": commit(), "device": device(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    writer = csv.DictWriter(sys.stdout, [*rows[0], *(k for k in source if k not in rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**source, **row} for row in rows)


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()


def device() -> str:
    """Processor and threads, in words."""
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def alternate(alternatives: dict[str, Callable[[], object]], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of each, called in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(warmup + rounds):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(a: list[float], b: list[float]) -> dict[str, str]:
    """a / b, neighbour by neighbour: median and quartiles."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return {"ratio": f"{median(ratios):.3f}", "quartiles": f"{low:.3f}-{high:.3f}"}


def measure_transforms() -> list[dict[str, object]]:
    """Forward rebuild of an (m, n) DCT weight, ms: both paths."""
    rows = []
    squares = [(n, n) for n in (16, 32, 64, 96, 128, 768)]
    for m, n in [*squares, (384, 128), (512, 128), (128, 512), (3072, 768)]:
        plane = torch.randn(m, n)
        sides = transforms.Sides(dct_matrix(m).float(), dct_matrix(n).float())
        plan = transforms.cosine_plan(m, n, plane.device, torch.float32)
        packed = torch.randn(transforms.packed_shape(m, n))
        calls = {
            "products": lambda p=plane, s=sides: transforms.unrotate(p, s),
            "fft": lambda p=packed, s=(m, n), t=plan: transforms.idct2_packed(p.clone(), s, t),
        }
        seconds = alternate(calls, 60 if m < 768 else 10, 5)
        times = {f"{name}_ms": f"{1e3 * median(s):.4f}" for name, s in seconds.items()}
        rows.append({"m": m, "n": n, **times, **ratio(seconds["fft"], seconds["products"])})
    return rows


def trained_step(model: CharLM, batches: WindowLoader, name: str = "adamw") -> Callable[[], object]:
    """A plain loop's training step: bfloat16 autocast, AdamW or Muon, clipping."""
    config = OptimizerConfig(name, lr=0.007, final_lr=0.02)
    optimizer = build(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: warmup_cosine(s, batches.steps, 100, 0.02))
    iterator = iter(batches)

    def step() -> None:
        inputs, targets = next(iterator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    return step


def measure_step() -> list[dict[str, object]]:
    """A training step of each parameterization against dense, at the shipped batch of 32 and at 64 windows.

    And with PyTorch's own fused attention in place of the spelled-out one, which changes the step that both share.
    """
    import functools

    from tasks.char_lm import model as char_model
    from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA, RandomOrthonormal

    half = {"dense": Dense, "dct_half": functools.partial(DCT, ratio=0.5)}
    others = {"random_orthonormal_half": functools.partial(RandomOrthonormal, ratio=0.5),
              "lora_48": functools.partial(LoRA, rank=48), "randlora": functools.partial(RandLoRA, ratio=0.5)}
    data = CharData()
    rows = []
    spelled = char_model.causal_attention
    cases = ((32, "spelled out", half | others), (64, "spelled out", half), (32, "fused", half))
    for batch, attention, factories in cases:
        if attention == "fused":
            char_model.causal_attention = lambda q, k, v, p: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        steps = {}
        for name, factory in factories.items():
            torch.manual_seed(0)
            loader = WindowLoader(data.encoded[0][0], 10_000, batch, 128, seed=0)
            steps[name] = trained_step(CharLM(data.vocabulary, factory), loader)
        seconds = alternate(steps, 60 if len(factories) > 2 else 40, 8)
        char_model.causal_attention = spelled
        rows += [
            {"config": name, "batch": batch, "attention": attention, "step_ms": f"{1e3 * median(s):.1f}",
             **ratio(s, seconds["dense"])}
            for name, s in seconds.items()
        ]
    return rows


def measure_muon() -> list[dict[str, object]]:
    """A training step with subspace Muon against the same with AdamW, 32 windows."""
    import functools

    from zoo.parameterizations import DCT, Dense, RandomOrthonormal, RowDCT

    factories = {"dense": Dense, "dct_half": functools.partial(DCT, ratio=0.5),
                 "dct_tenth": functools.partial(DCT, ratio=0.1), "row_dct_tenth": functools.partial(RowDCT, ratio=0.1),
                 "random_orthonormal_half": functools.partial(RandomOrthonormal, ratio=0.5)}
    data, rows = CharData(), []
    for config, factory in factories.items():
        steps = {}
        for name in ("adamw", "muon"):
            torch.manual_seed(0)
            loader = WindowLoader(data.encoded[0][0], 10_000, 32, 128, seed=0)
            steps[name] = trained_step(CharLM(data.vocabulary, factory), loader, name)
        seconds = alternate(steps, 60, 8)
        rows.append({"config": config, **{f"{name}_ms": f"{1e3 * median(s):.1f}" for name, s in seconds.items()},
                     **ratio(seconds["muon"], seconds["adamw"])})
    return rows


def measure_loop(pairs: str = "5", steps: str = "150") -> list[dict[str, object]]:
    """`zoo fit` of dense, callbacks and all, against a plain loop: seconds of whole runs, in alternation."""
    data = CharData()
    n = int(steps)

    def plain() -> None:
        torch.manual_seed(0)
        model = GPT(len(data.vocabulary))
        module = CharLM(data.vocabulary)
        module.net = model
        step = trained_step(module, WindowLoader(data.encoded[0][0], n, 32, 128, seed=0))
        for _ in range(n):
            step()

    def fitted() -> None:
        folder = tempfile.mkdtemp()
        options = [f"--trainer.max_steps={n}", "--trainer.limit_val_batches=0", f"--trainer.default_root_dir={folder}"]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()) as out:
            assert run(["fit", "--config", "dense.yaml", *options]) == 0
        wall.append(next(line for line in out.getvalue().splitlines() if line.startswith("wall time")))

    wall: list[str] = []
    seconds = alternate({"plain loop": plain, "zoo fit": fitted}, int(pairs), 1)
    rates = [float(line.split()[-2]) for line in wall[1:]]
    own = [n / rate for rate in rates]  # from its first to its last step, without building the parser
    return [{"steps": n, "plain_s": f"{median(seconds['plain loop']):.2f}", "zoo_fit_s": f"{median(own):.2f}",
             **ratio(own, seconds["plain loop"])}]


def table(folder: str) -> list[dict[str, object]]:
    """One row a run below `folder`; paths on its command line become their last part."""
    rows = []
    for path in sorted(Path(folder).glob("**/summary.json")):
        s = json.loads(path.read_text())
        score = {} if s["score"] is None else {"score": f"{s['score']:.4f}", "best": f"{s['best']:.4f}"}
        rows.append({
            "run": path.parent.parent.name, "data": s["data"], "parameterization": s["parameterization"],
            "steps": s["steps"], "seed": s["seed"], "lr": s["lr"], **score, "loss": f"{s['loss']:.4f}",
            "trainable": s["trainable"], "stable_rank": f"{s['stable_rank']:.2f}", "seconds": f"{s['seconds']:.0f}",
            "device": f"{s['device']}, {s['threads']} threads",
            "command": without_folders(s["command"]), "date": s["date"][:10],
        })
    return rows


def without_folders(command: str) -> str:
    """A command line whose absolute paths are their last part."""
    return re.sub(r"(?<=[ =])/\S*/", "", command)


def analysis(folder: str) -> list[dict[str, object]]:
    """Each group and transform of an analysis.json: two measures beside both nulls, means over all its matrices."""
    report = json.loads((Path(folder) / "analysis.json").read_text())
    rows = []
    for group in report["groups"]:
        for transform, verdict in group["verdicts"].items():
            spectra = group["spectra"][transform]
            found = {
                f"{measure}_{field}".removesuffix("_mean"): "" if value is None else f"{value:.4f}"
                for measure in ("k90", "low_25") for field, value in spectra[measure].items()
            }
            rows.append({
                "group": group["group"], "runs": len(group["runs"]), "transform": transform, **found,
                "p": f"{verdict['p']:.2g}", "shuffled_p": f"{verdict['shuffled_p']:.2g}",
                "stable_rank": f"{group['stable_rank']['mean']:.2f}", **origin(report),
            })
    return rows


def mask(folder: str) -> list[dict[str, object]]:
    """Each group and mask of a mask.json."""
    report = json.loads((Path(folder) / "mask.json").read_text())
    rows = []
    for group in report["groups"]:
        first = next(run for run in report["runs"] if run["group"] == group["group"])
        for point, bytes_ in zip(group["points"], (p["bytes"] for p in first["points"]), strict=True):
            p = {key: "" if point[key] is None else f"{point[key]:.4f}" for key in ("sd", "p", "p_holm")}
            rows.append({
                "group": group["group"], "runs": group["n"], "metric": group["metric"],
                **{key: point[key] for key in ("transform", "order", "budget")}, "score": f"{point['mean']:.4f}", **p,
                "difference": f"{point['difference']:.4f}", "bytes": bytes_["values"] + bytes_["places"],
                "trained_bytes": first["bytes"]["trained"], **origin(report),
            })
    return rows


def origin(report: dict[str, Any]) -> dict[str, object]:
    """Of a report's rows."""
    return {
        "command": without_folders(report["command"]), "device": f"{report['device']}, {report['threads']} threads",
        "date": report["date"][:10],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
