"""The table of a report as columns, Markdown and rows of CSV: one row per method and budget."""

import math
from collections.abc import Callable
from typing import NamedTuple

from zoo.pages.page import decimals, plus_minus
from zoo.pages.style import Data, number, unique
from zoo.pages.texts import code
from zoo.pages.texts import markdown as escaped
from zoo.studies.verdicts import in_words

NEAR = 0.01
"""Counts that differ by more are said to."""
MOST = 6
"""Methods that a note names."""
LONG = 600
"""Seconds from which on times are in minutes."""


class Cell(NamedTuple):
    """What stands in a table, what stands below it, and whether it is to be seen first."""

    value: str = "–"
    below: tuple[str, ...] = ()
    strong: bool = False


def columns(comparison: Data, level: float) -> tuple[list[str], list[list[Cell]]]:
    """The headers and rows of a comparison's table; a column in which no method has anything is left out.

    Args:
        comparison: of report data.
        level: p of a gap below which it is set off.
    """
    metric = str(comparison["metric"]).capitalize()
    cells: dict[str, Callable[[Data], Cell]] = {
        "Method": lambda m: Cell(m["method"]),
        "Coefficients": _count,
        "Rate": lambda m: Cell(plain(m["lr"]), ("own seed",) * bool(m["tuned_on_reported"])),
        "n": lambda m: Cell(str(m["n"])),
        metric: lambda m: Cell(plus_minus(m["mean"], m["sd"], 4), _interval(m, 4)),
        f"Gap to {comparison['reference']}": lambda m: _gap(m, comparison["reference"], level),
        "Equivalent": _equivalent,
        "Stable rank": lambda m: _spread(m["stable_rank"], 2),
        "Late sd": lambda m: Cell(decimals(m["terminal"]["sd"], 4)) if m["terminal"] else Cell(),
        "Time": _time,
    }
    rows = [[cell(method) for cell in cells.values()] for method in ordered(comparison)]
    kept = [
        i
        for i in range(len(cells))
        if i < 2 or any(row[i].value not in ("–", "reference") for row in rows)
    ]
    return [list(cells)[i] for i in kept], [[row[i] for i in kept] for row in rows]


def ordered(comparison: Data) -> list[Data]:
    """Methods by budget, the reference's and the largest first, and best first in each; without a value at the end."""
    sign = 1 if comparison["better"] == "lower" else -1
    own = next(
        (m["budget"] for m in comparison["methods"] if m["method"] == comparison["reference"]), None
    )

    def place(method: Data) -> tuple[bool, bool, float, float]:
        budget, mean = number(method["budget"]), sign * number(method["mean"])
        known = -budget if math.isfinite(budget) else 0.0
        last = mean if math.isfinite(mean) else math.inf
        first = method["method"] == comparison["reference"]
        return own is None or method["budget"] != own, not first, known, last

    return sorted(comparison["methods"], key=place)


def markdown(data: Data) -> str:
    """The report as Markdown to paste: a table per comparison, what it is of, its search, and the command."""
    parts = []
    for comparison in data["comparisons"]:
        headers, rows = columns(comparison, data["level"])
        lines = [_row(list(map(escaped, headers))), _row(["---", *["---:"] * (len(headers) - 1)])]
        lines += [_row([_joined(cell) for cell in row]) for row in rows]
        about = [*answers(data, comparison), f"{settings(comparison)}.", legend(data, comparison)]
        about.append(f"Search: {search(comparison)}")
        about += [f"Note: {note}" for note in notes(comparison)]
        about = [f"{escaped(line)}  " for line in about[:-1]] + [escaped(about[-1])]  # stay lines
        parts.append("\n".join([f"### {escaped(comparison['name'])}", "", *lines, "", *about]))
    parts += (
        [
            f"Skipped {len(data['skipped'])}: "
            + "; ".join(
                escaped(f"{skipped['path']} ({skipped['why']})") for skipped in data["skipped"]
            )
        ]
        if data["skipped"]
        else []
    )
    parts.append(f"{code(data['command'])} · zoo {data['zoo']} · {data['date'][:10]}")
    return "\n\n".join(parts) + "\n"


