"""What is in trained updates: their ranks and spectra, each beside its rotation null, averaged, correlated and judged.

Everything is computed from factors where an update has them: for dW = B A the coefficients are (L B)(A R^T), and the
singular values those of a small matrix. The result is plain data, which the page, the figures and analysis.json show.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.bases import generator
from zoo.convert import block, kind
from zoo.frequencies import Transform, transform
from zoo.lab.statistics import against_null, correlations, grouped, mean_correlations, pearson, spearman, spread
from zoo.lab.updates import Source, Update
from zoo.lab.verdicts import Values, verdicts
from zoo.spectrum import measures, numerical_rank, random_rotations, ranks, running_sums

MEASURES = ("k50", "k90", "k99", "k50_frequency", "k90_frequency", "k99_frequency", "low_10", "low_25", "low_50")
"""Of `zoo.spectrum.spectral_energy`."""
RANKS = ("stable_rank", "effective_rank", "numerical_rank")


class Look(NamedTuple):
    """One matrix under one transform, B draws of its rotation null and B of it with rows and columns shuffled."""

    values: Tensor  # (9,) the MEASURES
    null: Tensor  # (B, 9)
    shuffled: Tensor  # (B, 9)
    zeros: float  # share of coefficients below a thousandth of their root mean square
    curves: dict[str, list[float]]
    energies: np.ndarray  # (2,) Pearson's and Spearman's correlation of singular-value and coefficient energies
    null_energies: np.ndarray  # (B, 2)


# ---- One matrix ------------------------------------------------------------------------------------------------------


def look(update: Update, transforms: Sequence[str], draws: int, name: str = "", seed: int = 0) -> dict[str, Look]:
    """An update under each transform, beside two nulls.

    The rotation null has its singular values between Haar-random singular vectors. A transform that rotates both sides
    leaves Haar measure as it is, so that U diag(s) V^T is itself the plane of a null matrix and is not transformed.
    Shuffling keeps rows and columns but not their order: what is beyond the rotation null and as large after it is no
    matter of frequency, which is in the order.

    Args:
        update: dW.
        transforms: names of `zoo.frequencies.TRANSFORMS`.
        draws: B, at least 2.
        name: of the matrix; its nulls are functions of this, the seed and the update.
        seed: of the nulls.
    """
    s = update.singular_values()
    energies = s[: numerical_rank(s, update.shape)].double().square().numpy()
    planes = {key: transform(key) for key in transforms}
    own = {key: _plane(update, t) for key, t in planes.items()}
    found = {key: _measure(own[key], t, update.shape, energies) for key, t in planes.items()}
    null: dict[str, list[tuple[Tensor, np.ndarray, np.ndarray]]] = {key: [] for key in transforms}
    for left, right in random_rotations(s, update.shape, draws, name, seed=seed):
        for key, t in planes.items():
            plane = left @ right if t.rotates(*update.shape) else t.forward_product(left, right)
            null[key].append(_measure(plane, t, update.shape, energies))
    shuffled: dict[str, list[Tensor]] = {key: [] for key in transforms}
    for draw in range(draws):
        mixed = _shuffle(update, generator(seed, "shuffle", name, draw))
        for key, t in planes.items():
            shuffled[key].append(_values(running_sums(_plane(mixed, t), t.order(*update.shape))))
    looks = {}
    for key, (values, curves, correlation) in found.items():
        null_values, null_curves, null_correlations = zip(*null[key], strict=True)
        lines = np.round([*curves, *np.mean(null_curves, axis=0)], 5).tolist()
        named = dict(zip(("magnitude", "frequency", "null_magnitude", "null_frequency"), lines, strict=True))
        nulls = torch.stack(null_values), torch.stack(shuffled[key])
        zeros = (own[key].abs() < 1e-3 * own[key].square().mean().sqrt()).double().mean().item()
        looks[key] = Look(values, *nulls, zeros, named, correlation, np.stack(null_correlations))
    return looks


def _plane(update: Update, t: Transform) -> Tensor:
    return t.forward(update.left) if update.right is None else t.forward_product(update.left, update.right)


def _shuffle(update: Update, stream: torch.Generator) -> Update:
    """Rows and columns in random order."""
    m, n = update.shape
    rows, columns = torch.randperm(m, generator=stream), torch.randperm(n, generator=stream)
    if update.right is None:
        return Update(update.left[rows][:, columns])
    return Update(update.left[rows], update.right[:, columns])


def _values(sums: tuple[Tensor, Tensor]) -> Tensor:
    """The MEASURES; (9,), float64."""
    found = measures(*sums)
    return torch.tensor([found[key] for key in MEASURES], dtype=torch.float64)


def _measure(
    plane: Tensor, t: Transform, shape: tuple[int, int], energies: np.ndarray
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The measures (9,), both curves (2, 101) and both correlations (2,) of a plane."""
    sums = running_sums(plane, t.order(*shape))
    counts = (torch.arange(1, 101) * len(sums[0]) / 100).round().long()
    curves = np.stack([np.append(0, line[(counts - 1).clamp_min(0)] * (counts > 0) / line[-1]) for line in sums])
    largest = sums[0][: len(energies)].diff(prepend=torch.zeros(1)).numpy()
    correlation = np.array([f(energies, largest) if len(energies) > 2 else np.nan for f in (pearson, spearman)])
    return _values(sums), curves, correlation


