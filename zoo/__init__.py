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

MOVED_NAMES = {
    "bases.seeds.dct_matrix": "bases.cosine",
    "layers.convert.blame": "errors",
    "layers.convert.block": "layers.names",
    "layers.convert.factory_class": "parameterizations.factory",
    "layers.convert.kind": "layers.names",
    "layers.convert.matches": "layers.names",
    "parameterizations.low_rank.add_product": "parameterizations.low_rank.products",
    "training.module.fingerprints": "training.checkpoint_state",
    "training.module.plain": "training.checkpoint_state",
}
"""Where functions are now whose earlier module is still there."""

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


def say_where_names_are(module: str) -> None:
    """Have a module say of a function that has moved where it is, by its `__getattr__`.

    Args:
        module: its name.
    """

    def look_up(name: str) -> Any:
        former = f"{module}.{name}"
        if place := MOVED_NAMES.get(former.removeprefix("zoo.")):
            raise ImportError(f"{former} is zoo.{place}.{name} now", name=former)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    # Set from here, since mypy would take any name of a module that defines it.
    vars(sys.modules[module])["__getattr__"] = look_up


sys.meta_path.append(Moved())  # last: whatever is there is found before