def rows(data: Data) -> list[dict[str, object]]:
    """The rows of report.csv; what is undefined is None."""
    return [
        _plain_row(comparison, method)
        for comparison in data["comparisons"]
        for method in ordered(comparison)
    ]


def _plain_row(comparison: Data, method: Data) -> dict[str, object]:
    gap, tost, rank = (method[key] or {} for key in ("gap", "tost", "stable_rank"))
    return {
        "comparison": comparison["name"],
        **{key: method[key] for key in ("method", "parameterization", "optimizer")},
        **{
            key: method[key]
            for key in ("budget", "coefficients", "trainable", "count_off", "lr", "n")
        },
        "seeds": " ".join(map(str, method["seeds"])),
        **{key: method[key] for key in ("mean", "sd", "low", "high")},
        "gap": gap.get("mean"),
        **{f"gap_{key}": gap.get(key) for key in ("low", "high", "p")},
        "margin": tost.get("margin"),
        "tost_p": tost.get("p"),
        "equivalent": tost.get("equivalent"),
        "stable_rank": rank.get("mean"),
        "stable_rank_sd": rank.get("sd"),
        "terminal_sd": (method["terminal"] or {}).get("sd"),
        "seconds": (method["seconds"] or {}).get("mean"),
        "search_trials": len(method["search"] or ()),
        "devices": "; ".join(method["devices"]),
    }


def settings(comparison: Data) -> str:
    """What all runs of a comparison share, in words."""
    shown = [
        f"{key.replace('_', ' ')} {plain(value)}"
        for key, value in comparison["settings"].items()
        if value is not None
    ]
    return (
        f"{number_of(len(comparison['runs']), 'run')} of {number_of(len(comparison['methods']), 'method')}"
        + (f", all with {', '.join(shown)}" if shown else "")
    )


def search(comparison: Data) -> str:
    """How learning rates were chosen, as a sentence."""
    words = (comparison["search"] or {}).get(
        "words"
    ) or "no search, every method was run at one learning rate"
    words = words[0].upper() + words[1:]
    return words if words.endswith(".") else f"{words}."


def notes(comparison: Data) -> list[str]:
    """What a reader of the table has to know about some of its rows."""
    found, methods = [], comparison["methods"]
    if comparison["search"] and not comparison["search"]["equal"]:
        found.append(
            "The search was not the same for all methods, which favours those that were searched more."
        )
    off = [
        f"{m['method']} by {_percent(m['count_off'])}"
        for m in methods
        if abs(m["count_off"] or 0) > NEAR
    ]
    if off:
        found.append(
            f"Not the number of coefficients that others of their budget have: {_listed(off)}."
        )
    own = [m["method"] for m in methods if m["tuned_on_reported"]]
    if own:
        who = "every method" if len(own) == len(methods) else _listed(own)
        found.append(f"Reported on the seed that the rate was chosen on, which flatters: {who}.")
    mixed = [f"{m['method']} ({', '.join(m['devices'])})" for m in methods if len(m["devices"]) > 1]
    if mixed:
        found.append(f"Runs of one row are from different devices: {'; '.join(mixed)}.")
    devices = {tuple(m["devices"]) for m in methods if len(m["devices"]) == 1}
    if len(devices) > 1:
        found.append(
            f"Rows are from different devices: {', '.join(sorted(d for (d,) in devices))}."
        )
    lost = [m["method"] for m in methods if m["mean"] is None]
    if lost:
        found.append(f"Without a value, as after training that diverged: {_listed(lost)}.")
    single = [m["method"] for m in methods if m["n"] == 1]
    if single:
        who = "every method" if len(single) == len(methods) else _listed(single)
        found.append(f"One seed, so that there is no interval and no test: {who}.")
    return unique([*found, *comparison["notes"]])


