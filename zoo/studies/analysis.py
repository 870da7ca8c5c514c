"""The analysis of runs: ranks and spectra of every matrix, averaged, correlated and judged.

The result is plain data, which the page, the figures and analysis.json show.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.layers.names import block, kind
from zoo.runs.source import Source, Update
from zoo.spectrum import ranks
from zoo.studies.spectra import (
    SPECTRAL_MEASURES,
    Spectrum,
    beside_nulls,
    gaussian_spectrum,
)
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
    measured = iter(beside_nulls(every, transforms, draws, seed, done))
    spectra = {source.name: {name: next(measured) for name in source.updates} for source in sources}
    runs = [_run(source, spectra[source.name], transforms, seed) for source in sources]
    return {
        "transforms": list(transforms),
        "draws": draws,
        "seed": seed,
        "runs": runs,
        "groups": _groups(runs, spectra),
    }


def _run(
    source: Source,
    spectra: Mapping[str, Mapping[str, Spectrum]],
    transforms: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Return one entry of `runs`."""
    matrices = [
        _matrix(name, update, spectra[name], seed) for name, update in source.updates.items()
    ]
    sets = {
        "run": {"all": matrices},
        "block": grouped(matrices, "block"),
        "kind": grouped(matrices, "kind"),
    }
    averages = {
        what: {
            key: _average(members, spectra)
            for key, members in sorted(groups.items(), key=_numbers_first)
        }
        for what, groups in sets.items()
    }
    correlation = {
        key: _correlation(matrices, {n: by_transform[key] for n, by_transform in spectra.items()})
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
            _zeros(spectra.values()),
        ),
    }


def _matrix(
    name: str, update: Update, spectra: Mapping[str, Spectrum], seed: int
) -> dict[str, Any]:
    s = update.singular_values().double()
    of_rank = ranks(s, update.shape)
    rank, norm = int(of_rank["numerical_rank"]), float(s.norm())
    mean, sd = gaussian_spectrum(update.shape, rank, 20, seed)
    return {
        "layer": name,
        "block": block(name),
        "kind": kind(name),
        "shape": list(update.shape),
        "norm": norm,
        **of_rank,
        "singular_values": s[:rank].tolist(),
        "gaussian_singular_values": {
            "mean": [norm * v for v in mean[:rank]],
            "sd": [norm * v for v in sd[:rank]],
        },
        "spectra": {key: beside_null([spectrum]) for key, spectrum in spectra.items()},
        "curves": {key: spectrum.curves for key, spectrum in spectra.items()},
        "zeros": {key: spectrum.zeros for key, spectrum in spectra.items()},
    }


def _numbers_first(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdigit() else 0), item[0]


def _average(
    members: Sequence[dict[str, Any]], spectra: Mapping[str, Mapping[str, Spectrum]]
) -> dict[str, Any]:
    """Means over matrices; the null of a mean is the mean of their nulls, draw by draw."""
    names = [member["layer"] for member in members]
    return {
        "matrices": len(members),
        **{rank: float(np.mean([member[rank] for member in members])) for rank in RANKS},
        "spectra": {
            key: beside_null([spectra[name][key] for name in names]) for key in spectra[names[0]]
        },
    }


def beside_null(spectra: Sequence[Spectrum]) -> Values:
    """Return the measures of a mean over matrices under one transform, beside both nulls."""
    values = np.mean([spectrum.values for spectrum in spectra], axis=0).tolist()
    null, shuffled = (
        np.mean([getattr(spectrum, field) for spectrum in spectra], axis=0)
        for field in ("null", "shuffled")
    )
    measures = {}
    for i, (key, value) in enumerate(zip(SPECTRAL_MEASURES, values, strict=True)):
        other = against_null(value, shuffled[:, i])
        measures[key] = against_null(value, null[:, i]) | {
            "shuffled": other["null"],
            "shuffled_p": other["p"],
        }
    return measures


def _zeros(spectra: Iterable[Mapping[str, Spectrum]]) -> dict[str, float]:
    """Return, by transform, the mean over matrices of the share of coefficients that are 0."""
    every = list(spectra)
    return {
        key: float(np.mean([by_transform[key].zeros for by_transform in every])) for key in every[0]
    }


def _correlation(
    matrices: Sequence[dict[str, Any]], spectra: Mapping[str, Spectrum]
) -> dict[str, Any]:
    """Correlate energies within matrices, and k90 with rank and depth across them.

    Energies are sorted: those of singular values beside those of coefficients.
    """
    every = list(spectra.values())
    k90 = [float(one.values[SPECTRAL_MEASURES.index("k90")]) for one in every]
    # (B, n)
    null_k90 = np.stack([one.null[:, SPECTRAL_MEASURES.index("k90")] for one in every], axis=1)
    within, null_within = (
        np.stack([getattr(one, f) for one in every], -2) for f in ("energies", "null_energies")
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
    runs: Sequence[dict[str, Any]], spectra: Mapping[str, Mapping[str, Mapping[str, Spectrum]]]
) -> list[dict[str, Any]]:
    """Average runs that differ only in their seed, and give a verdict on all together."""
    groups = []
    for name, same in grouped(runs, "group").items():
        averages = [run["averages"]["run"]["all"] for run in same]
        averaged = {
            key: {
                m: {
                    **mean_sd([a["spectra"][key][m]["value"] for a in averages]),
                    "null": float(np.mean([a["spectra"][key][m]["null"] for a in averages])),
                    "null_sd": float(np.mean([a["spectra"][key][m]["sd"] for a in averages])),
                }
                for m in SPECTRAL_MEASURES
            }
            for key in averages[0]["spectra"]
        }
        scores = {field: [run[field] for run in same] for field in ("loss", "score")}
        every = [one for run in same for one in spectra[run["name"]].values()]
        pooled = {key: beside_null([one[key] for one in every]) for key in averages[0]["spectra"]}
        matrices = [matrix["spectra"] for run in same for matrix in run["matrices"]]
        judged = verdicts(pooled, matrices, _zeros(every))
        groups.append(
            {
                "group": name,
                **{field: same[0][field] for field in ("task", "model", "parameterization")},
                "runs": [run["name"] for run in same],
                "spectra": averaged,
                "verdicts": judged,
                **{rank: mean_sd([a[rank] for a in averages]) for rank in RANKS},
                **{
                    field: mean_sd(values) if None not in values else None
                    for field, values in scores.items()
                },
            }
        )
    return groups
