"""Runs beside each other: which may be compared, what was searched, means, gaps and tests."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean, mean
from typing import Any

from zoo.errors import UserError, option
from zoo.files.flat import Flat, frozen
from zoo.files.trust import NOBODY, Trust
from zoo.runs.finished_runs import FinishedRun, Skipped, damaged
from zoo.runs.names import besides, method_names, short, told_apart
from zoo.runs.run_files import COSTS
from zoo.studies.report.costs import frontiers
from zoo.studies.report.scaling import scalings
from zoo.studies.statistics import interval, mean_sd, paired, tost

LEVEL = 0.05
"""The level of every test; intervals are of 1 - LEVEL."""
MARGIN = 0.024
"""The margin of equivalence: the gap to dense that the paper calls matched, 1.604 - 1.580."""
GROUP = 0.15
"""How far apart, as a share, two counts of one budget may be."""
LAST = 3
"""Validations that the terminal variation is over at least."""


def compare(
    runs: Sequence[FinishedRun],
    skipped: Iterable[Skipped] = (),
    margin: float = MARGIN,
    reference: str | None = None,
    trust: Trust = NOBODY,
) -> dict[str, Any]:
    """Return what a report shows, less the facts on top.

    Args:
        runs: as `zoo.runs.finished_runs.read` has them.
        skipped: what it left out.
        margin: of the equivalence test, in units of the metric.
        reference: the method that gaps are taken to; by default `Dense` under AdamW.
        trust: whose classes are imported, to see their defaults.

    Raises:
        UserError: for a reference that no comparison has.
    """
    alike = _grouped(runs, lambda run: frozen(run.conditions))
    firsts = [group[0] for group in alike.values()]
    shared = [run.conditions for run in firsts]
    groups = zip(told_apart([run.subject for run in firsts], shared), alike.values(), strict=True)
    comparisons = [_comparison(name, group, margin, reference, trust) for name, group in groups]
    if reference is not None and not any(comparison["reference"] for comparison in comparisons):
        known = dict.fromkeys(
            method["method"] for each in comparisons for method in each["methods"]
        )
        raise UserError(
            f"no method {reference!r}; {option('reference')} takes one of: {'; '.join(known)}"
        )
    return {
        "margin": margin,
        "level": LEVEL,
        "skipped": [item._asdict() for item in skipped],
        "scalings": scalings(list(zip(shared, comparisons, strict=True))),
        "comparisons": sorted(comparisons, key=lambda comparison: -len(comparison["runs"])),
    }


def usable(runs: Iterable[FinishedRun]) -> tuple[list[FinishedRun], list[Skipped]]:
    """Return runs that can be compared at least with themselves, and those that cannot."""
    good, skipped = [], []
    for run in runs:
        try:
            compare([run])
        except Exception:  # of this run alone, so that it does not take the others down
            skipped.append(damaged(run.path))
        else:
            good.append(run)
    return good, skipped


def _grouped(
    runs: Iterable[FinishedRun], key: Callable[[FinishedRun], Hashable]
) -> dict[Hashable, list[FinishedRun]]:
    groups: dict[Hashable, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(groups)


def _comparison(
    name: str, runs: Sequence[FinishedRun], margin: float, reference: str | None, trust: Trust
) -> dict[str, Any]:
    """Return the methods of runs that may be compared side by side, best first."""
    notes: list[str] = []
    runs = _newest(runs, notes)
    groups = list(_methods(runs))
    labels = method_names(groups, trust)
    methods = [_method(label, *group) for label, group in zip(labels, groups, strict=True)]
    _budgets(methods)
    better, sign = ("higher", -1) if runs[0].higher else ("lower", 1)
    methods.sort(key=lambda m: (m["mean"] is None, sign * (m["mean"] or 0.0), m["method"]))
    dense = _reference(methods, reference)
    for rank, method in enumerate(methods, 1):
        method |= {"gap": None, "tost": None, "rank": rank}
        if dense is not None and method is not dense:
            method |= _against(method, dense, margin)
    notes += _notes(methods)
    called = {
        id(run): label for label, (_, group) in zip(labels, groups, strict=True) for run in group
    }
    seeds = {method["method"]: {item["seed"] for item in method["search"]} for method in methods}
    metrics = [metric for metric in runs[0].metrics if all(metric in run.metrics for run in runs)]
    for method in methods:
        del method["results"]
    return {
        "name": name,
        "settings": {
            key.rpartition(".")[2]: short(value)
            for key, value in runs[0].conditions.items()
            if key not in ("metric", "model", "data")
        },
        "metric": metrics[0],
        "better": better,
        "reference": dense["method"] if dense else None,
        "search": _search(methods),
        "notes": notes,
        "frontiers": frontiers(methods, better),
        "methods": methods,
        "runs": [_row(run, called[id(run)], run.seed in seeds[called[id(run)]]) for run in runs],
    }


def _newest(runs: Sequence[FinishedRun], notes: list[str]) -> list[FinishedRun]:
    """Return the last of runs that differ in nothing, since they are no independent draws."""
    kept = []
    for group in _grouped(runs, lambda run: (frozen(run.method), run.lr, run.seed)).values():
        group = sorted(group, key=lambda run: str(run.summary.get("date")))
        kept.append(group[-1])
        if len(group) > 1:
            others = ", ".join(run.path for run in group[:-1])
            notes.append(f"{group[-1].path} repeats {others}: only the newest counts.")
    return sorted(kept, key=lambda run: run.path)


def _methods(runs: Sequence[FinishedRun]) -> Iterable[tuple[Flat, list[FinishedRun]]]:
    """Yield runs of equal settings; a seed of a basis is none where it is always the run's."""
    for group in _grouped(
        runs, lambda run: frozen(_without(run.method, set(filter(_is_seed, run.method))))
    ).values():
        several = len({run.seed for run in group}) > 1
        of_run = {
            key
            for key in group[0].method
            if _is_seed(key) and several and all(run.method.get(key) == run.seed for run in group)
        }
        told: dict[Hashable, list[FinishedRun]] = defaultdict(list)
        for run in group:
            told[frozen(_without(run.method, of_run))].append(run)
        for same in told.values():
            yield _without(same[0].method, of_run), same


