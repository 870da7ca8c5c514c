"""The tables of a report: methods with their statistics, learning rates that were tried, runs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from zoo.pages.data import Data, or_nan
from zoo.pages.numbers import (
    decimals,
    engineering,
    general,
    human_bytes,
    interval,
    number_of,
    percent,
    plus_minus,
    typeset,
)
from zoo.pages.table import Cell, Column, Table, fixed, mean_sd
from zoo.runs.run_files import COSTS
from zoo.studies.verdicts import in_words

NEAR = 0.01
"""Counts that differ by more are said to."""
LONG = 600
"""Seconds from which on times are in minutes."""
MANY = 10
"""Learning rates that a table has a column for each of."""
UNEXPORTED = ["rank", "tuned", "diverged", "kinds_of_device"]
"""Fields of a method that report.csv has not."""


# ---- Methods -------------------------------------------------------------------------------------


def methods(comparison: Data) -> pd.DataFrame:
    """Return the numbers of a comparison's methods, a row each, in the order of the page."""
    return pd.DataFrame(_rows(comparison), dtype=object)


def exported(data: Data) -> pd.DataFrame:
    """Return what report.csv holds: the methods of all comparisons."""
    rows = [row for comparison in data["comparisons"] for row in _rows(comparison)]
    return pd.DataFrame(rows, dtype=object).drop(columns=UNEXPORTED)


def _rows(comparison: Data) -> list[Data]:
    return [
        {"comparison": comparison["name"], **_numbers(method)} for method in ordered(comparison)
    ]


def _numbers(method: Data) -> Data:
    gap, tost, rank, terminal, seconds = (
        method[key] or {} for key in ("gap", "tost", "stable_rank", "terminal", "seconds")
    )
    names = ("method", "parameterization", "optimizer", "budget", "coefficients", "trainable")
    return {
        **{key: method[key] for key in (*names, "count_off", "lr", "n")},
        "seeds": " ".join(map(str, method["seeds"])),
        **{key: method[key] for key in ("mean", "sd", "low", "high")},
        "gap": gap.get("mean"),
        **{f"gap_{key}": gap.get(key) for key in ("low", "high", "p")},
        "margin": tost.get("margin"),
        "tost_p": tost.get("p"),
        "equivalent": tost.get("equivalent"),
        "stable_rank": rank.get("mean"),
        "stable_rank_sd": rank.get("sd"),
        "terminal_sd": terminal.get("sd"),
        "seconds": seconds.get("mean"),
        **{_cost_field(key): (method.get("cost") or {}).get(key) for key in COSTS},
        "search_trials": len(method["search"] or ()),
        "devices": "; ".join(method["devices"]),
        "rank": method["rank"],
        "tuned": bool(method["tuned_on_reported"]),
        "diverged": len(method.get("diverged", ())),
        "kinds_of_device": len(method["devices"]),
    }


def _cost_field(key: str) -> str:
    """Return what a cost is called in report.csv: `rows` says of what."""
    return "cost_rows" if key == "rows" else key


def ordered(comparison: Data) -> list[Data]:
    """Return methods by budget, the reference's and the largest first, the best first in each.

    What has no value comes last.
    """
    sign = 1 if comparison["better"] == "lower" else -1
    reference_budget = next(
        (m["budget"] for m in comparison["methods"] if m["method"] == comparison["reference"]), None
    )

    def place(method: Data) -> tuple[bool, bool, float, float]:
        budget, mean = or_nan(method["budget"]), sign * or_nan(method["mean"])
        known = -budget if math.isfinite(budget) else 0.0
        last = mean if math.isfinite(mean) else math.inf
        first = method["method"] == comparison["reference"]
        return (
            reference_budget is None or method["budget"] != reference_budget,
            not first,
            known,
            last,
        )

    return sorted(comparison["methods"], key=place)


def methods_table(comparison: Data, level: float) -> Table:
    """Return the methods as a page and Markdown show them, without the columns that nothing is in.

    Args:
        comparison: of report data.
        level: p of a gap below which it is set off.
    """
    reference = comparison["reference"]

    def gap(m: Any) -> Cell:
        if m.gap is None:
            return Cell("reference" if m.method == reference else "-")
        bounds = interval(m.gap_low, m.gap_high, 4, "+")
        is_clear = m.gap_p is not None and m.gap_p < level
        return Cell(decimals(m.gap, 4, "+"), [bounds] * bool(bounds), is_clear)

    columns = [
        Column("Method", lambda m: m.method, left=True),
        Column("Coefficients", lambda m: Cell(_count(m), _off(m))),
        Column("Checkpoint", _bytes("checkpoint_bytes")),
        Column("FLOPs a token", lambda m: engineering(m.training_flops)),
        Column("Rate", lambda m: Cell(general(m.lr), ["own seed"] * m.tuned)),
        Column("n", lambda m: str(m.n)),
        Column(str(comparison["metric"]).capitalize(), _mean),
        Column(f"Gap to {reference}", gap),
        Column("Equivalent", _equivalent),
        Column("Stable rank", mean_sd("stable_rank", "stable_rank_sd", 2)),
        Column("Late sd", fixed("terminal_sd", 4)),
        Column("Time", _time),
    ]
    return Table(methods(comparison), columns).filled(keep=2, empty=["reference"])