def answers(data: Data, comparison: Data) -> list[str]:
    """The result in sentences: what is best at each budget, and what is better than the reference or as good."""
    sign, name = (1 if comparison["better"] == "lower" else -1), comparison["reference"]
    known = [m for m in ordered(comparison) if m["mean"] is not None]
    best = [
        min((m for m in known if m["budget"] == budget), key=lambda m: sign * m["mean"])
        for budget in unique(m["budget"] for m in known)
    ]
    found = []
    if best:
        shown = (f"{m['method']} ({decimals(m['mean'], 4)})" for m in best)
        found.append(
            f"Best {comparison['metric']}{' of each budget' * (len(best) > 1)}: {', '.join(shown)}."
        )
    tested = [m for m in known if m["gap"] and m["gap"]["p"] is not None]
    if tested:
        ahead = [
            m["method"]
            for m in tested
            if m["gap"]["p"] < data["level"] and sign * m["gap"]["mean"] < 0
        ]
        found.append(f"Better than {name} (p < {data['level']:g}): {', '.join(ahead) or 'none'}.")
    if any(m["tost"] for m in known):
        equal = [m["method"] for m in known if m["tost"] and m["tost"]["equivalent"]]
        found.append(
            f"Equivalent to {name} within ± {data['margin']:g}: {', '.join(equal) or 'none is shown to be'}."
        )
    return found


def legend(data: Data, comparison: Data) -> str:
    """What the signs of the table mean."""
    words = (
        ["± sd over n seeds", "brackets: 95 % intervals"]
        if any(m["n"] > 1 for m in comparison["methods"])
        else []
    )
    if any(method["gap"] for method in comparison["methods"]):
        words.append(f"gaps: paired by seed, bold where p < {data['level']:g}")
    if any(method["tost"] for method in comparison["methods"]):
        words.append(f"equivalent: within ± {data['margin']:g}, p < {data['level']:g}")
    return "; ".join([f"{comparison['metric']}: {comparison['better']} is better", *words]) + "."


def _count(method: Data) -> Cell:
    off = method["count_off"] or 0
    words = (_percent(off),) if abs(off) > NEAR else ()
    return Cell("–" if method["coefficients"] is None else f"{method['coefficients']:,}", words)


def _gap(method: Data, reference: str | None, level: float) -> Cell:
    gap = method["gap"]
    if not gap or gap["mean"] is None:
        return Cell("reference" if method["method"] == reference else "–")
    return Cell(
        _signed(gap["mean"]),
        _interval(gap, 4, signed=True),
        gap["p"] is not None and gap["p"] < level,
    )


def _equivalent(method: Data) -> Cell:
    tost = method["tost"]
    if not tost:
        return Cell()
    return Cell(
        "yes" if tost["equivalent"] else "not shown",
        () if tost["p"] is None else (in_words(tost["p"]),),
    )


def _time(method: Data) -> Cell:
    found, devices = method["seconds"], len(method["devices"])
    if not found or found["mean"] is None:
        return Cell()
    divisor, unit = (60, "min") if found["mean"] >= LONG else (1, "s")
    value = f"{found['mean'] / divisor:.{1 if found['mean'] / divisor < 100 else 0}f} {unit}"
    return Cell(value, (f"{devices} devices",) * (devices > 1))


def _spread(found: Data | None, digits: int) -> Cell:
    return Cell() if not found else Cell(plus_minus(found["mean"], found["sd"], digits))


def _interval(found: Data, digits: int, signed: bool = False) -> tuple[str, ...]:
    if not all(math.isfinite(number(found[end])) for end in ("low", "high")):
        return ()
    low, high = (
        _signed(found[end]) if signed else decimals(found[end], digits) for end in ("low", "high")
    )
    return (f"[{low}, {high}]",)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def plain(value: object) -> str:
    """A value of a setting, or of a learning rate."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST else f"{len(names)} methods, marked in the table"


def number_of(count: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {what}{'s' * (count != 1)}"


def _joined(cell: Cell) -> str:
    """In one line; an interval is ours, and needs no escapes."""
    below = [word if word.startswith("[") else escaped(f"({word})") for word in cell.below]
    value = escaped(cell.value)
    return " ".join([f"**{value}**" if cell.strong else value, *below])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
