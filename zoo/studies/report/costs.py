"""What methods of a report cost, and which are worth it: the frontier of loss by cost."""

from collections.abc import Sequence

from zoo.pages.data import Data, or_nan

PANELS = {
    "total_training_flops": "FLOPs of the whole training",
    "checkpoint_bytes": "bytes of a checkpoint",
    "decode_bytes": "bytes read to decode a token",
}
"""Costs that a loss is shown against, and what they are."""

ALIKE = 1.03
"""Costs less than this factor apart are one."""


def cost_of(method: Data, field: str) -> float:
    """Return a cost of a method, NaN if it is not known."""
    return or_nan((method.get("cost") or {}).get(field))


def priced(methods: Sequence[Data], field: str) -> list[Data]:
    """Return the methods with a mean and with a cost above 0, the cheapest first."""
    known = [m for m in methods if m["mean"] is not None and cost_of(m, field) > 0]
    return sorted(known, key=lambda method: cost_of(method, field))


def frontiers(methods: Sequence[Data], better: str) -> dict[str, list[str]]:
    """Name the methods of a comparison that no other beats, the cheapest first, by each cost.

    Args:
        methods: with their mean and cost (`unbeaten`).
        better: lower or higher.
    """
    sign = -1 if better == "higher" else 1
    named = {}
    for field in PANELS:
        known = priced(methods, field)
        places = [(cost_of(m, field), sign * m["mean"]) for m in known]
        named[field] = [known[i]["method"] for i in unbeaten(places)]
    return named


def unbeaten(places: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of pairs of cost and loss that no other beats, the cheapest first.

    One beats another that is as cheap and as good, and in one of the two better.
    """
    return [
        i
        for i in sorted(range(len(places)), key=lambda i: places[i][0])
        if not any(
            other != places[i] and other[0] <= places[i][0] and other[1] <= places[i][1]
            for other in places
        )
    ]
