"""What a report says of its tables: settings, answers, the search, notes, and what signs mean."""

from zoo.pages.data import Data, unique
from zoo.pages.numbers import decimals, general, number_of, percent
from zoo.studies.report.costs import PANELS, frontiers
from zoo.studies.report.tables import NEAR, ordered

MOST = 6
"""Methods that a note names."""


def settings(comparison: Data) -> str:
    """Say what all runs of a comparison share."""
    shown = [
        f"{key.replace('_', ' ')} {general(value)}"
        for key, value in comparison["settings"].items()
        if value is not None
    ]
    return (
        f"{number_of(len(comparison['runs']), 'run')} of "
        f"{number_of(len(comparison['methods']), 'method')}"
        + (f", all with {', '.join(shown)}" if shown else "")
    )


def search(comparison: Data) -> str:
    """Say how learning rates were chosen."""
    words = (comparison["search"] or {}).get(
        "words"
    ) or "no search, every method was run at one learning rate"
    words = words[0].upper() + words[1:]
    return words if words.endswith(".") else f"{words}."


def notes(comparison: Data) -> list[str]:
    """Say what a reader of the table has to know about some of its rows."""
    sentences, methods = [], comparison["methods"]
    if comparison["search"] and not comparison["search"]["equal"]:
        sentences.append(
            "The search was not the same for all methods, which favours those that were searched "
            "more."
        )
    off = [
        f"{m['method']} by {percent(m['count_off'], sign='+')}"
        for m in methods
        if abs(m["count_off"] or 0) > NEAR
    ]
    if off:
        sentences.append(
            f"Not the number of coefficients that others of their budget have: {_listed(off)}."
        )
    flattered = [m["method"] for m in methods if m["tuned_on_reported"]]
    if flattered:
        who = "every method" if len(flattered) == len(methods) else _listed(flattered)
        sentences.append(
            f"Reported on the seed that the rate was chosen on, which flatters: {who}."
        )
    mixed = [f"{m['method']} ({', '.join(m['devices'])})" for m in methods if len(m["devices"]) > 1]
    if mixed:
        sentences.append(f"Runs of one row are from different devices: {'; '.join(mixed)}.")
    devices = {tuple(m["devices"]) for m in methods if len(m["devices"]) == 1}
    if len(devices) > 1:
        sentences.append(
            f"Rows are from different devices: {', '.join(sorted(d for (d,) in devices))}."
        )
    lost = [m["method"] for m in methods if m["mean"] is None]
    if lost:
        sentences.append(f"Without a value, as after training that diverged: {_listed(lost)}.")
    single = [m["method"] for m in methods if m["n"] == 1]
    if single:
        who = "every method" if len(single) == len(methods) else _listed(single)
        sentences.append(f"One seed, so that there is no interval and no test: {who}.")
    return unique([*sentences, *comparison["notes"]])


def answers(data: Data, comparison: Data) -> list[str]:
    """Say what is best at each budget, and what is better than the reference or as good."""
    sign, name = (1 if comparison["better"] == "lower" else -1), comparison["reference"]
    known = [m for m in ordered(comparison) if m["mean"] is not None]
    best = [
        min((m for m in known if m["budget"] == budget), key=lambda m: sign * m["mean"])
        for budget in unique(m["budget"] for m in known)
    ]
    sentences = []
    if best:
        shown = (f"{m['method']} ({decimals(m['mean'], 4)})" for m in best)
        sentences.append(
            f"Best {comparison['metric']}{' of each budget' * (len(best) > 1)}: {', '.join(shown)}."
        )
    tested = [m for m in known if m["gap"] and m["gap"]["p"] is not None]
    if tested:
        ahead = [
            m["method"]
            for m in tested
            if m["gap"]["p"] < data["level"] and sign * m["gap"]["mean"] < 0
        ]
        sentences.append(
            f"Better than {name} (p < {data['level']:g}): {', '.join(ahead) or 'none'}."
        )
    if any(m["tost"] for m in known):
        equal = [m["method"] for m in known if m["tost"] and m["tost"]["equivalent"]]
        sentences.append(
            f"Equivalent to {name} within ± {data['margin']:g}: "
            f"{', '.join(equal) or 'none is shown to be'}."
        )
    cheapest = [
        f"by {PANELS[field]}: {', '.join(names)}"
        for field, names in frontiers(known, comparison["better"]).items()
        if names
    ]
    if cheapest and len(known) > 1:
        sentences.append(f"No other is as cheap and as good, {'; '.join(cheapest)}.")
    return sentences


def legend(data: Data, comparison: Data) -> str:
    """Say what the signs of the table mean."""
    words = (
        ["± sd over n seeds", "brackets: 95 % intervals"]
        if any(m["n"] > 1 for m in comparison["methods"])
        else []
    )
    if any(method["gap"] for method in comparison["methods"]):
        words.append(f"gaps: paired by seed, bold where p < {data['level']:g}")
    if any(method["tost"] for method in comparison["methods"]):
        words.append(f"equivalent: within ± {data['margin']:g}, p < {data['level']:g}")
    if rows := unique(m["cost"]["rows"] for m in comparison["methods"] if m.get("cost")):
        of = f", {rows[0]:,} at once" if len(rows) == 1 and rows[0] else ""
        words.append(f"FLOPs: linear layers, forward and backward{of}; checkpoint: trained numbers")
    return "; ".join([f"{comparison['metric']}: {comparison['better']} is better", *words]) + "."


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST else f"{len(names)} methods, marked in the table"
