"""Measure what results/README.md and zoo/bases/cosine.py state, and print it as CSV rows.

Rebuilding W by matrix products and by FFTs, and a training step with Muon beside one with AdamW:

    python -m results.measure transforms >> results/transforms.csv
    python -m results.measure muon >> results/muon.csv

Summaries of runs, and reports of `zoo analyze`, `zoo mask` and `zoo coordinates`, as rows:

    python -m results.measure table RUNS >> results/glue.csv
    python -m results.measure analysis DIR >> results/analysis.csv
    python -m results.measure mask DIR >> results/mask.csv
    python -m results.measure exponents DIR >> results/exponents.csv

Alternatives are timed in turn (`zoo.studies.bench.timing`). What zoo costs beside dense weights, a
plain loop and peft is measured by `python -m results.goals`.
"""

import csv
import functools
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from results.goals.rows import trained_step
from zoo.bases import cosine
from zoo.bases.basis import Sides, unrotate
from zoo.bases.cosine import dct_matrix
from zoo.parameterizations import DCT, Dense, RandomOrthonormal, RowDCT
from zoo.provenance import commit, device_name
from zoo.studies.bench.rows import SOURCE, ratio_columns, source
from zoo.studies.bench.timing import alternate, ratio
from zoo.studies.coordinates.sizes import SIZE_MEASURES
from zoo.studies.coordinates.tables import WHOLE

Row = dict[str, object]


def main(argv: Sequence[str]) -> None:
    """Print the rows of one measurement."""
    measurements = {
        "transforms": transform_rows,
        "muon": muon_rows,
        "table": table_rows,
        "analysis": analysis_rows,
        "mask": mask_rows,
        "exponents": exponent_rows,
    }
    name, *arguments = argv
    print_rows(measurements[name](*arguments), f"python -m results.measure {name}")


def print_rows(rows: Iterable[Row], command: str) -> None:
    """Print rows as CSV, each as soon as it is measured, with columns of their source.

    Args:
        rows: all with the same keys; what they say of their own source is kept.
        command: the command line that measures them.
    """
    facts = {
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    origin, writer = source(facts), None
    for row in rows:
        whole = row | {key: row.get(key, origin[key]) for key in SOURCE}
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(whole), lineterminator="\n")
            writer.writeheader()
        writer.writerow(whole)
        sys.stdout.flush()


# ---- Times ---------------------------------------------------------------------------------------


def transform_rows() -> Iterable[Row]:
    """Time the forward rebuild of an (m, n) DCT weight in ms, by both ways."""
    squares = [(n, n) for n in (16, 32, 64, 96, 128, 768)]
    for m, n in [*squares, (384, 128), (512, 128), (128, 512), (3072, 768)]:
        plane = torch.randn(m, n)
        sides = Sides(dct_matrix(m).float(), dct_matrix(n).float())
        plan = cosine.cosine_plan(m, n, plane.device, torch.float32)
        packed = torch.randn(cosine.packed_shape(m, n))
        calls = {
            "products": lambda p=plane, s=sides: unrotate(p, s),
            "fft": lambda p=packed, s=(m, n), t=plan: cosine.idct2_packed(p.clone(), s, t),
        }
        seconds = alternate(calls, rounds=60 if m < 768 else 10, warmup=5)
        times: Row = {f"{name}_ms": f"{1e3 * median(each):.4f}" for name, each in seconds.items()}
        to_products = ratio(seconds["fft"], seconds["products"])
        yield {"m": m, "n": n, **times, **ratio_columns(to_products._asdict())}


def muon_rows() -> Iterable[Row]:
    """Time a step with Muon beside AdamW, and Muon scaled by Frobenius' norm, 32 windows."""
    factories = {
        "dense": Dense,
        "dct_half": functools.partial(DCT, ratio=0.5),
        "dct_tenth": functools.partial(DCT, ratio=0.1),
        "row_dct_tenth": functools.partial(RowDCT, ratio=0.1),
        "random_orthonormal_half": functools.partial(RandomOrthonormal, ratio=0.5),
    }
    for config, factory in factories.items():
        steps = {name: trained_step(factory, name) for name in ("adamw", "muon")}
        steps["frobenius"] = trained_step(factory, "muon", scale="frobenius")
        seconds = alternate(steps, rounds=60, warmup=8)
        times: Row = {f"{name}_ms": f"{1e3 * median(each):.1f}" for name, each in seconds.items()}
        to_adamw = ratio_columns(ratio(seconds["muon"], seconds["adamw"])._asdict())
        to_before = ratio_columns(ratio(seconds["muon"], seconds["frobenius"])._asdict())
        more = {f"{key}_to_frobenius": value for key, value in to_before.items()}
        yield {"config": config, **times, **to_adamw, **more}


