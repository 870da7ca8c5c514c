"""What zoo claims of time: beside dense weights, a plain loop and peft."""

import re
from collections.abc import Iterator

from results.claims.claim import Claim, holds, link, listed, quartiles
from results.rows import Row, only, read

OF, MACHINE = "zoo", "1 machine"
GOALS = f"`python -m results.goals`: {link('goals')}"
ENCODER = f"`python -m results.measure_encoder`: {link('encoder')}"


def cost_claims() -> Iterator[Claim]:
    """Hold ratios of time against what was wanted."""
    goals = read("goals")
    step = only(goals, case="training step, dct_half to dense")
    text = "A training step of the character model in `DCT` 1/2 takes at most 1.04 of a dense one"
    cheap = float(step["measured_ratio"]) <= 1.04
    yield Claim(OF, text, holds(cheap), quartiles(step, "measured_"), MACHINE, GOALS)

    layers = [row for row in goals if re.match(r"layer .* BlockDCT 0.1 to dense", row["case"])]
    ratios = [float(row["measured_ratio"]) for row in layers]
    text = "A layer in `BlockDCT` 1/10 takes less time than a dense one, at 4096 tokens"
    number = f"{min(ratios):.2f} to {max(ratios):.2f}"
    yield Claim(OF, text, holds(max(ratios) < 1), number, f"{len(ratios)} sizes", GOALS)

    case = "zoo fit {}.yaml, tokens a second to the same, AdamW fused"
    loops = {name: only(goals, case=case.format(name)) for name in ("dense", "dct_half")}
    text = "`zoo fit` is as fast as a plain loop with fused AdamW, and 0.95 of it in `DCT` 1/2"
    number = listed({name: quartiles(row, "measured_") for name, row in loops.items()})
    met = all(row["met"] == "yes" for row in loops.values())
    yield Claim(OF, text, holds(met), number, MACHINE, GOALS)
    yield from beside_peft()


def beside_peft() -> Iterator[Claim]:
    """Compare steps of an encoder, and what `zoo.adapt` and its like take."""
    rows = read("encoder")
    own = [row for row in rows if row["against"] == "own" and "terms" not in row["method"]]
    slower = [row for row in own if bounds(row)[0] > 1]
    names = ", ".join(dict.fromkeys(f"`{row['method'].split()[0]}`" for row in slower))
    number = f"{len(own) - len(slower)} of {len(own)} at most 1 within their interval"
    number += f", not {names}" if slower else ""
    text = "A training step takes no longer than with peft's layer of the same kind"
    yield Claim(OF, text, holds(not slower), number, f"{len(own)} ratios", ENCODER)

    blocks = [row for row in rows if row["against"] == "LoRA"]
    full_rank = {
        f"{row['tokens']} tokens, {row['targets']}": "{} [{:.2f}, {:.2f}]".format(
            f"{float(row['ratio']):.2f}", *bounds(row)
        )
        for row in blocks
    }
    text = "A full-rank update (`BlockDCT`) takes no longer than peft's LoRA of its count"
    cheap = all(bounds(row)[0] <= 1 for row in blocks)
    yield Claim(OF, text, holds(cheap), listed(full_rank), f"{len(blocks)} ratios", ENCODER)

    operations = [row for row in read("api") if row["method"]]
    worst = max(operations, key=lambda row: float(row["ratio"]))
    quick = all(float(row["quartiles"].partition("-")[0]) <= 1 for row in operations)
    text = "To adapt, save, load, switch and train takes no longer than with peft"
    source = f"`python -m results.measure_api`: {link('api')}"
    n = f"{len(operations)} ratios"
    yield Claim(OF, text, holds(quick), f"at most {quartiles(worst)}", n, source)


def bounds(row: Row) -> tuple[float, float]:
    """Return the 95 % interval of a ratio of encoder.csv."""
    low, high = row["ratio_interval"].split(" to ")
    return float(low), float(high)
