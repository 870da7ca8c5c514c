"""The analysis of runs: ranks and spectra of every matrix, averaged, correlated and judged.

The result is plain data, which the page, the figures and analysis.json show.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.layers.names import block, kind
from zoo.runs.updates import Source, Update
from zoo.spectrum import ranks
from zoo.studies.looks import MEASURES, Look, gaussian_spectrum, look
from zoo.studies.statistics import against_null, correlations, grouped, mean_correlations, mean_sd
from zoo.studies.verdicts import Values, verdicts

RANKS = ("stable_rank", "effective_rank", "numerical_rank")


def analyze(
    sources: Sequence[Source],
    transforms: Sequence[str] = ("dct",),
    draws: int = 20,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Analyse the updates of runs, and average over runs of one group.

    Args:
        sources: as `zoo.runs.updates.read` gives them.
        transforms: names of `zoo.bases.TRANSFORMS`.
        draws: of the null, at least 3.
        seed: of the null.
        done: called after each draw of each matrix.

    Returns:
        What analysis.json holds, but for what the command adds: `transforms`, `draws`, `seed`,
            `runs`, `groups`.
    """
    every = [update for source in sources for update in source.updates.values()]
    found = iter(look(every, transforms, draws, seed, done))
    looks = {source.name: {name: next(found) for name in source.updates} for source in sources}
    runs = [_run(source, looks[source.name], transforms, seed) for source in sources]
    return {
        "transforms": list(transforms),
        "draws": draws,
        "seed": seed,
        "runs": runs,
        "groups": _groups(runs, looks),
    }


def _run(
    source: Source, looks: Mapping[str, Mapping[str, Look]], transforms: Sequence[str], seed: int
) -> dict[str, Any]:
    """One of `runs`."""
    matrices = [_matrix(name, update, looks[name], seed) for name, update in source.updates.items()]
    sets = {
        "run": {"all": matrices},
        "block": grouped(matrices, "block"),
        "kind": grouped(matrices, "kind"),
    }
    averages = {
        what: {
            key: _average(members, looks)
            for key, members in sorted(groups.items(), key=_numbers_first)
        }
        for what, groups in sets.items()
    }
    correlation = {
        key: _correlation(matrices, {n: found[key] for n, found in looks.items()})
        for key in transforms
    }
    return {
        **source.about(),
        **{field: getattr(source, field) for field in ("what", "loss", "score", "metric")},
        "notes": list(source.notes),
        "matrices": matrices,
        "averages": averages,
        "correlation": correlation,
        "verdicts": verdicts(
            averages["run"]["all"]["spectra"],
            [matrix["spectra"] for matrix in matrices],
            _zeros(looks.values()),
        ),
    }


def _matrix(name: str, update: Update, looks: Mapping[str, Look], seed: int) -> dict[str, Any]:
    s = update.singular_values().double()
    found = ranks(s, update.shape)
    rank, norm = int(found["numerical_rank"]), float(s.norm())
    mean, sd = gaussian_spectrum(update.shape, rank, 20, seed)
    return {
        "layer": name,
        "block": block(name),
        "kind": kind(name),
        "shape": list(update.shape),
        "norm": norm,
        **found,
        "singular_values": s[:rank].tolist(),
        "gaussian_singular_values": {
            "mean": [norm * v for v in mean[:rank]],
            "sd": [norm * v for v in sd[:rank]],
        },
        "spectra": {key: _beside_null([found]) for key, found in looks.items()},
        "curves": {key: found.curves for key, found in looks.items()},
        "zeros": {key: found.zeros for key, found in looks.items()},
    }


def _numbers_first(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdigit() else 0), item[0]


