"""What methods of a report cost, and which are worth it: the frontier of loss by cost."""

from collections.abc import Sequence

from zoo.pages.data import Data, or_nan

PANELS = {
    "total_training_flops": "FLOPs of the whole training",
    "checkpoint_bytes": "bytes of a checkpoint",
    "decode_bytes": "bytes read to decode a token",
}
"""Costs that a loss is shown against, and what they are."""


def cost_of(method: Data, field: str) -> float:
    """Return a cost of a method, NaN if it is not known."""
    return or_nan((method.get("cost") or {}).get(field))


def priced(methods: Sequence[Data], field: str) -> list[Data]:
    """Return the methods with a mean and with a cost above 0, the cheapest first."""
    known = [m for m in methods if m["mean"] is not None and cost_of(m, field) > 0]
    return sorted(known, key=lambda method: cost_of(method, field))


def frontiers(methods: Sequence[Data], better: str) -> dict[str, list[str]]:
    """Name the methods of a comparison that no other beats, the cheapest first, by each cost.

    One beats another that is as cheap and as good, and in one of the two better.

    Args:
        methods: with their mean and cost.
        better: lower or higher.
    """
    sign = -1 if better == "higher" else 1
    named = {}
    for field in PANELS:
        places = [
            (cost_of(m, field), sign * m["mean"], m["method"]) for m in priced(methods, field)
        ]
        named[field] = [
            name
            for cost, loss, name in places
            if not any((a, b) != (cost, loss) and a <= cost and b <= loss for a, b, _ in places)
        ]
    return named
