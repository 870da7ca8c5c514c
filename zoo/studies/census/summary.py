"""What a census says: how many adapters have structure beyond their nulls, and what was seen.

The unit is the adapter: its matrices share directions. Adapters of one cluster, as of one author,
count as one in intervals. Of many adapters some differ from their null by chance, so that the false
discovery rate is what is bounded.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from zoo.pages.data import Data
from zoo.studies.census.planted import KINDS
from zoo.studies.statistics import holm, interval
from zoo.studies.verdicts import PRIMARY

LEVEL = 0.05
"""The false discovery rate of what is called structured, and the level of a single test."""
UNKNOWN = "unknown"
DEPTHS = ("first third", "middle third", "last third")


def summary(adapters: Sequence[Data], transforms: Sequence[str]) -> Data:
    """Return what a census.json says of all adapters together.

    Args:
        adapters: results of `zoo.studies.census.running.run`, each with its `entry`.
        transforms: of the analysis.

    Returns:
        `counts` by status; `structure` and `controls`, by transform and measure; `claims`;
            `groups`; `power`.
    """
    there = analysed(adapters)
    found = structure(there, transforms)
    most = max(found, key=lambda row: row["found"])["transform"]
    return {
        "counts": dict(Counter(each["status"] for each in adapters).most_common()),
        "clusters": len({each["entry"]["cluster"] for each in there}),
        "matrices": sum(len(each["matrices"]) for each in there),
        "structure": found,
        "measures": measures(there, transforms),
        "claims": claims(there, transforms[0]),
        "groups": groups(there, dict.fromkeys([transforms[0], most])),
        "power": power(there, transforms),
    }


def analysed(adapters: Iterable[Data]) -> list[Data]:
    """Return the adapters that were analysed."""
    return [each for each in adapters if each["status"] == "analysed"]


def mark_copies(adapters: Iterable[Data]) -> None:
    """Give what has the tensors of an earlier one the status `duplicate`, in place."""
    seen: dict[str, Data] = {}
    for each in adapters:
        if each["status"] == "analysed":
            first = seen.setdefault(each["sha256"], each)
            if first is not each:
                why = f"the same tensors as {first['entry']['name']}"
                each |= {"status": "duplicate", "why": why}


# ---- Structure beyond the null -------------------------------------------------------------------


def structure(adapters: Sequence[Data], transforms: Sequence[str]) -> list[Data]:
    """Count adapters that differ from their null under each transform, and mark each, in place.

    An adapter's p is the smaller of both PRIMARY measures of its mean over matrices (Holm); it is
    structured where p passes Benjamini and Hochberg's procedure over all adapters (J. R. Stat. Soc.
    B 57, 1995). Each adapter gets `structured`, by transform: p, q and whether q < LEVEL.
    """
    rows = []
    for key in transforms:
        ps = [
            min(holm([each["mean"][key][measure]["p"] for measure in PRIMARY])) for each in adapters
        ]
        qs = stats.false_discovery_control(ps).tolist() if ps else []
        for each, p, q in zip(adapters, ps, qs, strict=True):
            each.setdefault("structured", {})[key] = {"p": p, "q": q, "found": q < LEVEL}
        found = [float(q < LEVEL) for q in qs]
        by_cluster = _by_cluster(adapters, found)
        share, low, high = wilson(sum(by_cluster), len(by_cluster))
        alone = [
            min(holm([m["spectra"][key][measure]["p"] for measure in PRIMARY])) < LEVEL
            for each in adapters
            for m in each["matrices"]
        ]
        rows.append(
            {
                "transform": key,
                "adapters": len(adapters),
                "found": int(sum(found)),
                "nominal": sum(p < LEVEL for p in ps),
                "share": share,
                "low": low,
                "high": high,
                "clusters": len(by_cluster),
                "matrices": len(alone),
                "matrices_nominal": int(sum(alone)),
            }
        )
    return rows


def wilson(count: float, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return a share and its interval (Wilson, J. Am. Stat. Assoc. 22, 1927); NaN of nothing."""
    if not n:
        return (float("nan"),) * 3
    z, share = float(stats.norm.ppf((1 + level) / 2)), count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _by_cluster(adapters: Sequence[Data], values: Iterable[float]) -> list[float]:
    """Return the mean of each cluster."""
    found: dict[str, list[float]] = {}
    for each, value in zip(adapters, values, strict=True):
        found.setdefault(each["entry"]["cluster"], []).append(value)
    return [float(np.mean(of_one)) for of_one in found.values()]


