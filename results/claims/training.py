"""What zoo claims of training from scratch, and of rates over width."""

from collections import Counter
from collections.abc import Iterator
from statistics import mean

from results.claims.claim import Claim, below, gaps, holds, link
from results.claims.cosines import BUDGETS, LONG, SEEDS, SWEEP
from results.rows import best, differences, gap, read
from results.tables.rates import (
    DEEP_NO_RULE,
    DEEP_RULE,
    NO_RULE,
    RULE,
    best_rate,
    price,
    rate_curves,
)

OF = "zoo"
BASES = ("DCT", "RandomOrthonormal", "RowDCT", "BlockDCT", "Zigzag")
SEARCHED = [
    *(f"`{name}` {share}" for name in BASES for share in BUDGETS),
    *(f"`Zigzag` {share}, random basis" for share in BUDGETS),
    "`Sparse` 1/10",
]
"""Orthonormal bases, each with a search of its own."""


def training_claims() -> Iterator[Claim]:
    """Compare losses of the character model."""
    dense = float(best("`Dense`").rate)
    ratios = Counter(float(best(name).rate) / dense for name in SEARCHED)
    number = f"{ratios[1]} the same, {ratios[0.5]} half of it, {ratios[2]} twice"
    text = "One rate serves every orthonormal basis: the best is within a factor of 2 of dense's"
    n = f"{ratios.total()} maps, 1 seed"
    yield Claim(OF, text, holds(set(ratios) <= {0.5, 1, 2}), number, n, SWEEP)

    leads = {name: differences("`BlockDCT` 1/10", name) for name in ("`DCT` 1/10", "`Dense`")}
    text = "`BlockDCT` 1/10 leads `DCT` 1/10 and dense weights after 400 steps"
    source = f"the same for `BlockDCT`: {link('blocks')}"
    yield Claim(OF, text, holds(below(*leads.values())), gaps(leads), SEEDS, source)

    later = differences("`BlockDCT` 1/10", "`Dense`", 2000)
    text = "It leads dense weights after 2000 steps"
    yield Claim(OF, text, holds(below(later)), gap(later), SEEDS, f"{LONG}, {link('blocks')}")

    muon = differences("`Dense`, Muon", "`Dense`")
    text = "Muon trains dense weights lower than AdamW"
    yield Claim(OF, text, holds(below(muon)), gap(muon), SEEDS, SWEEP)

    names = ("`DCT` 1/2", "`DCT` 1/10", "`RowDCT` 1/10")
    inside = {name: differences(f"{name}, Muon", name) for name in names}
    text = "It does so in a subspace, after 400 steps"
    source = f"`zoo sweep --config results/muon.yaml`: {link('char_lm_sweep')}"
    yield Claim(OF, text, holds(below(*inside.values())), gaps(inside), SEEDS, source)

    long = differences("`DCT` 1/2, Muon", "`DCT` 1/2", 2000)
    text = "It does so for `DCT` 1/2 after 2000 steps"
    source = f"`zoo sweep --config results/muon_long.yaml`: {link('char_lm_sweep')}"
    yield Claim(OF, text, holds(below(long)), gap(long), SEEDS, source)


# ---- Rates over width ----------------------------------------------------------------------------

MAPS = ("`Dense`", "`DCT` 1/2", "`BlockDCT` 1/2")
PAIRS = [*MAPS, "`LoRA` 1/2", *(f"{name}, Muon" for name in MAPS)]
"""Of map and optimizer, in transfer.csv."""


def rate_claims() -> Iterator[Claim]:
    """Compare losses at width 256 at the rate that is best at width 64 with the best there."""
    n = f"{len(PAIRS)} pairs of map and optimizer, 2 seeds"
    source = f"`zoo sweep --config results/transfer.yaml`: {link('transfer')}"
    texts = {
        RULE: "The rate that is best at width 64 is the best at 256, with `base_sizes`",
        NO_RULE: "It is the best at 256 without them",
    }
    yield from _price_claims(texts, 0.01, n, source)
    source_of_depth = f"`zoo sweep --config results/transfer_depth.yaml`: {link('transfer_depth')}"
    deep = {
        DEEP_RULE: "The rate that is best at 2 blocks costs less than 0.02 at 8, with `base_sizes`",
        DEEP_NO_RULE: "It does so without them",
    }
    yield from _price_claims(deep, 0.02, n, source_of_depth)
    falls = [lowest(name, DEEP_RULE) - lowest(name, DEEP_NO_RULE) for name in PAIRS]
    number = f"{min(falls):+.3f} to {max(falls):+.3f}"
    text = "At their best rates 8 blocks end lower with `base_sizes` than without"
    yield Claim(OF, text, holds(max(falls) < 0), number, n, source_of_depth)

    rises = [lowest(name, RULE) - lowest(name, NO_RULE) for name in PAIRS]
    number = f"{min(rises):+.3f} to {max(rises):+.3f}, above 0 in {sum(x > 0 for x in rises)}"
    text = "At its best rate a network ends as low with `base_sizes` as without"
    yield Claim(OF, text, holds(max(rises) < 0.01), number, n, source)

    rows = read("rebuild")
    errors = [float(row["float32"]) for row in rows]
    precise = max(errors) < 1e-6 and max(int(row["size"]) for row in rows) == 4096
    number = f"relative error {min(errors):.1e} to {max(errors):.1e}"
    text = "W is rebuilt to float32's precision up to 4096 x 4096"
    source = f"`zoo coordinates`: {link('rebuild')}"
    yield Claim(OF, text, holds(precise), number, f"{len(rows)} matrices", source)


def _price_claims(texts: dict[str, str], most: float, n: str, source: str) -> Iterator[Claim]:
    """Say what the rate that is best at the base costs in other networks, less than `most`."""
    for network, text in texts.items():
        prices = [price(name, network) for name in PAIRS]
        number = f"costs {min(prices):.3f} to {max(prices):.3f} over the best"
        least = sum(is_least(name, network) for name in PAIRS)
        number += f", the lowest that was tried in {least}" if least else ""
        yield Claim(OF, text, holds(max(prices) < most), number, n, source)


def is_least(name: str, network: str) -> bool:
    """Tell whether the best rate is the lowest of the search, so that a lower one may be better."""
    curve = rate_curves(name)[network]
    return float(best_rate(curve)) == min(map(float, curve))


def lowest(name: str, network: str) -> float:
    """Return the mean loss at the best rate."""
    curve = rate_curves(name)[network]
    return mean(curve[best_rate(curve)])
