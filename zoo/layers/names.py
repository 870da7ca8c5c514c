"""Names of layers: which of them a glob matches, and what a name says of its layer."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


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
    """List layer names with block numbers folded: `blocks.*.attn.qkv, head`."""
    folded = (
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    return ", ".join(dict.fromkeys(folded)) or "none"
