"""What a run is called: by the user, or after its configs and what is changed of them."""

import re
from pathlib import Path

from zoo.errors import UserError

LONGEST = 120
"""Characters of a name that is made of configs."""


def run_name(argv: list[str]) -> str:
    """Name a run after its configs and what is changed of them: `dct_half+ratio=0.1`."""
    pairs = []
    for i, word in enumerate(argv):
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            pairs.append((key, value if equals else (argv[i + 1] if i + 1 < len(argv) else "")))
    stems = [
        Path(value).stem for key, value in pairs if key in ("-c", "--config") and "{" not in value
    ]
    option = "--model.parameterization"
    stems += [value.rpartition(".")[2] for key, value in pairs if key == option]
    stems += [
        f"{key.rpartition('.')[2]}={value}" for key, value in pairs if key.startswith(f"{option}.")
    ]
    return re.sub(r"[^\w.+=-]+", "_", "+".join(stems))[:LONGEST] or "run"


def check_name(name: str) -> None:
    """Refuse what is no name of a folder.

    Raises:
        UserError: saying what it must be.
    """
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"--name is no path, got {name!r}; --trainer.default_root_dir takes one")
    if not name.strip():
        raise UserError(
            f"--name must say something, got {name!r}: leave it out to have the run named after "
            "its config"
        )
    if not name.isprintable() or len(name.encode()) > 200:
        shown = name if len(name) <= 40 else f"{name[:37]}..."
        raise UserError(
            f"--name takes printable characters, 200 bytes at most, got {shown!r} "
            f"({len(name.encode())})"
        )
