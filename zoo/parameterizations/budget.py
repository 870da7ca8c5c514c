"""How many coefficients a weight gets: of one layer, or of all of them together.

Pure arithmetic.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context

from zoo.errors import UserError

Shape = tuple[int, int]


def lora_count(m: int, n: int, rank: int) -> int:
    """Return what rank-r factors of an (m, n) weight hold: r (m + n)."""
    return rank * (m + n)


def ratio_of(count: int, m: int, n: int) -> str:
    """Return the ratio of mn that buys so many coefficients, rounded up to three digits."""
    return f"{float(Context(prec=3, rounding=ROUND_CEILING).divide(count, m * n)):g}"


def needs(least: int, m: int, n: int) -> str:
    """Say what buys `least` coefficients of an (m, n) weight, or that nothing does."""
    if least > m * n:
        return f"{least} coefficients, more than its {m * n} weights: leave the layer out"
    return f"{least} coefficients, a ratio of {ratio_of(least, m, n)}"


def layer_budget(
    m: int,
    n: int,
    ratio: float | None,
    coefficients: int | None,
    lora_rank: int | None = None,
    where: str | None = None,
    least: int = 1,
) -> int:
    """Return K of one (m, n) weight, from exactly one of the three.

    Args:
        m: rows.
        n: columns.
        ratio: K = ratio mn, rounded.
        coefficients: K itself.
        lora_rank: as many as LoRA of this rank, K = r (m + n).
        where: what messages say of the weight; by default ` for shape (m, n)`.
        least: that a ratio may come to; 0 where the caller then says what it needs.

    Raises:
        ValueError: if none or several are given, if ratio is not in (0, 1], or K not in [1, mn]; a
            ratio of less than one coefficient is none of one.
    """
    given = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
    given = {name: value for name, value in given.items() if value is not None}
    where = f" for shape ({m}, {n})" if where is None else where
    if not given:
        raise ValueError(
            "needs a budget: give ratio (share of the weights), coefficients (their number) "
            "or lora_rank"
        )
    if len(given) > 1:
        names, values = " and ".join(given), " and ".join(map(str, given.values()))
        raise ValueError(f"{names} exclude each other, got {values}: set all but one to null")
    if ratio is not None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {ratio}")
        if (count := round(ratio * m * n)) < least:
            raise ValueError(
                f"ratio must be at least {ratio_of(1, m, n)}{where}, which is one coefficient, "
                f"got {ratio}: raise it, or leave the layer out of the targets"
            )
        return count
    if lora_rank is not None:
        if not 1 <= lora_count(m, n, lora_rank) <= m * n:
            if (most := m * n // (m + n)) < 1:
                raise ValueError(
                    f"lora_rank {lora_rank} is too many{where}, where 1 is {m + n} coefficients "
                    f"for {m * n} weights: give a ratio, or leave the layer out"
                )
            raise ValueError(f"lora_rank must lie in [1, {most}]{where}, got {lora_rank}")
        return lora_count(m, n, lora_rank)
    assert coefficients is not None
    if not 1 <= coefficients <= m * n:
        raise ValueError(f"coefficients must lie in [1, {m * n}]{where}, got {coefficients}")
    return coefficients


def rank_within(
    m: int,
    n: int,
    each: int,
    most: int,
    rank: int | None,
    ratio: float | None,
    coefficients: int | None = None,
    lora_rank: int | None = None,
    fixed: int = 0,
) -> int:
    """Return the rank r of an (m, n) weight that has `fixed + r each` coefficients.

    It is `rank` itself or, of a budget as in `layer_budget`, the largest one that fits: the count
    then falls short of the budget by less than `each`, unless r is `most`. Arguments and errors are
    those of `largest_within`.
    """
    return largest_within(
        m, n, lambda r: fixed + r * each, most, rank, ratio, coefficients, lora_rank
    )


def largest_within(
    m: int,
    n: int,
    count: Callable[[int], int],
    most: int,
    rank: int | None,
    ratio: float | None,
    coefficients: int | None = None,
    lora_rank: int | None = None,
    what: str = "rank",
    hint: str = "",
) -> int:
    """Return the rank r of an (m, n) weight that has `count(r)` coefficients.

    It is `rank` itself or, of a budget as in `layer_budget`, the largest one that fits.

    Args:
        m: rows.
        n: columns.
        count: of r, and larger for a larger one.
        most: the largest rank that the map can have.
        rank: r, in [1, most]; or
        ratio: of the mn weights; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank has. Exactly one of the four.
        what: the name that r has in messages.
        hint: what a message says besides, where a budget buys none.

    Raises:
        ValueError: if none or several are given, for a rank out of range, and for a budget that
            buys none; it names the least that does.
    """
    budget = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
    given = {name: value for name, value in budget.items() if value is not None}
    if (rank is None) == (not given):
        values = "neither" if rank is None else f"{rank} and {next(iter(given.values()))}"
        names = " and ".join([what, *(given if rank is not None else ["ratio"])])
        raise ValueError(f"needs a budget: give exactly one of {names}, got {values}")
    if rank is not None:
        if not 1 <= rank <= most:
            raise ValueError(f"{what} must lie in [1, {most}] for shape {(m, n)}, got {rank}")
        return rank
    (name, value), *more = given.items()
    # Not of `layer_budget`, which rounds: half a coefficient shall not buy a rank.
    size = value * {"ratio": m * n, "coefficients": 1, "lora_rank": m + n}[name] + 1e-9
    if name != "ratio" or more or not 0 < value <= 1:
        layer_budget(m, n, ratio, coefficients, lora_rank)
    if size < (least := count(1)):
        raise ValueError(
            f"{name} {value} buys no {what} for shape {(m, n)}: "
            f"{what} 1 needs {needs(least, m, n)}{hint}"
        )
    return bisect_right(range(1, most + 1), size, key=count)


@dataclass(frozen=True)
class Budget:
    """One budget for all target layers together, spread in proportion to their weights.

    At most one of the three.

    Args:
        ratio: share of all their weights; or
        coefficients: their number in all; or
        lora_rank: as many as LoRA of this rank has in these layers.
    """

    ratio: float | None = None
    coefficients: int | None = None
    lora_rank: int | None = None

    def split(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """Return K of each layer, proportional to mn.

        Shares are rounded by largest remainders, so that the sum is exact.

        Raises:
            UserError: if several are given, or a total is out of range.
        """
        sizes = {name: m * n for name, (m, n) in shapes.items()}
        weights = sum(sizes.values())
        lora = (
            None
            if self.lora_rank is None
            else sum(lora_count(m, n, self.lora_rank) for m, n in shapes.values())
        )
        if lora is not None and self.coefficients is not None:
            raise UserError(
                "budget: coefficients and lora_rank exclude each other: set one to null"
            )
        try:
            total = layer_budget(
                1, weights, self.ratio, self.coefficients if lora is None else lora, where=""
            )
        except ValueError as error:
            raise UserError(
                f"budget (of {len(sizes)} layers with {weights} weights): {error}"
            ) from None
        exact = {name: total * size / weights for name, size in sizes.items()}
        split = {name: int(share) for name, share in exact.items()}
        by_remainder = sorted(split, key=lambda name: split[name] - exact[name])
        for name in by_remainder[: total - sum(split.values())]:
            split[name] += 1
        if least := [name for name, count in split.items() if count < 1]:
            raise UserError(
                f"budget: {total} coefficients leave none for {least[0]}; "
                f"give at least {len(sizes)}"
            )
        return split
