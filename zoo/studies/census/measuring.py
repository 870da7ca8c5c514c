"""One adapter of a census: its matrices beside their nulls, with more draws where that matters.

The draws of a null are 20 first. Where a mean over matrices is more than three deviations from its
null, 200 fresh ones decide; and so they do for each matrix alone.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from zoo.files.access import opened
from zoo.runs import adapter_folder, peft, updates
from zoo.runs.peft import Factors
from zoo.runs.peft.adapter import BINARY, TENSORS
from zoo.runs.source import Source, Update, checked
from zoo.studies.analysis import analyze
from zoo.studies.census.entries import Entry, is_adapter
from zoo.studies.census.planted import plants
from zoo.studies.spectra import SPECTRAL_MEASURES, primary_draws
from zoo.studies.statistics import against_null
from zoo.studies.verdicts import PRIMARY, Values

FAR = 3.0
"""Deviations from a null beyond which more draws decide."""
MORE = 200
TAIL_DRAWS = 2000
FACTS = ("task_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
LONGEST = 200
"""Characters of what a file says of itself that are kept."""


def read(entry: Entry) -> tuple[Source, dict[str, Any]]:
    """Return the updates of an adapter, and what its files say of it.

    Raises:
        UserError: if there is nothing to read, or no update in it.
    """
    path = Path(entry.what)
    if entry.before is not None:
        return updates.read(entry.what, before=entry.before), {"format": "pair"}
    if path.is_dir() or is_adapter(path.parent):
        source = updates.read(entry.what)
        config = peft.read(path).config if peft.find(path) is not None else {}
        said = {key: str(config[key])[:LONGEST] for key in FACTS if config.get(key) is not None}
        return source, {"format": str(config.get("peft_type", "zoo"))[:LONGEST], **said}
    adapter = peft.read(path, alpha=entry.alpha or 1.0, enabled=entry.enable_lora)
    found = {
        name: Update(update.scale * update.B.detach(), update.A.detach())
        for name, update in adapter.updates.items()
        if isinstance(update, Factors)
    }
    source = Source(path=entry.what, name=entry.name, what="dW", updates=found, group=entry.name)
    return checked(source), {"format": "loralib"}


def measured(entry: Entry, transforms: Sequence[str], draws: int, seed: int) -> dict[str, Any]:
    """Analyse an adapter; what a census keeps of it, as plain data.

    Args:
        entry: of an adapter that is there.
        transforms: names of `zoo.bases.TRANSFORMS`.
        draws: of each null, first.
        seed: of the nulls and of what is planted.

    Returns:
        `facts`; `matrices`, each with layer, block, kind, shape, ranks and PRIMARY measures;
            `mean`, all measures of the mean over them; `correlation`; `planted`; `notes`.

    Raises:
        UserError: as `read`.
    """
    source, facts = read(entry)
    source = dataclasses.replace(source, name=entry.name, group=entry.name)
    run = analyze([source], transforms, draws, seed)["runs"][0]
    mean = _with(run["averages"]["run"]["all"]["spectra"], draws)
    matrices = [
        {
            **{key: m[key] for key in ("layer", "block", "kind", "shape", "norm")},
            **{key: m[key] for key in ("stable_rank", "effective_rank", "numerical_rank")},
            "spectra": _with(m["spectra"], draws, PRIMARY),
        }
        for m in run["matrices"]
    ]
    every = [*source.updates.values()]
    planted = plants(every, mean, draws, transforms, seed)
    far = [key for key in transforms if _is_far(mean[key])]
    if far:
        null = primary_draws(every, far, MORE, seed + 1)
        for j, key in enumerate(far):
            mean[key] |= _again(mean[key], null[:, j].mean(0))
            for matrix, of_one in zip(matrices, null[:, j], strict=True):
                matrix["spectra"][key] |= _again(matrix["spectra"][key], of_one)
    for matrix in matrices:
        left = [k for k, values in matrix["spectra"].items() if k not in far and _is_far(values)]
        update = source.updates[matrix["layer"]]
        for key, of_one in zip(left, primary_draws([update], left, MORE, seed + 1)[0], strict=True):
            matrix["spectra"][key] |= _again(matrix["spectra"][key], of_one)
    return _short(
        {
            "facts": facts,
            "matrices": matrices,
            "mean": mean,
            "correlation": run["correlation"],
            "planted": planted,
            "notes": run["notes"],
        }
    )


def _with(
    spectra: Mapping[str, Values], draws: int, measures: Sequence[str] = SPECTRAL_MEASURES
) -> dict[str, Values]:
    """Return some measures by transform, with the number of draws that their nulls have."""
    return {
        key: {name: {**values[name], "draws": draws} for name in measures}
        for key, values in spectra.items()
    }


def _again(values: Values, null: np.ndarray) -> Values:
    """Hold PRIMARY measures against fresh draws, (B, 2), of the rotation null."""
    return {
        measure: {
            **values[measure],
            **against_null(float(values[measure]["value"] or 0.0), null[:, i]),
            "draws": len(null),
        }
        for i, measure in enumerate(PRIMARY)
    }


def _is_far(values: Values) -> bool:
    zs = [values[measure]["z"] for measure in PRIMARY]
    return any(z is not None and abs(z) > FAR for z in zs)


def _short(value: Any) -> Any:
    """Round all numbers to six digits: a journal holds millions."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


# ---- Is the tail Student's? ----------------------------------------------------------------------


def tail(entry: Entry, layer: str, seed: int, draws: int = TAIL_DRAWS) -> dict[str, Any]:
    """Draw a matrix's null many times, and hold it against the law that p-values are from.

    Of 21 draws one is tested against the others, as a matrix is against its null: if draws are
    normal, its t is Student's with 19 degrees of freedom, and p is uniform.

    Returns:
        By PRIMARY measure: skew and excess kurtosis of the draws; tests, below_05 and below_01:
            shares of p; ks, the p of Kolmogorov and Smirnov's test that p is uniform.
    """
    source, _ = read(entry)
    update = source.updates[layer]
    ((null,),) = primary_draws([update], ["dct"], draws, seed + 2)
    found: dict[str, Any] = {}
    for i, measure in enumerate(PRIMARY):
        values = null[:, i]
        groups = values[: len(values) // 21 * 21].reshape(-1, 21)
        ps = np.array([against_null(float(row[0]), row[1:])["p"] for row in groups], float)
        found[measure] = {
            "skew": float(stats.skew(values)),
            "kurtosis": float(stats.kurtosis(values)),
            "tests": len(ps),
            "below_05": float((ps < 0.05).mean()),
            "below_01": float((ps < 0.01).mean()),
            "ks": float(stats.kstest(ps, "uniform").pvalue),
        }
    shape, rank = list(update.shape), int(len(update.singular_values()))
    return _short({"layer": layer, "shape": shape, "rank": rank, "draws": draws, **found})


def digest(entry: Entry) -> str:
    """Hash the files of an adapter's tensors, or of a pair's, by which copies are known."""
    found = hashlib.sha256()
    for what in filter(None, (entry.what, entry.before)):
        for file in _files(Path(what)):
            with opened(file) as stream:
                while block := stream.read(2**20):
                    found.update(block)
    return found.hexdigest()


def _files(path: Path) -> list[Path]:
    """Return an adapter's file, or all that may hold tensors at a path."""
    if not path.is_dir():
        return [path]
    own = [path / name for name in (TENSORS, *adapter_folder.TENSORS, BINARY)]
    there = [file for file in own if file.is_file()][:1]
    ends = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    return there or [f for f in sorted(path.rglob("*")) if f.suffix in ends and f.is_file()]