def over_clusters(adapters: Sequence[Data], values: Sequence[float | None]) -> Data:
    """Return mean, 95 % interval over clusters (Student), their number, and that of adapters."""
    known = [(a, float(v)) for a, v in zip(adapters, values, strict=True) if v is not None]
    means = _by_cluster([a for a, _ in known], [v for _, v in known])
    low, high = (interval(means) if len(means) > 1 else None) or (None, None)
    mean = float(np.mean(means)) if means else None
    return {"mean": mean, "low": low, "high": high, "clusters": len(means), "adapters": len(known)}


def measures(adapters: Sequence[Data], transforms: Sequence[str]) -> list[Data]:
    """Return each measure of the means over matrices, and its distance to its null."""
    rows = []
    for key in transforms:
        for measure in adapters[0]["mean"][key] if adapters else ():
            values = [each["mean"][key][measure] for each in adapters]
            row: Data = {"transform": key, "measure": measure}
            row |= {
                "value": over_clusters(adapters, [v["value"] for v in values]),
                "null": over_clusters(adapters, [v["null"] for v in values]),
                "gap": over_clusters(adapters, [v["value"] - v["null"] for v in values]),
                "order": over_clusters(adapters, [v["value"] - v["shuffled"] for v in values]),
                "far": sum(v["z"] is not None and abs(v["z"]) > 3 for v in values),
            }
            rows.append(row)
    return rows


# ---- SpectralLoRA's claims -----------------------------------------------------------------------

CLAIMS: dict[str, tuple[str, str]] = {
    "energies": ("pearson", "energies of singular values and coefficients, r"),
    "k90_stable_rank": ("spearman", "k90 and stable rank, rho"),
    "k90_effective_rank": ("spearman", "k90 and effective rank, rho"),
    "k90_block": ("spearman", "k90 and depth, rho"),
}


def claims(adapters: Sequence[Data], transform: str) -> list[Data]:
    """Return correlations within adapters beside the same of their nulls."""
    rows = []
    for pair, (statistic, words) in CLAIMS.items():
        found = [each["correlation"][transform].get(pair, {}).get(statistic) for each in adapters]
        known = [
            (each, one)
            for each, one in zip(adapters, found, strict=True)
            if one and one["value"] is not None and one["null"] is not None
        ]
        of = [each for each, _ in known]
        rows.append(
            {
                "pair": pair,
                "words": words,
                "value": over_clusters(of, [one["value"] for _, one in known]),
                "null": over_clusters(of, [one["null"] for _, one in known]),
                "gap": over_clusters(of, [one["value"] - one["null"] for _, one in known]),
            }
        )
    return rows


# ---- Groups --------------------------------------------------------------------------------------


