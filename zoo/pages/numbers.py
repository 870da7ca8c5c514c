"""Numbers as text, in ASCII, as terminals have them; pages and Markdown typeset that."""

import math
import re

MINUS = re.compile(r"(?<![^\s\[(])-(?=[\d.])")
"""A hyphen that is a sign: before a digit, and after nothing, a blank or a bracket."""


def decimals(value: float | None, digits: int = 3, sign: str = "", missing: str = "-") -> str:
    """Return a number with so many decimals.

    Args:
        value: the number; None and what is not finite are missing.
        digits: after the point.
        sign: `+` for a sign also before what is positive.
        missing: stands for a number that is missing.
    """
    if value is None or not math.isfinite(value):
        return missing
    return f"{value:{sign}.{digits}f}"


def plus_minus(mean: float | None, sd: float | None, digits: int = 3) -> str:
    """Return a mean, and its standard deviation if there is one."""
    deviation = decimals(sd, digits, missing="")
    return decimals(mean, digits) + (f" +- {deviation}" if deviation else "")


def interval(
    low: float | None, high: float | None, digits: int = 3, sign: str = "", comma: str = ", "
) -> str:
    """Return an interval in brackets, or nothing where an end is missing."""
    ends = [decimals(end, digits, sign, "") for end in (low, high)]
    return f"[{comma.join(ends)}]" if all(ends) else ""


def p_value(p: float | None) -> str:
    """Return a p-value with four decimals, or how small it is at least."""
    return "< 0.0001" if p is not None and p < 1e-4 else decimals(p, 4)


def percent(share: float, digits: int = 1, sign: str = "") -> str:
    """Return a share as in 25.0 %."""
    return f"{100 * share:{sign}.{digits}f} %"


def human_bytes(count: float) -> str:
    """Write a count as 500 B, 20 kB or 7.1 MB: powers of 1000, at most one decimal."""
    power = min(3, max(0, int(math.log10(max(count, 1)) + 1e-4) // 3))
    value = f"{count / 1000**power:.{min(power, 1)}f}".removesuffix(".0")
    return f"{value} {('B', 'kB', 'MB', 'GB')[power]}"


def engineering(value: float | None, missing: str = "-") -> str:
    """Write a count in three digits: 500, 20k, 7.1M, then G, T, P and E."""
    if value is None or not math.isfinite(value):
        return missing
    short = float(f"{value:.3g}")
    power = min(6, max(0, int(math.log10(max(abs(short), 1)) + 1e-4) // 3))
    return f"{short / 1000**power:.3g}{('', *'kMGTPE')[power]}"


def general(value: object) -> str:
    """Return a setting or a learning rate: a float as short as it can be, a dash for None."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def number_of(count: int, what: str) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{count} {what}{'s' * (count != 1)}"


def typeset(text: str) -> str:
    """Return text of numbers with a minus, a plus-minus and a dash of their own."""
    return "–" if text == "-" else MINUS.sub("−", text.replace("+-", "±"))