@lru_cache(maxsize=256)
def gaussian_spectrum(shape: tuple[int, int], rank: int, draws: int, seed: int) -> tuple[list[float], list[float]]:
    """Singular values, mean and standard deviation, of a Gaussian matrix of norm 1, or a product of Gaussian factors.

    Args:
        shape: (m, n).
        rank: below min(m, n), of the product of (m, rank) and (rank, n).
        draws: at least 2.
        seed: of the draws.
    """
    (m, n), values = shape, []
    for draw in range(draws):
        stream = generator(seed, "gaussian", m, n, rank, draw)
        if rank < min(m, n):
            made = Update(torch.randn(m, rank, generator=stream), torch.randn(rank, n, generator=stream))
        else:
            made = Update(torch.randn(m, n, generator=stream), None)
        s = made.singular_values().double()
        values.append(s / s.norm())
    spectra = torch.stack(values)
    return spectra.mean(0).tolist(), spectra.std(0).tolist()


# ---- One run ---------------------------------------------------------------------------------------------------------


def analyze(
    sources: Sequence[Source], transforms: Sequence[str] = ("dct",), draws: int = 20, seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Analyse the updates of runs, and average over runs of one group.

    Args:
        sources: as `zoo.lab.updates.read` gives them.
        transforms: names of `zoo.frequencies.TRANSFORMS`.
        draws: of the null, at least 3.
        seed: of the null.
        done: called after each matrix.

    Returns:
        What analysis.json holds, but for what the command adds: `transforms`, `draws`, `seed`, `runs`, `groups`.
    """
    looks = {source.name: dict[str, dict[str, Look]]() for source in sources}
    runs = [_run(source, looks[source.name], transforms, draws, seed, done) for source in sources]
    return {"transforms": list(transforms), "draws": draws, "seed": seed, "runs": runs, "groups": _groups(runs, looks)}


def _run(
    source: Source, looks: dict[str, dict[str, Look]], transforms: Sequence[str], draws: int, seed: int,
    done: Callable[[], object],
) -> dict[str, Any]:
    """One of `runs`; `looks` is filled with those of its layers."""
    matrices: list[dict[str, Any]] = []
    for name, update in source.updates.items():
        # Runs of one group have different seeds, and so independent nulls.
        looks[name] = look(update, transforms, draws, f"{name} {source.seed}", seed)
        matrices.append(_matrix(name, update, looks[name], seed))
        done()
    sets = {"run": {"all": matrices}, "block": grouped(matrices, "block"), "kind": grouped(matrices, "kind")}
    averages = {
        what: {key: _average(members, looks) for key, members in sorted(groups.items(), key=_numbers_first)}
        for what, groups in sets.items()
    }
    correlation = {key: _correlation(matrices, {n: found[key] for n, found in looks.items()}) for key in transforms}
    fields = ("name", "path", "what", "group", "task", "model", "parameterization", "seed", "loss", "score", "metric")
    return {
        **{field: getattr(source, field) for field in fields}, "notes": list(source.notes), "matrices": matrices,
        "averages": averages, "correlation": correlation,
        "verdicts": verdicts(
            averages["run"]["all"]["spectra"], [matrix["spectra"] for matrix in matrices], _zeros(looks.values())
        ),
    }


def _matrix(name: str, update: Update, looks: Mapping[str, Look], seed: int) -> dict[str, Any]:
    s = update.singular_values().double()
    found = ranks(s, update.shape)
    rank, norm = int(found["numerical_rank"]), float(s.norm())
    mean, sd = gaussian_spectrum(update.shape, rank, 20, seed)
    return {
        "layer": name, "block": block(name), "kind": kind(name), "shape": list(update.shape), "norm": norm, **found,
        "singular_values": s[:rank].tolist(),
        "gaussian_singular_values": {"mean": [norm * v for v in mean[:rank]], "sd": [norm * v for v in sd[:rank]]},
        "spectra": {key: _beside_null([found]) for key, found in looks.items()},
        "curves": {key: found.curves for key, found in looks.items()},
        "zeros": {key: found.zeros for key, found in looks.items()},
    }


def _numbers_first(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdigit() else 0), item[0]


def _average(members: Sequence[dict[str, Any]], looks: Mapping[str, Mapping[str, Look]]) -> dict[str, Any]:
    """Means over matrices; the null of a mean is the mean of their nulls, draw by draw."""
    names = [member["layer"] for member in members]
    return {
        "matrices": len(members),
        **{rank: float(np.mean([member[rank] for member in members])) for rank in RANKS},
        "spectra": {key: _beside_null([looks[name][key] for name in names]) for key in looks[names[0]]},
    }


def _beside_null(looks: Sequence[Look]) -> Values:
    values = torch.stack([found.values for found in looks]).mean(0).tolist()
    null, shuffled = (torch.stack(draws).mean(0) for draws in zip(*((f.null, f.shuffled) for f in looks), strict=True))
    found = {}
    for i, (key, value) in enumerate(zip(MEASURES, values, strict=True)):
        other = against_null(value, shuffled[:, i])
        found[key] = against_null(value, null[:, i]) | {"shuffled": other["null"], "shuffled_p": other["p"]}
    return found


def _zeros(looks: Iterable[Mapping[str, Look]]) -> dict[str, float]:
    """By transform, the mean over matrices of the share of coefficients that are 0."""
    every = list(looks)
    return {key: float(np.mean([found[key].zeros for found in every])) for key in every[0]}


def _correlation(matrices: Sequence[dict[str, Any]], looks: Mapping[str, Look]) -> dict[str, Any]:
    """Within matrices, sorted singular-value against coefficient energies; across them, k90 against rank and depth."""
    found = list(looks.values())
    k90 = [float(one.values[MEASURES.index("k90")]) for one in found]
    null_k90 = torch.stack([one.null[:, MEASURES.index("k90")] for one in found], dim=1).numpy()  # (B, n)
    within, null_within = (np.stack([getattr(one, f) for one in found], -2) for f in ("energies", "null_energies"))
    names = ("pearson", "spearman")
    energies = {name: mean_correlations(within[:, i].tolist(), null_within[..., i]) for i, name in enumerate(names)}
    against = {"k90_stable_rank": "stable_rank", "k90_effective_rank": "effective_rank", "k90_block": "block"}
    across = {}
    for name, field in against.items():
        y = [matrix[field] for matrix in matrices]
        if None not in y:
            across[name] = correlations(k90, y, null_k90)
    return {"energies": energies, **across}


# ---- Groups ----------------------------------------------------------------------------------------------------------


def _groups(
    runs: Sequence[dict[str, Any]], looks: Mapping[str, Mapping[str, Mapping[str, Look]]]
) -> list[dict[str, Any]]:
    """Runs that differ only in their seed: mean and standard deviation over them, and a verdict on all together."""
    groups = []
    for name, same in grouped(runs, "group").items():
        averages = [run["averages"]["run"]["all"] for run in same]
        spectra = {
            key: {m: {**spread([a["spectra"][key][m]["value"] for a in averages]),
                      "null": float(np.mean([a["spectra"][key][m]["null"] for a in averages])),
                      "null_sd": float(np.mean([a["spectra"][key][m]["sd"] for a in averages]))} for m in MEASURES}
            for key in averages[0]["spectra"]
        }
        scores = {field: [run[field] for run in same] for field in ("loss", "score")}
        every = [found for run in same for found in looks[run["name"]].values()]
        pooled = {key: _beside_null([found[key] for found in every]) for key in averages[0]["spectra"]}
        matrices = [matrix["spectra"] for run in same for matrix in run["matrices"]]
        judged = verdicts(pooled, matrices, _zeros(every))
        groups.append({
            "group": name, **{field: same[0][field] for field in ("task", "model", "parameterization")},
            "runs": [run["name"] for run in same], "spectra": spectra, "verdicts": judged,
            **{rank: spread([a[rank] for a in averages]) for rank in RANKS},
            **{field: spread(values) if None not in values else None for field, values in scores.items()},
        })
    return groups
