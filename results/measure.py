"""Measures what results/README.md and zoo/bases/transforms.py state, and prints it as CSV rows.

    python -m results.measure transforms >> results/transforms.csv   # rebuilding W: matrix products
    against FFT python -m results.measure muon >> results/muon.csv               # a training step
    with Muon against AdamW python -m results.measure table RUNS >> results/glue.csv         #
    summaries of runs, one row each python -m results.measure analysis DIR >> results/analysis.csv
    # a report of zoo analyze python -m results.measure mask DIR >> results/mask.csv           # a
    report of zoo mask

Alternatives are timed in turn (`zoo.studies.bench.timing`). What zoo costs beside dense weights, a
plain loop and peft is measured by `python -m results.goals`.
"""

import csv
import functools
import json
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from results.goals.rows import trained_step
from zoo.bases import transforms
from zoo.bases.seeds import dct_matrix
from zoo.parameterizations import DCT, Dense, RandomOrthonormal, RowDCT
from zoo.studies.bench.timing import alternate, ratio


def main(argv: list[str]) -> None:
    """Print the rows of one measurement."""
    measurements = {
        "transforms": measure_transforms,
        "muon": measure_muon,
        "table": table,
        "analysis": analysis,
        "mask": mask,
    }
    rows = measurements[argv[0]](*argv[1:])
    source = {
        "command": "python -m results.measure " + " ".join(argv[:1]),
        "commit": commit(),
        "device": device(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    writer = csv.DictWriter(
        sys.stdout, [*rows[0], *(k for k in source if k not in rows[0])], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({**source, **row} for row in rows)


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()


def device() -> str:
    """Processor and threads, in words."""
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def spread(a: list[float], b: list[float]) -> dict[str, str]:
    """a / b, neighbour by neighbour: median and quartiles."""
    found = ratio(a, b)
    return {"ratio": f"{found.median:.3f}", "quartiles": f"{found.low:.3f}-{found.high:.3f}"}


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
        seconds = alternate(calls, rounds=60 if m < 768 else 10, warmup=5)
        times = {f"{name}_ms": f"{1e3 * median(s):.4f}" for name, s in seconds.items()}
        rows.append({"m": m, "n": n, **times, **spread(seconds["fft"], seconds["products"])})
    return rows


def measure_muon() -> list[dict[str, object]]:
    """A training step with subspace Muon against the same with AdamW, 32 windows."""
    factories = {
        "dense": Dense,
        "dct_half": functools.partial(DCT, ratio=0.5),
        "dct_tenth": functools.partial(DCT, ratio=0.1),
        "row_dct_tenth": functools.partial(RowDCT, ratio=0.1),
        "random_orthonormal_half": functools.partial(RandomOrthonormal, ratio=0.5),
    }
    rows = []
    for config, factory in factories.items():
        steps = {name: trained_step(factory, name) for name in ("adamw", "muon")}
        seconds = alternate(steps, rounds=60, warmup=8)
        rows.append(
            {
                "config": config,
                **{f"{name}_ms": f"{1e3 * median(s):.1f}" for name, s in seconds.items()},
                **spread(seconds["muon"], seconds["adamw"]),
            }
        )
    return rows


def table(folder: str) -> list[dict[str, object]]:
    """One row a run below `folder`; paths on its command line become their last part."""
    rows = []
    for path in sorted(Path(folder).glob("**/summary.json")):
        s = json.loads(path.read_text())
        score = (
            {} if s["score"] is None else {"score": f"{s['score']:.4f}", "best": f"{s['best']:.4f}"}
        )
        rows.append(
            {
                "run": path.parent.parent.name,
                "data": s["data"],
                "parameterization": s["parameterization"],
                "steps": s["steps"],
                "seed": s["seed"],
                "lr": s["lr"],
                **score,
                "loss": f"{s['loss']:.4f}",
                "trainable": s["trainable"],
                "stable_rank": f"{s['stable_rank']:.2f}",
                "seconds": f"{s['seconds']:.0f}",
                "device": f"{s['device']}, {s['threads']} threads",
                "command": without_folders(s["command"]),
                "date": s["date"][:10],
            }
        )
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
                for measure in ("k90", "low_25")
                for field, value in spectra[measure].items()
            }
            rows.append(
                {
                    "group": group["group"],
                    "runs": len(group["runs"]),
                    "transform": transform,
                    **found,
                    "p": f"{verdict['p']:.2g}",
                    "shuffled_p": f"{verdict['shuffled_p']:.2g}",
                    "stable_rank": f"{group['stable_rank']['mean']:.2f}",
                    **origin(report),
                }
            )
    return rows


def mask(folder: str) -> list[dict[str, object]]:
    """Each group and mask of a mask.json."""
    report = json.loads((Path(folder) / "mask.json").read_text())
    rows = []
    for group in report["groups"]:
        first = next(run for run in report["runs"] if run["group"] == group["group"])
        for point, bytes_ in zip(
            group["points"], (p["bytes"] for p in first["points"]), strict=True
        ):
            p = {
                key: "" if point[key] is None else f"{point[key]:.4f}"
                for key in ("sd", "p", "p_holm")
            }
            rows.append(
                {
                    "group": group["group"],
                    "runs": group["n"],
                    "metric": group["metric"],
                    **{key: point[key] for key in ("transform", "order", "budget")},
                    "score": f"{point['mean']:.4f}",
                    **p,
                    "difference": f"{point['difference']:.4f}",
                    "bytes": bytes_["values"] + bytes_["places"],
                    "trained_bytes": first["bytes"]["trained"],
                    **origin(report),
                }
            )
    return rows


def origin(report: dict[str, Any]) -> dict[str, object]:
    """Of a report's rows."""
    return {
        "command": without_folders(report["command"]),
        "device": f"{report['device']}, {report['threads']} threads",
        "date": report["date"][:10],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
