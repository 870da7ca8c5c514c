"""zoo: train any network in any parameterization of its weights."""

import re
import sys
from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"

MOVED = {
    "bases.frequencies": "bases",
    "bases.transforms": "bases.cosine",
    "callbacks": "training.callbacks",
    "convert": "layers.convert",
    "data": "training.data",
    "frequencies": "bases",
    "lab": "studies, and what reads a run in zoo.runs",
    "linear": "layers.linear",
    "loader": "training.data",
    "module": "training.module",
    "optimizers": "training.optimizers",
    "training.loader": "training.data",
    **{
        f"parameterizations.{name}": "parameterizations"
        for name in (
            "block_dct",
            "dct",
            "lora",
            "orthonormal",
            "randlora",
            "random_orthonormal",
            "row_dct",
            "sparse",
            "zigzag",
        )
    },
}
"""Where modules are now that files of a user's own may import from their earlier place."""

BY_FILE = re.compile(r"zoo\.parameterizations\.[a-z_]+\.([A-Z]\w*)")
"""A parameterization by the file it lay in, as checkpoints of networks made in Python had it."""


def path_today(path: Any) -> Any:
    """Return the path by which a parameterization is known today, also in nested settings.

    Whatever else a file holds stays as it is.
    """
    if isinstance(path, dict):
        return {key: path_today(value) for key, value in path.items()}
    named = BY_FILE.fullmatch(path) if isinstance(path, str) else None
    return f"zoo.parameterizations.{named[1]}" if named else path


class Moved:
    """Finds nothing, and says of a module that has moved where it is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: object = None
    ) -> None:
        """Never a spec.

        Raises:
            ModuleNotFoundError: naming the new place of a module that has moved.
        """
        package, _, name = fullname.partition(".")
        if package == "zoo" and name in MOVED:
            raise ModuleNotFoundError(f"{fullname} is zoo.{MOVED[name]} now", name=fullname)


sys.meta_path.append(Moved())  # last: whatever is there is found before