def groups(adapters: Sequence[Data], transforms: Iterable[str]) -> list[Data]:
    """Return k90 less its null by architecture, rank, size, kind of module and depth.

    Of modules and depths, the mean over the adapter's matrices of that sort is its value. Rows have
    `value` and `null` of the first transform, and of each transform `gap_<transform>`.
    """
    first, *_ = transforms = list(transforms)
    sorts: dict[str, Callable[[Data, Data], str | None]] = {
        "architecture": lambda adapter, _: architecture(adapter),
        "rank": lambda _, matrix: str(matrix["numerical_rank"]),
        "size": lambda _, matrix: " x ".join(map(str, matrix["shape"])),
        "module": lambda _, matrix: matrix["kind"].rpartition(".")[2],
        "depth": lambda adapter, matrix: _depth(adapter, matrix["block"]),
    }
    rows = []
    for name, sort in sorts.items():
        members: dict[str, dict[int, list[Data]]] = {}
        for i, adapter in enumerate(adapters):
            for matrix in adapter["matrices"]:
                value = sort(adapter, matrix)
                if value is not None:
                    members.setdefault(value, {}).setdefault(i, []).append(matrix)
        for value, of_adapters in sorted(members.items(), key=_in_order):
            there = [adapters[i] for i in of_adapters]
            row: Data = {"by": name, "name": value}
            row["matrices"] = sum(map(len, of_adapters.values()))
            for key in transforms:
                k90 = [[m["spectra"][key]["k90"] for m in ms] for ms in of_adapters.values()]
                means = {
                    field: [float(np.mean([one[field] for one in each])) for each in k90]
                    for field in ("value", "null")
                }
                if key == first:
                    row |= {field: over_clusters(there, each) for field, each in means.items()}
                gaps = [v - n for v, n in zip(means["value"], means["null"], strict=True)]
                row[f"gap_{key}"] = over_clusters(there, gaps)
            rows.append(row)
    return rows


def architecture(adapter: Data) -> str:
    """Return what a base model is of, `distilbert`, by the first word of its name.

    It is a few plain letters, whatever a stranger calls it: figures are labelled with it.
    """
    about, facts = adapter["entry"]["about"], adapter["facts"]
    said = (
        about.get("architecture") or about.get("base") or facts.get("base_model_name_or_path", "")
    )
    name = re.split(r"[/\\]", str(said).strip("/\\"))[-1].lower()
    word = re.match(r"[a-z0-9]{1,24}", name)
    return word[0] if word else UNKNOWN


def _depth(adapter: Data, block: int | None) -> str | None:
    blocks = {m["block"] for m in adapter["matrices"]} - {None}
    if block is None or len(blocks) < 3:
        return None
    return DEPTHS[sorted(blocks).index(block) * 3 // len(blocks)]


def _in_order(item: tuple[str, Any]) -> tuple[float, str]:
    number = re.match(r"\d+", item[0])
    place = DEPTHS.index(item[0]) if item[0] in DEPTHS else -len(item[1])
    return (float(number[0]) if number else place), item[0]


# ---- What would have been seen -------------------------------------------------------------------


def power(adapters: Sequence[Data], transforms: Sequence[str]) -> list[Data]:
    """Return the share of adapters in which structure that was planted was found, p < LEVEL."""
    found: dict[tuple[str, float, str], list[float]] = {}
    for each in adapters:
        for row in each["planted"]:
            of = (row["kind"], row["strength"], row["transform"])
            found.setdefault(of, []).append(float(row["p"] < LEVEL))
    order = sorted(found, key=lambda of: (list(KINDS).index(of[0]), of[1], transforms.index(of[2])))
    return [
        {
            "kind": of[0],
            "strength": of[1],
            "transform": of[2],
            "adapters": len(found[of]),
            **dict(
                zip(("share", "low", "high"), wilson(sum(found[of]), len(found[of])), strict=True)
            ),
        }
        for of in order
    ]


def for_tails(adapters: Sequence[Data], count: int = 5) -> list[tuple[int, str]]:
    """Choose matrices of different sizes and ranks, each of another adapter: place and layer."""
    every = sorted(
        (int(np.prod(m["shape"])), m["numerical_rank"], i, m["layer"])
        for i, each in enumerate(adapters)
        if each["status"] == "analysed"
        for m in each["matrices"][:1]
        if _varies(m)
    )
    places = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int))
    return [every[place][2:] for place in places]


def _varies(matrix: Data) -> bool:
    """Tell whether the nulls of a matrix differ from draw to draw; of 1 x 1 they do not."""
    return all(values[key]["sd"] for values in matrix["spectra"].values() for key in PRIMARY)
