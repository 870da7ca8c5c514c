"""Names of layers: which of them a glob matches, and what a name says of its layer."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

MOST_NUMBERS = 12
"""With how many names layers are listed that end in a number."""


def matches(name: str, pattern: str) -> bool:
    """Tell whether a glob matches a dotted module name, whole or from any dot on.

    `*` crosses dots: `blocks.*` is every layer in the blocks, `attn.*` or `proj` every layer so
    called.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[i:]), pattern) for i in range(len(parts)))


def matches_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Tell whether one of several globs matches one of the names that a module goes by."""
    return any(matches(name, pattern) for name in names for pattern in patterns)


def kind(name: str) -> str:
    """Name what a layer is, whichever block it is in: `blocks.3.attn.qkv` is an `attn.qkv`."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :]) or name


def block(name: str) -> int | None:
    """Return the number of a layer's block: 3 for `blocks.3.attn.qkv`, None for `head`."""
    return next((int(part) for part in reversed(name.split(".")) if part.isdigit()), None)


def summary(names: Iterable[str]) -> str:
    """List layer names with block numbers folded: `blocks.*.attn.qkv, head`.

    A number at the end is all that a layer is called, as in an `nn.Sequential`, and stays unless
    there are many.
    """
    names = list(names)
    listed = dict.fromkeys(folded(name, but=1) for name in names)
    if len(listed) > MOST_NUMBERS:
        listed = dict.fromkeys(map(folded, names))
    return ", ".join(listed) or "none"


def folded(name: str, but: int = 0) -> str:
    """Write `*` for each number in a name but for so many parts at its end."""
    parts = name.split(".")
    stars = ("*" if part.isdigit() else part for part in parts[: len(parts) - but])
    return ".".join([*stars, *parts[len(parts) - but :]])