def terminal_table(comparison: Data) -> Table:
    """Return the methods, best first, as a terminal has room for them."""

    def bounds(m: Any) -> str:
        return interval(m.gap_low, m.gap_high, 3, "+", ",")

    def same(m: Any) -> str:
        return "" if m.equivalent is None else "yes" if m.equivalent else "no"

    columns = [
        Column("method", lambda m: Cell(m.method, _remarks(m)), left=True),
        Column("share", lambda m: f"{100 * m.budget:.3g}%"),
        Column("lr", lambda m: f"{general(m.lr)}{'*' * m.tuned}"),
        Column("n", lambda m: str(m.n)),
        Column(comparison["metric"], fixed("mean", missing="")),
        Column("sd", fixed("sd", missing="")),
        Column("gap", fixed("gap", 3, "+", "")),
        Column("[low, high]", bounds),
        Column("same", same),
        Column("rank", fixed("stable_rank", 1, missing="")),
    ]
    return Table(methods(comparison).sort_values("rank"), columns).filled()


def cost_table(comparison: Data) -> Table | None:
    """Return what the methods cost, best first, as a terminal has room for it; None if unknown."""
    if not any(method.get("cost") for method in comparison["methods"]):
        return None
    columns = [
        Column("method", lambda m: m.method, left=True),
        Column("trained", lambda m: f"{m.trainable:,}"),
        Column("saved", _bytes("checkpoint_bytes")),
        Column("decode", _bytes("decode_bytes")),
        Column("forward", lambda m: engineering(m.forward_flops)),
        Column("training", lambda m: engineering(m.training_flops)),
        Column("run", lambda m: engineering(m.total_training_flops)),
    ]
    return Table(methods(comparison).sort_values("rank"), columns)


def _bytes(field: str) -> Callable[[Any], str]:
    """Show a number of bytes, which may be missing."""
    return lambda m: "-" if (count := getattr(m, field)) is None else human_bytes(count)


def _count(m: Any) -> str:
    return "-" if m.coefficients is None else f"{m.coefficients:,}"


def _off(m: Any) -> list[str]:
    return [percent(m.count_off, sign="+")] * (abs(m.count_off or 0) > NEAR)


def _remarks(m: Any) -> list[str]:
    """Return what stands below a row: an odd count, seeds without a result, several devices."""
    diverged = [f"{m.diverged} diverged"] * bool(m.diverged)
    return [*(f"count {off}" for off in _off(m)), *diverged, *_devices(m)]


def _devices(m: Any) -> list[str]:
    return [f"{m.kinds_of_device} devices"] * (m.kinds_of_device > 1)


def _mean(m: Any) -> Cell:
    bounds = interval(m.low, m.high, 4)
    return Cell(plus_minus(m.mean, m.sd, 4), [bounds] * bool(bounds))


def _equivalent(m: Any) -> Cell:
    if m.equivalent is None:
        return Cell()
    below = [] if m.tost_p is None else [in_words(m.tost_p)]
    return (
        Cell("yes", below, mark="word yes")
        if m.equivalent
        else Cell("not shown", below, mark="word")
    )


def _time(m: Any) -> Cell:
    if m.seconds is None:
        return Cell()
    time, unit = (m.seconds / 60, "min") if m.seconds >= LONG else (m.seconds, "s")
    return Cell(f"{decimals(time, 1 if time < 100 else 0)} {unit}", _devices(m))


# ---- Learning rates ------------------------------------------------------------------------------


def search_table(comparison: Data) -> Table | None:
    """Return the mean of the search at each learning rate, each in a column if there is room."""
    tried = [
        {"method": method["method"], "chosen": method["lr"], **trial}
        for method in ordered(comparison)
        for trial in method["search"] or ()
    ]
    if not tried:
        return None
    trials = pd.DataFrame(tried)
    means = trials.astype({"value": float}).groupby(["method", "lr"])["value"].mean()
    rates = sorted(trials["lr"].unique())
    searched = trials.groupby(["method", "chosen"], sort=False, as_index=False).size()

    def mean(m: Any, rate: float) -> Cell:
        if (m.method, rate) not in means.index:
            return Cell()
        return Cell(decimals(means[m.method, rate], 4, missing="none"), strong=rate == m.chosen)

    def every(m: Any) -> Markup:
        cells = {rate: mean(m, rate) for rate in rates if (m.method, rate) in means.index}
        shown = (
            (
                general(rate),
                Markup("<strong>{}</strong>" if cell.strong else "{}").format(typeset(cell.text)),
            )
            for rate, cell in cells.items()
        )
        return Markup("; ").join(Markup("{}: {}").format(*each) for each in shown)

    metric = comparison["metric"]
    columns = (
        [Column(general(rate), partial(mean, rate=rate)) for rate in rates]
        if len(rates) <= MANY
        else [Column(f"Rate: {metric}", every, left=True)]
    )
    return Table(
        searched,
        [
            Column("Method", lambda m: m.method, left=True),
            *columns,
            Column("Tried", lambda m: number_of(m.size, "run")),
        ],
        f"{metric.capitalize()} by learning rate; bold: chosen",
    )


# ---- Runs ----------------------------------------------------------------------------------------


def runs_table(comparison: Data) -> Table:
    """Return all runs."""
    columns = [
        Column("Run", lambda run: run.path, left=True),
        Column("Method", lambda run: run.method, left=True),
        Column("Rate", lambda run: general(run.lr)),
        Column("Seed", lambda run: str(run.seed)),
        Column(comparison["metric"].capitalize(), fixed("value", 4)),
        Column("Stable rank", fixed("stable_rank", 2)),
        Column("Late sd", fixed("terminal_sd", 4)),
        Column("", lambda run: "search" if run.searched else ""),
        Column("Device", lambda run: str(run.device)),
        Column("Date", lambda run: (run.date or "-")[:10]),
        Column(
            "Command", lambda run: Markup("<code>{}</code>").format(run.command or "–"), left=True
        ),
    ]
    return Table(pd.DataFrame(comparison["runs"], dtype=object), columns)
