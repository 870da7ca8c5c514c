"""What published adapters show of SpectralLoRA's claims (arXiv 2604.10649), and of zoo's.

The unit is the adapter; an author counts once in intervals.
"""

from collections.abc import Callable, Iterator
from statistics import mean

from results.claims.claim import FAILS, HOLDS, WITH_NULL, Claim, link, listed
from results.rows import Row, read
from zoo.studies.census.summary import wilson
from zoo.studies.statistics import interval

OF, ZOO = "SpectralLoRA", "zoo"
SOURCE = f"`zoo census`: {link('census')}"
LEVEL = 0.05
CHANCE = "No more have in a random basis than by chance"


def analysed() -> list[Row]:
    """Return the rows of adapters that were analysed."""
    return [row for row in read("census") if row["status"] == "analysed"]


def of_authors(value: Callable[[Row], float | None]) -> list[float]:
    """Return the mean over each author's adapters, of those that have a value."""
    found: dict[str, list[float]] = {}
    for row in analysed():
        number = value(row)
        if number is not None:
            found.setdefault(row["cluster"], []).append(number)
    return [mean(values) for values in found.values()]


def column(name: str, less: str = "") -> Callable[[Row], float | None]:
    """Return what reads a column of a row, less another one; None where either is empty."""

    def value(row: Row) -> float | None:
        if not row[name] or (less and not row[less]):
            return None
        return float(row[name]) - (float(row[less]) if less else 0.0)

    return value


def with_interval(values: list[float], digits: int = 3, sign: str = "") -> str:
    """Write a mean with its 95 % interval (Student)."""
    low, high = interval(values) or (values[0], values[0])
    return f"{mean(values):{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def number_of(values: list[float]) -> str:
    """Write how many adapters and authors a number is of."""
    return f"{len(analysed())} adapters, {len(values)} authors"


def census_claims() -> Iterator[Claim]:
    """Compare published adapters with their nulls."""
    k90, gap = of_authors(column("dct_k90")), of_authors(column("dct_k90", "dct_k90_null"))
    yield Claim(
        OF,
        "A third of the coefficients holds 90 % of the energy, in published adapters",
        _with_null(abs(mean(k90) - 1 / 3) < 0.05, gap),
        f"{with_interval(k90)}; less its null: {with_interval(gap, 4, '+')}",
        number_of(k90),
        SOURCE,
    )
    name = "dct_energies_pearson"
    r, gap = of_authors(column(name)), of_authors(column(name, f"{name}_null"))
    yield Claim(
        OF,
        "Energies by singular values and by cosines correlate at 0.906, in published adapters",
        _with_null(abs(mean(r) - 0.906) < 0.05, gap),
        f"{with_interval(r)}; less its null: {with_interval(gap, 3, '+')}",
        number_of(r),
        SOURCE,
    )
    name = "dct_k90_block_spearman"
    rho, gap = of_authors(column(name)), of_authors(column(name, f"{name}_null"))
    bounds = interval(rho)
    yield Claim(
        OF,
        "Later layers compress more, in published adapters (Spearman of k90 and depth)",
        _with_null(bounds is not None and bounds[1] < 0, gap),
        f"{with_interval(rho, 2)}; less its null: {with_interval(gap, 2, '+')}",
        number_of(rho),
        SOURCE,
    )
    for text, keys in (
        ("Most published adapters have structure beyond their null in cosines", ("dct",)),
        ("Most have in Fourier's or Hadamard's basis", ("fourier", "hadamard")),
        ("Most have in Haar's wavelets", ("haar",)),
        (CHANCE, ("random",)),
    ):
        found = {key: of_authors(lambda row, key=key: _found(row, key)) for key in keys}
        shares = {key: wilson(sum(values), len(values)) for key, values in found.items()}
        numbers = {
            key: f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
            for key, (share, low, high) in shares.items()
        }
        lows = [low for _, low, _ in shares.values()]
        holds = max(lows) <= LEVEL if text == CHANCE else min(lows) > 0.5
        text_of = numbers[keys[0]] if len(keys) == 1 else listed(numbers)
        verdict = HOLDS if holds else FAILS
        yield Claim(ZOO, text, verdict, text_of, number_of(found[keys[0]]), SOURCE)
        if keys == ("haar",):
            yield _order_claim()
    yield _power_claim()
    yield _tail_claim()


def _order_claim() -> Claim:
    """Compare k90 in Haar's wavelets with that of shuffled rows and columns."""
    gap = of_authors(column("haar_k90", "haar_k90_shuffled"))
    bounds = interval(gap)
    return Claim(
        ZOO,
        "That is a matter of order: k90 is lower than with rows and columns shuffled",
        HOLDS if bounds is not None and bounds[1] < 0 else FAILS,
        with_interval(gap, 4, "+"),
        number_of(gap),
        SOURCE,
    )


def _power_claim() -> Claim:
    """Say in how many adapters structure that was planted was found, in cosines."""
    rows = [row for row in read("census_power") if row["transform"] == "dct"]
    planted = {float(row["strength"]): row for row in rows if row["kind"] == "frequency"}
    shares = {f"{100 * strength:.0f} %": _share(row) for strength, row in sorted(planted.items())}
    return Claim(
        ZOO,
        "Low frequencies with 3 % of the energy more than chance would be found in cosines",
        HOLDS if float(planted[0.03]["share"]) > 0.8 else FAILS,
        listed(shares),
        f"{planted[0.03]['adapters']} adapters, planted once each",
        f"`zoo census`: {link('census_power')}",
    )


def _share(row: Row) -> str:
    share, low, high = (100 * float(row[key]) for key in ("share", "low", "high"))
    return f"{share:.0f} % [{low:.0f}, {high:.0f}]"


def _tail_claim() -> Claim:
    """Hold p-values of draws of nulls against Student's law."""
    rows = read("census_tails")
    tests = sum(int(row["tests"]) for row in rows)
    below = sum(round(float(row["below_05"]) * int(row["tests"])) for row in rows)
    share, low, high = wilson(below, tests)
    return Claim(
        ZOO,
        "5 % of draws of a null are called different from it at p < 0.05",
        HOLDS if low <= LEVEL <= high else FAILS,
        f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
        f"{tests} tests of {len({(row['adapter'], row['layer']) for row in rows})} matrices",
        f"`zoo census`: {link('census_tails')}",
    )


def census_row(row: list[str], heads: list[str]) -> list[str]:
    """Recompute a row of the table of transforms on results/README.md."""
    key = row[0].strip("`")
    found = of_authors(lambda one: _found(one, key))
    share, low, high = wilson(sum(found), len(found))
    k90 = f"{key}_k90"
    return [
        row[0],
        f"{sum(int(_found(one, key)) for one in analysed())} of {len(analysed())}",
        f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}]",
        with_interval(of_authors(column(k90))),
        with_interval(of_authors(column(f"{k90}_null"))),
        with_interval(of_authors(column(k90, f"{k90}_null")), 4, "+"),
        with_interval(of_authors(column(k90, f"{k90}_shuffled")), 4, "+"),
    ]


def _found(row: Row, key: str) -> float:
    return float(float(row[f"{key}_q"]) < LEVEL)


def _with_null(holds: bool, gaps: list[float]) -> str:
    """Return the verdict of a claim whose distance to its null is known."""
    if not holds:
        return FAILS
    low, high = interval(gaps) or (-1.0, 1.0)
    return WITH_NULL if low <= 0 <= high else HOLDS
