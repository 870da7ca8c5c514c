"""Tables of rates over width and depth: what they cost at another width, exponents of growth."""

from statistics import mean

from results.rows import method, options, read, spread
from results.tables.page import Cells

BASE, RULE, NO_RULE = "64", "256 with the rule", "256 without it"
DEEP_RULE, DEEP_NO_RULE = "8 blocks with the rule", "8 blocks without it"


def rate_curves(label: str) -> dict[str, dict[str, list[float]]]:
    """Return the losses of a method over seeds by network and rate: transfer*.csv."""
    curves: dict[str, dict[str, list[float]]] = {
        network: {} for network in (BASE, RULE, NO_RULE, DEEP_RULE, DEEP_NO_RULE)
    }
    for row in [*read("transfer"), *read("transfer_depth")]:
        if method(row) == label:
            given = options(row)
            rule = given.get("model.base_sizes", "null") != "null"
            if given["model.layers"] == "8":
                network = DEEP_RULE if rule else DEEP_NO_RULE
            else:
                wide = RULE if rule else NO_RULE
                network = BASE if given["model.width"] == "64" else wide
            curves[network].setdefault(row["lr"], []).append(float(row["loss"]))
    return curves


def best_rate(curve: dict[str, list[float]]) -> str:
    """Return the rate whose mean loss is least."""
    return min(curve, key=lambda rate: mean(curve[rate]))


def price(label: str, network: str) -> float:
    """Return what the rate that is best at width 64 costs elsewhere, over the best one there."""
    curves = rate_curves(label)
    curve = curves[network]
    return mean(curve[best_rate(curves[BASE])]) - mean(curve[best_rate(curve)])


def transfer_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of rates at width 64 and 256, or at 2 blocks and 8."""
    curves = rate_curves(row[0])
    found = [row[0], best_rate(curves[BASE])]
    deep = "8" in heads[2]
    for network in (DEEP_RULE, DEEP_NO_RULE) if deep else (RULE, NO_RULE):
        rate, cost = best_rate(curves[network]), price(row[0], network)
        found += [f"{rate}: {spread(curves[network][rate])}", f"{cost:.3f}" if cost else "0"]
    return found


def widths_row(row: Cells, heads: Cells) -> Cells:
    """Recompute the losses of a method at growing width: widths.csv, or widths_flops.csv."""
    label, _, kind = row[0].partition(", ")
    name = "widths_flops" if kind.startswith("equal") else "widths"
    losses: dict[str, list[float]] = {}
    for each in read(name):
        given = options(each)
        rule = given.get("model.base_sizes", "null") != "null"
        if method(each) == label and rule == (kind != "without"):
            losses.setdefault(given["model.width"], []).append(float(each["loss"]))
    return [row[0], *(spread(losses[width]) for width in heads[1:])]


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
