"""Rows of the character model in every map, and what orders them.

Two sweeps, resumable, the most telling methods first:

    zoo sweep --config results/maps.yaml --out maps
    zoo sweep --config results/maps_causal.yaml --out maps_causal

Their runs as rows, with ranks of what they trained and with what it costs:

    python -m results.measure_maps rows maps > maps.csv
    python -m results.measure_maps rows maps_causal > maps_causal.csv

And whether loss goes with stable rank where one thing of one family is varied:

    python -m results.measure_maps order maps_causal.csv
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from results.measure import Row, print_rows, reported_source
from zoo.files.trust import Trust
from zoo.layers.convert import zoo_layers
from zoo.layers.costs import cost_facts
from zoo.runs.checkpoints import rebuild
from zoo.spectrum import ranks
from zoo.training.module import ZooModule

TRUST = Trust(("results.boxes",))
"""Whose classes the runs of these sweeps may name besides zoo's own."""
COST = ("training_flops", "checkpoint_bytes", "decode_bytes")
"""FLOPs a token of training, bytes saved, and bytes read to make a token."""
DRAWS = 10_000
"""Of the bootstrap, over the values of each family."""


def main(name: str, path: str, commit: str | None = None) -> None:
    """Print the rows of a sweep's folder, or what orders the rows of a table.

    Args:
        name: `rows` or `order`.
        path: the folder or the table.
        commit: that the runs are of, if it is not this one.
    """
    if name == "rows":
        origin: Row = {} if commit is None else {"commit": commit}
        print_rows((row | origin for row in rows(path)), f"python -m results.measure_maps {name}")
    else:
        with open(path, newline="") as file:
            print(order(list(csv.DictReader(file))))


def rows(folder: str) -> Iterable[Row]:
    """Read one row from the summary and the last checkpoint of each run below `folder`."""
    for path in sorted(Path(folder).glob("**/summary.json")):
        summary = json.loads(path.read_text())
        model = rebuild(path.parent / "checkpoints" / "last.ckpt", trust=TRUST)
        tokens = summary["batch_size"] * summary["block_size"]
        costs = cost_facts(model.net, tokens, summary["precision"])
        given = {key: value for key, value in summary["arguments"].items() if value is not None}
        yield {
            "run": path.parent.parent.name,
            "parameterization": summary["parameterization"],
            "arguments": json.dumps(given),
            **{key: summary[key] for key in ("steps", "seed", "lr")},
            "loss": f"{summary['loss']:.4f}",
            "coefficients": summary["coefficients"],
            **weight_ranks(model),
            **{key: costs[key] for key in COST},
            "seconds": f"{summary['seconds']:.0f}",
            **reported_source(summary),
        }


def weight_ranks(model: ZooModule) -> Row:
    """Return stable and effective rank, means over the weights that a run has trained."""
    found = []
    for layer in zoo_layers(model.net).values():
        w = layer.effective_weight().detach().float()
        found.append(ranks(torch.linalg.svdvals(w), (w.shape[0], w.shape[1])))
    names = ("stable_rank", "effective_rank")
    return {name: f"{mean(each[name] for each in found):.2f}" for name in names}


def order(table: Sequence[dict[str, str]]) -> str:
    """State the partial correlation of loss and log stable rank given the family.

    A point is the mean over seeds of one value of what is varied; its family is the
    parameterization. Both variables are taken as deviations from their family's mean, so that what
    families differ in drops out. The interval is a bootstrap over the values within families.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    key = lambda row: (row["parameterization"], row["arguments"])  # noqa: E731
    for (family, _), group in groupby(sorted(table, key=key), key=key):
        runs = list(group)
        loss = mean(float(run["loss"]) for run in runs)
        rank = mean(float(np.log(float(run["stable_rank"]))) for run in runs)
        points.setdefault(family, []).append((loss, rank))
    families = {name: np.array(found) for name, found in points.items() if len(found) > 1}
    generator = np.random.default_rng(0)
    drawn = [
        correlation([f[generator.integers(len(f), size=len(f))] for f in families.values()])
        for _ in range(DRAWS)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    lines = [
        f"{name}: {len(found)} values, r = {correlation([found]):+.2f}, "
        f"loss {found[:, 0].min():.3f} to {found[:, 0].max():.3f}, "
        f"stable rank {np.exp(found[:, 1].min()):.1f} to {np.exp(found[:, 1].max()):.1f}"
        for name, found in families.items()
    ]
    together = correlation(list(families.values()))
    return "\n".join([*lines, f"given the family: r = {together:+.2f} [{low:+.2f}, {high:+.2f}]"])


def correlation(families: Sequence[np.ndarray]) -> float:
    """Return the correlation of two columns within groups, (k, 2) each; nan if one is constant."""
    within = np.concatenate([found - found.mean(0) for found in families])
    squares = within.T @ within
    scale = np.sqrt(squares[0, 0] * squares[1, 1])
    return float(squares[0, 1] / scale) if scale > 0 else float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
