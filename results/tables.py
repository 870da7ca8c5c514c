"""Hold the tables of README.md beside this file against the rows that they are of.

    python -m results.tables     # prints each cell that differs; nothing where all agree

A table is known by its line of heads. What a cell is recomputed to has no stars of a best value and
no remark in brackets behind a count. A new table is a function of a row's cells and the heads, and
an entry of `TABLES`.
"""

import re
from collections.abc import Callable
from itertools import zip_longest
from statistics import mean

from results.rows import FOLDER, best, differences, gap, method, options, read, spread

Cells = list[str]
REPLACED = 786_432
"""Weights of the character model that are made from coefficients; 40,001 others are trained too."""


def main() -> None:
    """Print what differs."""
    print("\n".join(table_differences((FOLDER / "README.md").read_text())))


def cells_of(line: str) -> Cells:
    """Split a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(page: str, head: str) -> list[Cells]:
    """Return the rows of the table whose line of heads is `head`."""
    lines = [line.strip() for line in page.splitlines()]
    assert lines.count(head) == 1, f"{lines.count(head)} tables have the heads {head}"
    rows = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells_of(line))
    return rows


def plain(cell: str) -> str:
    """Return a cell without emphasis and signs of zeros, a count without the remark behind it."""
    cell = re.sub(r"-(0\.0+)(?!\d)", r"\1", cell.replace("*", ""))
    return re.sub(r"(?<=\d) \([+-]?[\d.]+ %\)$", "", cell).strip()


def table_differences(page: str) -> list[str]:
    """Say which cells of which tables differ from what the rows give."""
    found = []
    for head, expected in TABLES.items():
        for row in table(page, head):
            heads = cells_of(head)
            try:
                right = expected(row, heads)
            except (AssertionError, KeyError) as error:
                found.append(f"{row[0]}: {error!r}")
                continue
            found += [
                f"{row[0]}, {name or 'first'}: the page has {there!r}, the rows {here!r}"
                for name, there, here in zip_longest(
                    heads, map(plain, row), map(plain, right), fillvalue=""
                )
                if there != here
            ]
    return found


# ---- The character model -------------------------------------------------------------------------


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


# ---- Rates over width ----------------------------------------------------------------------------

BASE, RULE, NO_RULE = "64", "256 with the rule", "256 without"


def rate_curves(label: str) -> dict[str, dict[str, list[float]]]:
    """Return the losses of a method over seeds by network and rate, of transfer.csv."""
    curves: dict[str, dict[str, list[float]]] = {BASE: {}, RULE: {}, NO_RULE: {}}
    for row in read("transfer"):
        if method(row) == label:
            given = options(row)
            wide = RULE if "model.base_sizes" in given else NO_RULE
            curve = curves[BASE if given["model.width"] == "64" else wide]
            curve.setdefault(row["lr"], []).append(float(row["loss"]))
    return curves


def best_rate(curve: dict[str, list[float]]) -> str:
    """Return the rate whose mean loss is least."""
    return min(curve, key=lambda rate: mean(curve[rate]))


def price(label: str, network: str) -> float:
    """Return what the rate that is best at width 64 costs at 256, over the best one there."""
    curves = rate_curves(label)
    curve = curves[network]
    return mean(curve[best_rate(curves[BASE])]) - mean(curve[best_rate(curve)])


def transfer_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of rates at width 64 and 256."""
    curves = rate_curves(row[0])
    found = [row[0], best_rate(curves[BASE])]
    for network in (RULE, NO_RULE):
        rate, cost = best_rate(curves[network]), price(row[0], network)
        found += [f"{rate}: {spread(curves[network][rate])}", f"{cost:.3f}" if cost else "0"]
    return found


def exponents_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of exponents of one optimizer, without the rule and with it."""
    optimizer, along, measure = heads[0].lower(), *row[0].partition(": ")[::2]
    if row[0] == "the same, scaled by Frobenius' norm":
        optimizer, along, measure = "muon frobenius", "width", "update, spectral"
    found = []
    for name in heads[1:]:
        pair = [exponent(name, optimizer, base, along, measure) for base in ("", "64x2")]
        found.append(", ".join(pair) if all(pair) else "")
    return [row[0], *found]


MEASURES = {
    "gradient of W, first step": "gradient",
    "root of Adam's second moment": "second moment",
    "error of W in bfloat16": "W in bfloat16",
}


def growth_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of exponents in width and depth, of networks as they are."""
    return [
        row[0],
        *(
            ", ".join(
                exponent(name, "adamw", "", along, MEASURES[row[0]]) for along in ("width", "depth")
            )
            for name in heads[1:]
        ),
    ]


def exponent(name: str, optimizer: str, base: str, along: str, measure: str) -> str:
    """Return one exponent of exponents.csv, over all layers; none for what was not measured."""
    for row in read("exponents"):
        wanted = (name.strip("`"), optimizer, base, along, "all")
        if wanted == tuple(
            row[key] for key in ("parameterization", "optimizer", "base", "along", "layers")
        ):
            return f"{float(row[measure]):.2f}"
    return ""


SIX_MAPS = "`Dense` | `DCT` | `RandomOrthonormal` | `BlockDCT` | `Kronecker` | `LoRA` |"
TABLES: dict[str, Callable[[Cells, Cells], Cells]] = {
    "| method | coefficients | rate | loss | gap to dense | stable rank |": character_row,
    "| method | rate | loss | gap to dense | stable rank |": long_row,
    f"| AdamW | {SIX_MAPS}": exponents_row,
    "| Muon | `Dense` | `DCT` | `RandomOrthonormal` | `BlockDCT` |": exponents_row,
    f"| | {SIX_MAPS}": growth_row,
    "| | best at 64 | best at 256, rule | price, rule | best at 256, without | price, without |": (
        transfer_row
    ),
    "| method | coefficients | rate | loss | stable rank | effective rank | FLOPs | checkpoint "
    "| decode |": maps_row,
}


if __name__ == "__main__":
    main()
