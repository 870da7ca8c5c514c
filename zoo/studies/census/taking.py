"""Taking a census: every adapter, the tails of five nulls, and what all say together."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.pages.numbers import decimals
from zoo.pages.texts import clean
from zoo.studies.census.entries import Entry
from zoo.studies.census.running import Bounds, Result, before_reading, job_of, run
from zoo.studies.census.summary import for_tails, mark_copies, summary
from zoo.studies.journal import ADAPTERS, Journal


def take(
    entries: Sequence[Entry],
    transforms: Sequence[str],
    draws: int,
    seed: int,
    bounds: Bounds,
    at_once: int,
    folder: Path,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Analyse adapters, and sum them up.

    Args:
        entries: the adapters.
        transforms: names of `zoo.bases.TRANSFORMS`.
        draws: of each null.
        seed: of the nulls.
        bounds: of each adapter's process.
        at_once: how many processes.
        folder: for the journal, with which a census that was stopped goes on.
        say: is called with a line for each adapter.

    Returns:
        What `Census` takes: `transforms`, `draws`, `seed`, `adapters`, `tails` and a `summary`.
    """
    journal: Journal[Result] = Journal(folder / ADAPTERS, _accepted)
    adapters: list[Result] = []
    todo: list[int] = []
    for place, entry in enumerate(entries):
        left = before_reading(entry)
        about = {"entry": entry.as_json()}
        adapters.append(about if left is None else {**about, **left._asdict(), "seconds": 0.0})
        if left is None:
            todo.append(place)
        elif not entry.status:
            say(f"{entry.name}  left out: {left.status}, {left.why}")
    begun, count = time.monotonic(), 0

    def done(place: int, result: Result) -> None:
        nonlocal count
        count += 1
        left = (time.monotonic() - begun) * (len(todo) - count) / count / 60
        name = entries[todo[place]].name
        say(f"{name}  {_in_short(result)}  ({count} of {len(todo)}, {left:.0f} min left)")

    jobs = [job_of(entries[place], transforms, draws, seed) for place in todo]
    for place, result in zip(todo, run(jobs, bounds, at_once, journal, done), strict=True):
        adapters[place] |= result
    mark_copies(adapters)
    chosen = for_tails(adapters)
    tails = [
        {**job_of(entries[place], ["dct"], draws, seed), "layer": layer} for place, layer in chosen
    ]
    told = run(tails, bounds, at_once, journal, lambda _place, _result: None)
    adapters = clean(adapters)  # what a file is called, or says of itself, may be no text at all
    return {
        "transforms": list(transforms),
        "draws": draws,
        "seed": seed,
        "adapters": adapters,
        "tails": [
            clean({"adapter": entries[place].name, **tail})
            for (place, _), tail in zip(chosen, told, strict=True)
            if tail["status"] == "analysed"
        ],
        "summary": summary(adapters, transforms),
    }


def _accepted(value: Any) -> Result | None:
    return value if isinstance(value, dict) and isinstance(value.get("status"), str) else None


def _in_short(result: Result) -> str:
    if result["status"] != "analysed":
        return f"left out: {result['status']}, {result['why']}"
    key, mean = next(iter(result["mean"].items()))
    k90 = mean["k90"]
    value, null = decimals(k90["value"]), decimals(k90["null"])
    return f"{len(result['matrices'])} matrices  {key} k90 {value}, null {null}"
