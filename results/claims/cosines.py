"""What "Training Transformers in Cosine Coefficient Space" (arXiv 2604.04440) claims."""

from collections.abc import Iterator
from statistics import mean

from results.claims.claim import OPEN, Claim, below, gaps, holds, includes_zero, link
from results.rows import best, bracket, differences, gap, read
from zoo.studies.statistics import correlations

OF, SEEDS = "cosines", "3 seeds"
BUDGETS = ("1/2", "1/10", "1/20")
SWEEP = f"`zoo sweep --config char_lm_sweep_quick.yaml`: {link('char_lm_sweep')}"
LONG = f"`zoo fit --config char_lm.yaml` with 2000 steps: {link('char_lm_sweep')}"


def cosine_claims() -> Iterator[Claim]:
    """Compare losses of the character model that was trained from scratch."""
    after = differences("`DCT` 1/2", "`Dense`", 2000)
    text = "Half of the cosine coefficients end as low as dense weights, after 2000 steps"
    yield Claim(OF, text, holds(below(after)), gap(after), SEEDS, LONG)

    early = differences("`DCT` 1/2", "`Dense`")
    text = "They are as low after 400 steps"
    yield Claim(OF, text, holds(below(early)), gap(early), SEEDS, SWEEP)

    bases = differences("`DCT` 1/2", "`RandomOrthonormal` 1/2")
    text = "Cosines end lower than a random orthonormal basis, 1/2 (the paper: they do not)"
    yield Claim(OF, text, holds(below(bases)), gap(bases), SEEDS, SWEEP)

    places = {
        "cosines": differences("`DCT` 1/10", "`Zigzag` 1/10"),
        "random basis": differences("`RandomOrthonormal` 1/10", "`Zigzag` 1/10, random basis"),
    }
    text = "Random places end lower than zigzag's, 1/10, in either basis"
    yield Claim(OF, text, holds(below(*places.values())), gaps(places), SEEDS, SWEEP)

    zigzag = differences("`Zigzag` 1/10", "`LoRA` 1/10")
    ranks = [mean(best(f"{name} 1/10").values("stable_rank")) for name in ("`Zigzag`", "`LoRA`")]
    number = f"{gap(zigzag)}; stable ranks {ranks[0]:.1f} and {ranks[1]:.1f}"
    text = "Zigzag's places end at the loss of low rank, 1/10"
    yield Claim(OF, text, holds(includes_zero(zigzag)), number, SEEDS, SWEEP)

    last = {
        share: differences(f"`Zigzag` {share}, random basis", f"`LoRA` {share}")
        for share in BUDGETS
    }
    text = "Low rank is last at every budget (zigzag in a random basis, the next, less it)"
    yield Claim(OF, text, holds(below(*last.values())), gaps(last), SEEDS, SWEEP)

    yield stable_ranks("Low stable rank goes with high loss, 1/10 (Spearman, over maps)", 0)
    yield stable_ranks("The same among maps of a stable rank above 15", 15)
    text = "A kernel that keeps W on chip makes `DCT` faster"
    yield Claim(OF, text, OPEN, "", "", "`bash results/gpu.sh`: no GPU was at hand")


def stable_ranks(text: str, least: float) -> Claim:
    """Correlate loss and stable rank over the maps of maps.csv, dense weights left out."""
    names = sorted({row["parameterization"] for row in read("maps")} - {"Dense"})
    runs = [best(f"`{name}`", maps=True) for name in names]
    points = [(mean(each.values()), mean(each.values("stable_rank"))) for each in runs]
    loss, rank = zip(*(point for point in points if point[1] > least), strict=True)
    found = correlations(loss, rank)["spearman"]
    value, low, high = (float(found[key] or 0) for key in ("value", "low", "high"))
    number = f"{value:+.2f} {bracket(low, high, 2)}"
    source = f"`zoo sweep --config results/maps.yaml`: {link('maps')}"
    return Claim(OF, text, holds(high < 0), number, f"{len(loss)} maps, 2 seeds each", source)