# ---- What summaries and reports say --------------------------------------------------------------


def table_rows(folder: str) -> Iterable[Row]:
    """Read one row from the summary of each run below `folder`."""
    for path in sorted(Path(folder).glob("**/summary.json")):
        summary = json.loads(path.read_text())
        score = {
            key: f"{summary[key]:.4f}" for key in ("score", "best") if summary["score"] is not None
        }
        origin = reported_source(summary)
        yield {
            "run": path.parent.parent.name,
            **{key: summary[key] for key in ("data", "parameterization", "steps", "seed", "lr")},
            **score,
            "loss": f"{summary['loss']:.4f}",
            "trainable": summary["trainable"],
            "stable_rank": f"{summary['stable_rank']:.2f}",
            "seconds": f"{summary['seconds']:.0f}",
            "device": origin["device"],  # before the command, as in the tables that there are
            **origin,
        }


def analysis_rows(folder: str) -> Iterable[Row]:
    """Read a row for each group and transform from the analysis.json of a folder.

    A row holds two measures beside both nulls, each a mean over all matrices of the group.
    """
    report = json.loads((Path(folder) / "analysis.json").read_text())
    for group in report["groups"]:
        for transform, verdict in group["verdicts"].items():
            spectra = group["spectra"][transform]
            measures = {
                f"{measure}_{field}".removesuffix("_mean"): "" if value is None else f"{value:.4f}"
                for measure in ("k90", "low_25")
                for field, value in spectra[measure].items()
            }
            yield {
                "group": group["group"],
                "runs": len(group["runs"]),
                "transform": transform,
                **measures,
                "p": f"{verdict['p']:.2g}",
                "shuffled_p": f"{verdict['shuffled_p']:.2g}",
                "stable_rank": f"{group['stable_rank']['mean']:.2f}",
                **reported_source(report),
            }


def mask_rows(folder: str) -> Iterable[Row]:
    """Read a row for each group and mask from the mask.json of a folder."""
    report = json.loads((Path(folder) / "mask.json").read_text())
    for group in report["groups"]:
        first = next(run for run in report["runs"] if run["group"] == group["group"])
        for point, of_first in zip(group["points"], first["points"], strict=True):
            tests = {
                key: "" if point[key] is None else f"{point[key]:.4f}"
                for key in ("sd", "p", "p_holm")
            }
            yield {
                "group": group["group"],
                "runs": group["n"],
                "metric": group["metric"],
                **{key: point[key] for key in ("transform", "order", "budget")},
                "score": f"{point['mean']:.4f}",
                **tests,
                "difference": f"{point['difference']:.4f}",
                "bytes": of_first["bytes"]["values"] + of_first["bytes"]["places"],
                "trained_bytes": first["bytes"]["trained"],
                **reported_source(report),
            }


def exponent_rows(folder: str) -> Iterable[Row]:
    """Read the exponents in the coordinates.json of a folder, and their 95 % intervals.

    A row is of a parameterization along width or depth: of the whole network, or of one kind of
    layer, which has no blocks and no logits.
    """
    report = json.loads((Path(folder) / "coordinates.json").read_text())
    optimizer = report["optimizer"]
    frobenius = optimizer["name"] == "muon" and optimizer["muon_scale"] == "frobenius"
    rows: dict[tuple[str, str, str], Row] = {}
    for found in report["slopes"]:
        layers = "all" if found["group"] in WHOLE else found["group"]
        row = rows.setdefault((found["parameterization"], found["along"], layers), {})
        for key, field in (("", "slope"), (" interval", "interval")):
            number = found[field]
            row[found["measure"] + key] = "" if number is None else f"{number:.3f}"
    for (label, along, layers), row in rows.items():
        name, _, base = label.partition(", ")
        sizes = report[f"{along}s"]
        yield {
            "parameterization": name,
            "optimizer": optimizer["name"] + " frobenius" * frobenius,
            "base": base,
            "along": along,
            "sizes": f"{sizes[0]}-{sizes[-1]}",
            "layers": layers,
            **{
                measure.label + key: row.get(measure.label + key, "")
                for measure in SIZE_MEASURES
                for key in ("", " interval")
            },
            **reported_source(report),
        }


def reported_source(report: Mapping[str, Any]) -> Row:
    """Return the columns that say where a report comes from, without anybody's folders."""
    return {
        "command": re.sub(r"(?<=[ =])/\S*/", "", report["command"]),
        "device": f"{report['device']}, {report['threads']} threads",
        "date": report["date"][:10],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