def _average(
    members: Sequence[dict[str, Any]], looks: Mapping[str, Mapping[str, Look]]
) -> dict[str, Any]:
    """Means over matrices; the null of a mean is the mean of their nulls, draw by draw."""
    names = [member["layer"] for member in members]
    return {
        "matrices": len(members),
        **{rank: float(np.mean([member[rank] for member in members])) for rank in RANKS},
        "spectra": {
            key: _beside_null([looks[name][key] for name in names]) for key in looks[names[0]]
        },
    }


def _beside_null(looks: Sequence[Look]) -> Values:
    values = np.mean([found.values for found in looks], axis=0).tolist()
    null, shuffled = (
        np.mean([getattr(found, field) for found in looks], axis=0)
        for field in ("null", "shuffled")
    )
    found = {}
    for i, (key, value) in enumerate(zip(MEASURES, values, strict=True)):
        other = against_null(value, shuffled[:, i])
        found[key] = against_null(value, null[:, i]) | {
            "shuffled": other["null"],
            "shuffled_p": other["p"],
        }
    return found


def _zeros(looks: Iterable[Mapping[str, Look]]) -> dict[str, float]:
    """By transform, the mean over matrices of the share of coefficients that are 0."""
    every = list(looks)
    return {key: float(np.mean([found[key].zeros for found in every])) for key in every[0]}


def _correlation(matrices: Sequence[dict[str, Any]], looks: Mapping[str, Look]) -> dict[str, Any]:
    """Within matrices, sorted singular-value against coefficient energies; across them, k90 against rank and depth."""
    found = list(looks.values())
    k90 = [float(one.values[MEASURES.index("k90")]) for one in found]
    null_k90 = np.stack([one.null[:, MEASURES.index("k90")] for one in found], axis=1)  # (B, n)
    within, null_within = (
        np.stack([getattr(one, f) for one in found], -2) for f in ("energies", "null_energies")
    )
    names = ("pearson", "spearman")
    energies = {
        name: mean_correlations(within[:, i].tolist(), null_within[..., i])
        for i, name in enumerate(names)
    }
    against = {
        "k90_stable_rank": "stable_rank",
        "k90_effective_rank": "effective_rank",
        "k90_block": "block",
    }
    across = {}
    for name, field in against.items():
        y = [matrix[field] for matrix in matrices]
        if None not in y:
            across[name] = correlations(k90, y, null_k90)
    return {"energies": energies, **across}


# ---- Groups --------------------------------------------------------------------------------------


def _groups(
    runs: Sequence[dict[str, Any]], looks: Mapping[str, Mapping[str, Mapping[str, Look]]]
) -> list[dict[str, Any]]:
    """Runs that differ only in their seed: mean and standard deviation over them, and a verdict on all together."""
    groups = []
    for name, same in grouped(runs, "group").items():
        averages = [run["averages"]["run"]["all"] for run in same]
        spectra = {
            key: {
                m: {
                    **mean_sd([a["spectra"][key][m]["value"] for a in averages]),
                    "null": float(np.mean([a["spectra"][key][m]["null"] for a in averages])),
                    "null_sd": float(np.mean([a["spectra"][key][m]["sd"] for a in averages])),
                }
                for m in MEASURES
            }
            for key in averages[0]["spectra"]
        }
        scores = {field: [run[field] for run in same] for field in ("loss", "score")}
        every = [found for run in same for found in looks[run["name"]].values()]
        pooled = {
            key: _beside_null([found[key] for found in every]) for key in averages[0]["spectra"]
        }
        matrices = [matrix["spectra"] for run in same for matrix in run["matrices"]]
        judged = verdicts(pooled, matrices, _zeros(every))
        groups.append(
            {
                "group": name,
                **{field: same[0][field] for field in ("task", "model", "parameterization")},
                "runs": [run["name"] for run in same],
                "spectra": spectra,
                "verdicts": judged,
                **{rank: mean_sd([a[rank] for a in averages]) for rank in RANKS},
                **{
                    field: mean_sd(values) if None not in values else None
                    for field, values in scores.items()
                },
            }
        )
    return groups
