"""What comparisons and methods are called: by what they are of, and by the fewest settings that tell them apart."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from zoo.files.trust import NOBODY, Trust
from zoo.runs.experiments import Run
from zoo.runs.settings import Flat, defaults, frozen

BUDGETS = ("ratio", "coefficients", "rank", "lora_rank", "num_bases")
"""Arguments that a method's name always has."""
COUNTS = ("coefficients", "replaced", "trainable", "total")
FIRST = ("identity", "steps")
"""Of two settings that tell comparisons apart alike, the one to name."""
LONG = 200
"""Characters of a setting that are shown."""


def varying(settings: Sequence[Flat]) -> list[str]:
    """The settings in which some differ."""
    keys = dict.fromkeys(key for flat in settings for key in flat)
    return [key for key in keys if len({frozen(flat.get(key)) for flat in settings}) > 1]


def besides(settings: Sequence[Flat]) -> list[str]:
    """Those in which methods differ besides parameterization, optimizer and counts.

    What only one of two optimizers has is no difference between them.
    """
    found = []
    for key in varying(settings):
        node = key.rpartition(".")[0]
        kinds = {frozen(flat.get(node)) for flat in settings}
        alike = [[flat for flat in settings if frozen(flat.get(node)) == kind] for kind in kinds]
        known = key in COUNTS or key == "optimizer" or key.split(".")[0] == "parameterization"
        if not known and (
            any(varying(_only(flats, key)) for flats in alike) or len(_shared(settings, key)) > 1
        ):
            found.append(key)
    return found


def _only(settings: Iterable[Flat], key: str) -> list[Flat]:
    return [{key: flat.get(key)} for flat in settings]


def _shared(settings: Iterable[Flat], key: str) -> set[object]:
    """The values of a setting where it is set."""
    return {frozen(flat[key]) for flat in settings if key in flat}


def short(value: object) -> str:
    """A setting in a few characters, without blanks at its commas."""
    if isinstance(value, Mapping):
        return _cut(" ".join(f"{key} {short(item)}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return _cut("+".join(map(short, value)))
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text[:12] if len(text) == 64 else _cut(text)  # a sha256


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def said(flat: Flat, keys: Iterable[str]) -> list[str]:
    """Settings as they stand in a name: `steps=400`."""
    return [f"{key.rpartition('.')[2]}={short(flat[key])}" for key in keys if key in flat]


def comparison_names(firsts: Sequence[Run]) -> list[str]:
    """Of comparisons: what they are of, and of several with one name the fewest settings that tell them apart.

    Args:
        firsts: one run of each.
    """
    names = []
    for run in firsts:
        same = [other.conditions for other in firsts if other.subject == run.subject]
        left = sorted(varying(same), key=lambda key: key not in FIRST)
        chosen: list[str] = []
        while left and _kinds(same, chosen) < len(same):
            best = max(left, key=lambda key: _kinds(same, [*chosen, key]))  # noqa: B023
            if _kinds(same, [*chosen, best]) == _kinds(same, chosen):
                break  # they differ in nothing that is shown
            chosen.append(best)
            left.remove(best)
        names.append(", ".join([run.subject, *said(run.conditions, chosen)]))
    return _numbered(names)


def _kinds(settings: Sequence[Flat], keys: Sequence[str]) -> int:
    return len({tuple(said(flat, keys)) for flat in settings})


def method_names(groups: Sequence[tuple[Flat, Sequence[Run]]], trust: Trust = NOBODY) -> list[str]:
    """`DCT ratio=0.5 muon`: parameterization, budget, arguments that are no defaults, optimizer, what is unusual here.

    Args:
        groups: settings and runs of each method of a comparison.
        trust: whose classes are imported, to see their defaults.
    """
    flats = [flat for flat, _ in groups]
    unusual = besides(flats)
    usual = {key: _usual([frozen(flat.get(key)) for flat in flats]) for key in unusual}
    bases = len({frozen(flat.get("parameterization.seed")) for flat in flats}) > 1
    names = []
    for flat, runs in groups:
        known = defaults(str(flat["parameterization"]), trust)
        arguments = {
            key: key.removeprefix("parameterization.")
            for key in flat
            if key.startswith("parameterization.")
        }
        told = said(
            flat,
            [
                key
                for key, name in arguments.items()
                if name in BUDGETS or (bases if name == "seed" else known.get(name) != flat[key])
            ],
        )
        told += [runs[0].optimizer] * (runs[0].optimizer != "adamw")
        told += said(flat, [key for key in unusual if frozen(flat.get(key)) != usual[key]])
        names.append(" ".join([runs[0].parameterization, *told]))
    return _numbered(names)


def _usual(values: Sequence[object]) -> object:
    """What more have than anything else; None if there is no such."""
    ranked = [*Counter(values).most_common(2), (None, 0)]
    return ranked[0][0] if ranked[0][1] > ranked[1][1] else None


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that differ: of those that are equal, the second is called `(2)`."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return found