def _without(flat: Flat, keys: set[str]) -> Flat:
    return {key: value for key, value in flat.items() if key not in keys}


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed"


# ---- One method ----------------------------------------------------------------------------------


def _method(label: str, flat: Flat, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Return the statistics of the runs at the rate that the search gives."""
    search, lr, reported = searched(runs)
    results = {run.seed: run.value for run in reported}
    values = [value for value in results.values() if value is not None]
    low, high = interval(values, 1 - LEVEL) or (None, None)
    ranks, seconds = (
        [run.summary[key] for run in reported if _is_number(run.summary.get(key))]
        for key in ("stable_rank", "seconds")
    )
    ends = [end for run in reported if (end := terminal(run))]
    first, rates = reported[0], sorted({run.lr for run in search})
    return {
        "method": label,
        "parameterization": first.parameterization,
        "arguments": {key: value for key, value in first.arguments.items() if key != "seed"},
        "optimizer": first.optimizer,
        "settings": flat,
        **first.counts,
        "cost": _cost(reported),
        "lr": lr,
        "seeds": sorted(results),
        "n": len(values),
        "diverged": sorted(seed for seed, value in results.items() if value is None),
        "tuned_on_reported": any(run in search for run in reported),
        "results": results,
        "values": [results[seed] for seed in sorted(results)],
        **(mean_sd(values) if values else {"mean": None, "sd": None}),
        "low": low,
        "high": high,
        "stable_rank": mean_sd(ranks) if ranks else None,
        "terminal": {
            "sd": fmean(end["sd"] for end in ends),
            "range": fmean(end["range"] for end in ends),
            "n": min(end["n"] for end in ends),
        }
        if ends
        else None,
        "seconds": mean_sd(seconds) if seconds else None,
        "devices": list(dict.fromkeys(str(run.summary.get("device")) for run in reported)),
        "search": [{"lr": run.lr, "seed": run.seed, "value": run.value} for run in search],
        "edge": {rates[0]: "smallest", rates[-1]: "largest"}.get(lr) if len(rates) > 1 else None,
    }


def searched(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], float, list[FinishedRun]]:
    """Return a method's search, the rate that it found, and the runs that are reported.

    Seeds on which more than one rate was run are those of the search. The rate is the one with the
    best mean over them, among those that other seeds were run at, if any were; a run that diverged
    is the worst. Reported are the runs at that rate on other seeds, or else those of the search
    itself. Without a search, it is the rate with most seeds.
    """
    rates = defaultdict(set)
    for run in runs:
        rates[run.seed].add(run.lr)
    seeds = {seed for seed, tried in rates.items() if len(tried) > 1}
    search = sorted((run for run in runs if run.seed in seeds), key=lambda run: (run.lr, run.seed))
    rest = [run for run in runs if run.seed not in seeds]
    candidates = {run.lr for run in rest or search}

    def worth(lr: float) -> tuple[float, ...]:
        tried = [run for run in search if run.lr == lr]
        here = [run for run in rest if run.lr == lr]
        return _badness(tried) if search else -len(here), _badness(here), lr

    lr = min(candidates, key=worth)
    reported = [run for run in rest if run.lr == lr] or [run for run in search if run.lr == lr]
    return search, lr, sorted(reported, key=lambda run: run.seed)


def _badness(runs: Sequence[FinishedRun]) -> float:
    """Return the mean loss or minus the mean score; infinite where one diverged or none is."""
    values = [run.value for run in runs if run.value is not None]
    if not values or len(values) < len(runs):
        return math.inf
    return -fmean(values) if runs[0].higher else fmean(values)


def terminal(run: FinishedRun) -> dict[str, Any] | None:
    """Return how much the metric moves at the end, or None for fewer than two validations.

    That is over those of the last pass, or the last three if it has fewer: the standard deviation
    with n - 1, and the range, max - min.
    """
    first = run.steps - run.epoch if run.epoch else run.steps
    # A validation is logged at the step it follows.
    last = [value for step, value in run.curve if step >= first]
    last = last if len(last) >= LAST else [value for _, value in run.curve[-LAST:]]
    if len(last) < 2:
        return None
    return {"sd": mean_sd(last)["sd"], "range": max(last) - min(last), "n": len(last)}


def _cost(runs: Sequence[FinishedRun]) -> dict[str, int | None] | None:
    """Return each cost, its mean over the runs that say it; None if none says any."""
    known = {key: [cost for run in runs if (cost := run.cost[key]) is not None] for key in COSTS}
    if not any(known.values()):
        return None
    return {key: round(mean(costs)) if costs else None for key, costs in known.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _row(run: FinishedRun, method: str, was_searched: bool) -> dict[str, Any]:
    """Return a run as it stands in the report."""
    end = terminal(run)
    return {
        "path": run.path,
        "name": run.name,
        "method": method,
        "lr": run.lr,
        "seed": run.seed,
        "value": run.value,
        **{key: run.summary.get(key) for key in ("loss", "score", "stable_rank")},
        "coefficients": run.counts["coefficients"],
        "steps": run.steps,
        "terminal_sd": end["sd"] if end else None,
        "searched": was_searched,
        **{key: run.summary.get(key) for key in ("device", "command", "date")},
        "curves": {"value": run.curve, "stable_rank": run.ranks},
    }


# ---- Methods together ----------------------------------------------------------------------------


def _budgets(methods: Sequence[dict[str, Any]]) -> None:
    """Add budgets, how far each count is from its budget's commonest, and what else differs."""
    differing = besides([method["settings"] for method in methods])
    groups: list[list[dict[str, Any]]] = []
    for method in sorted(methods, key=lambda method: (method["replaced"], method["coefficients"])):
        first = groups[-1][0] if groups else None
        near = (
            first is not None
            and first["replaced"] == method["replaced"]
            and method["coefficients"] <= (1 + GROUP) * first["coefficients"]
        )
        groups[-1].append(method) if near else groups.append([method])
    for group in groups:
        usual = Counter(method["coefficients"] for method in group).most_common(1)[0][0]
        for method in group:
            settings = method.pop("settings")
            method["budget"] = usual / method["replaced"]
            method["count_off"] = method["coefficients"] / usual - 1
            method["other"] = {key: settings.get(key) for key in differing}


def _reference(methods: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any] | None:
    """Return the method of this name, or the plainest Dense under AdamW with the most runs."""
    if name is not None:
        named = [method for method in methods if method["method"].lower() == name.lower()]
        return next(iter(named), None)
    dense = [
        method
        for method in methods
        if (method["parameterization"], method["optimizer"]) == ("Dense", "adamw")
    ]
    return min(dense, key=lambda method: (len(method["method"]), -method["n"]), default=None)


def _against(method: Mapping[str, Any], dense: Mapping[str, Any], margin: float) -> dict[str, Any]:
    """Return the paired gap and the equivalence, over the seeds that both have."""
    mine, theirs = method["results"], dense["results"]
    seeds = [seed for seed in mine if mine[seed] is not None and theirs.get(seed) is not None]
    if not seeds:
        return {}
    x, y = [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    low, high = interval([a - b for a, b in zip(x, y, strict=True)], 1 - LEVEL) or (None, None)
    test = paired(x, y)
    p = tost(x, y, margin)
    return {
        "gap": {"n": len(seeds), "mean": test.difference, "low": low, "high": high, "p": test.p},
        "tost": None if p is None else {"margin": margin, "p": p, "equivalent": p < LEVEL},
    }


def _search(methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how the rates were found, and whether every method had as many trials."""
    efforts: dict[tuple[int, int, tuple[int, ...]], list[str]] = defaultdict(list)
    for method in methods:
        tried = method["search"]
        seeds = tuple(sorted({trial["seed"] for trial in tried}))
        efforts[len({trial["lr"] for trial in tried}), len(tried), seeds].append(method["method"])
    said: list[str] = []
    for (rates, _, seeds), names in sorted(efforts.items(), key=lambda item: -len(item[1])):
        words = (
            f"{rates} learning rates per method on {_seeds(seeds)}"
            if rates
            else "no search, one learning rate"
        )
        said.append(f"{words}: {', '.join(names)}" if said else words)
    if len(said) > 1:
        said[0] += f" ({max(map(len, efforts.values()))} of {len(methods)} methods)"
    return {"equal": len(said) == 1, "words": "; ".join(said)}


def _seeds(seeds: Sequence[int]) -> str:
    """Return `seed 0`, `seeds 1 to 5` or `seeds 1, 3`."""
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return (
        f"seeds {seeds[0]} to {seeds[-1]}"
        if whole and len(seeds) > 2
        else f"seeds {', '.join(map(str, seeds))}"
    )


def _notes(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to know of some methods, besides what their rows say."""
    notes = []
    for side in ("largest", "smallest"):
        if names := [method["method"] for method in methods if method["edge"] == side]:
            notes.append(
                f"The best learning rate is the {side} that was tried: {', '.join(names)}."
            )
    return notes + [
        f"{method['method']} diverged on {_seeds(method['diverged'])}, which its mean leaves out."
        for method in methods
        if method["diverged"]
    ]
