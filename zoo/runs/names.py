"""What runs, methods and options are called: in the fewest words that tell them apart."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import UserError
from zoo.files.flat import Flat, frozen
from zoo.files.paths import nickname
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import printable
from zoo.runs.defaults import defaults

if TYPE_CHECKING:
    from zoo.runs.finished_runs import FinishedRun
    from zoo.runs.run import Run

BUDGET_ARGUMENTS = ("ratio", "coefficients", "rank", "lora_rank", "num_bases", "budget")
"""Arguments that say how many coefficients there are, which a method's name always has."""
COUNTS = ("coefficients", "replaced", "trainable", "total")
FIRST = ("identity", "steps")
"""Of two settings that tell runs apart alike, the one to name."""
OURS = re.compile(r"zoo\.parameterizations\.\w+")
"""The path of a class that goes by its name."""
LONG = 200
"""Characters of a setting that are shown."""
AnyRun = TypeVar("AnyRun", bound="Run")


# ---- Settings in words ---------------------------------------------------------------------------


def short(value: object) -> str:
    """Return a setting in a few characters, without blanks at its commas: a class by its name."""
    if isinstance(value, Mapping) and isinstance(path := value.get("class_path"), str):
        return _cut(_class_in_short(path, value.get("init_args") or {}))
    if isinstance(value, Mapping):
        return _cut(" ".join(f"{key} {short(item)}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return _cut("+".join(map(short, value)))
    if isinstance(value, float):
        return f"{value:g}"
    text = printable(value)
    if OURS.fullmatch(text):
        return text.rpartition(".")[2]
    return text[:12] if len(text) == 64 else _cut(text)  # a sha256


def _class_in_short(path: str, arguments: Mapping[str, Any]) -> str:
    """Return `LoRA(rank=4)`, with what is not as it is by default."""
    usual = defaults(path)
    told = [
        f"{key}={short(value)}"
        for key, value in arguments.items()
        if value is not None and usual.get(key) != value
    ]
    return short(path) + (f"({','.join(told)})" if told else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def said(settings: Flat, keys: Iterable[str]) -> list[str]:
    """Return settings as they stand in a name: `steps=400`, and parts of a sum without a key.

    Those of another network, as its width, are told from the run's own: `base_sizes.width=32`.
    """
    found = []
    for key in keys:
        if key in settings:
            owner, _, name = key.rpartition(".")
            word = f"{owner}.{name}" if owner == "base_sizes" else name
            found.append(("" if word == "parts" else f"{word}=") + short(settings[key]))
    return found


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return each dotted name's last words, as few as tell it from the others."""
    parts = {key: key.split(".") for key in keys}
    ends = {
        key: [".".join(words[-n:]) for n in range(1, len(words) + 1)]
        for key, words in parts.items()
    }
    shared = Counter(end for mine in ends.values() for end in mine)
    return {key: next((end for end in mine if shared[end] == 1), key) for key, mine in ends.items()}


# ---- What tells apart ----------------------------------------------------------------------------


def varying(every: Sequence[Flat]) -> list[str]:
    """Return the settings in which some differ."""
    keys = dict.fromkeys(key for settings in every for key in settings)
    return [key for key in keys if len({frozen(settings.get(key)) for settings in every}) > 1]


def besides(every: Sequence[Flat]) -> list[str]:
    """Return those in which methods differ besides parameterization, optimizer and counts.

    What only one of two optimizers has is no difference between them.
    """
    found = []
    for key in varying(every):
        node = key.rpartition(".")[0]
        kinds = {frozen(settings.get(node)) for settings in every}
        alike = [
            {frozen(settings.get(key)) for settings in every if frozen(settings.get(node)) == kind}
            for kind in kinds
        ]
        here = {frozen(settings[key]) for settings in every if key in settings}
        known = key in COUNTS or key == "optimizer" or key.split(".")[0] == "parameterization"
        if not known and (any(len(values) > 1 for values in alike) or len(here) > 1):
            found.append(key)
    return found


def told_apart(names: Sequence[str], every: Sequence[Flat]) -> list[str]:
    """Return names that differ where settings do: `rte / bert, steps=400`.

    Names that are one are told apart by the fewest settings, of which each tells as many more as it
    can; what differs in nothing that is shown is numbered.

    Args:
        names: of what has the settings.
        every: settings, by which it is decided what is the same.
    """
    kinds: dict[tuple[str, Any], Flat] = {}
    for name, settings in zip(names, every, strict=True):
        kinds.setdefault((name, frozen(settings)), settings)
    called: dict[tuple[str, Any], str] = {}
    for name in dict.fromkeys(names):
        same = {kind: settings for kind, settings in kinds.items() if kind[0] == name}
        chosen = _fewest(list(same.values()))
        called |= {kind: ", ".join([name, *said(flat, chosen)]) for kind, flat in same.items()}
    called = dict(zip(called, numbered(list(called.values())), strict=True))
    return [called[name, frozen(settings)] for name, settings in zip(names, every, strict=True)]


def _fewest(every: Sequence[Flat]) -> list[str]:
    """Return the settings by whose words all differ, or as many as can."""
    left = sorted(varying(every), key=lambda key: key not in FIRST)
    chosen: list[str] = []
    while left and _kinds(every, chosen) < len(every):
        best = max(left, key=lambda key: _kinds(every, [*chosen, key]))
        if _kinds(every, [*chosen, best]) == _kinds(every, chosen):
            break  # they differ in nothing that is shown
        chosen.append(best)
        left.remove(best)
    return chosen


def _kinds(every: Sequence[Flat], keys: Sequence[str]) -> int:
    return len({tuple(said(settings, keys)) for settings in every})


def numbered(names: Iterable[str]) -> list[str]:
    """Return names that differ: of those that are equal, the second is called `(2)`."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for name in names:
        seen[name] += 1
        while (called := f"{name} ({seen[name]})" if seen[name] > 1 else name) in found:
            seen[name] += 1
        found.append(called)
    return found


# ---- Methods and runs ----------------------------------------------------------------------------


def method_names(
    groups: Sequence[tuple[Flat, Sequence["FinishedRun"]]], trust: Trust = NOBODY
) -> list[str]:
    """Return `DCT ratio=0.5 muon`: what is trained, its budget, and what is unusual about it here.

    Args:
        groups: settings and runs of each method of a comparison.
        trust: whose classes are imported, to see their defaults.
    """
    every = [settings for settings, _ in groups]
    unusual = besides(every)
    usual = {key: _usual([frozen(settings.get(key)) for settings in every]) for key in unusual}
    bases = len({frozen(settings.get("parameterization.seed")) for settings in every}) > 1
    names = []
    for settings, runs in groups:
        known = defaults(str(settings["parameterization"]), trust)
        shown = []
        for key in settings:
            node, _, name = key.partition(".")
            owner, _, setting = key.rpartition(".")
            # Of a part of the map, whose class stands under the part's own name.
            usual_here = known if owner == node else defaults(str(settings.get(owner)), trust)
            is_told = bases if name == "seed" else usual_here.get(setting) != settings[key]
            if node == "parameterization" and name and (name in BUDGET_ARGUMENTS or is_told):
                shown.append(key)
        words = said(settings, shown)
        words += [runs[0].optimizer] * (runs[0].optimizer != "adamw")
        words += said(settings, [k for k in unusual if frozen(settings.get(k)) != usual[k]])
        names.append(" ".join([str(runs[0].parameterization), *words]))
    return numbered(names)


def _usual(values: Sequence[object]) -> object:
    """Return what more have than anything else; None if there is no such."""
    ranked = [*Counter(values).most_common(2), (None, 0)]
    return ranked[0][0] if ranked[0][1] > ranked[1][1] else None


def label(runs: Sequence[AnyRun]) -> list[AnyRun]:
    """Return the same runs, with names that differ, and groups that do where more than a seed does.

    A group is called by task, network and parameterization; where that is not enough, by the fewest
    other settings that tell: `rte / bert / LoRA rank=8, lr=0.0001`.

    Args:
        runs: as they were read.

    Raises:
        UserError: if two are of one path.
    """
    names = path_names([run.path for run in runs])
    groups = told_apart([run.group for run in runs], [run.settings for run in runs])
    return [
        dataclasses.replace(run, name=name, group=group)
        for run, name, group in zip(runs, names, groups, strict=True)
    ]


def path_names(paths: Sequence[str]) -> list[str]:
    """Return paths in short, with as many of their parts as tell them apart.

    Raises:
        UserError: if two are one.
    """
    names = [printable(nickname(path)) for path in paths]
    longest = max((len(Path(path).absolute().parts) for path in paths), default=0)
    for parts in range(2, 2 + longest):
        names = [
            printable(nickname(path, parts)) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    if same := [path for name, path in zip(names, paths, strict=True) if names.count(name) > 1]:
        raise UserError(f"{same[0]!r} and {same[1]!r} are the same: give each once")
    return names
