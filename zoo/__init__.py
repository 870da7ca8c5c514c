"""zoo: train any network in any parameterization of its weights.

    model = zoo.adapt(model, zoo.DCT, ratio=0.02, targets="query_value")

What this package offers to Python is imported when it is first used: `import zoo` loads no torch.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import hf as hf
    from zoo.api.adapting import adapt as adapt
    from zoo.api.adapting import parameterize as parameterize
    from zoo.api.combining import combine as combine
    from zoo.api.hub import push as push
    from zoo.api.saving import load as load
    from zoo.api.saving import save as save
    from zoo.api.summary import param_groups as param_groups
    from zoo.api.summary import summary as summary
    from zoo.api.summary import trainable as trainable
    from zoo.api.switching import disabled as disabled
    from zoo.api.switching import merged as merged
    from zoo.api.switching import remove as remove
    from zoo.api.switching import rows as rows
    from zoo.api.switching import use as use
    from zoo.errors import UserError as UserError
    from zoo.layers.transfer import scale_from_base_ as scale_from_base_
    from zoo.parameterizations import *  # noqa: F403
    from zoo.studies.analyze.public import analyze as analyze
    from zoo.studies.mask.public import mask as mask
    from zoo.studies.report.public import report as report

__version__ = "0.1.0"

PLACES = {
    "adapt": "zoo.api.adapting",
    "analyze": "zoo.studies.analyze.public",
    "combine": "zoo.api.combining",
    "disabled": "zoo.api.switching",
    "load": "zoo.api.saving",
    "mask": "zoo.studies.mask.public",
    "merged": "zoo.api.switching",
    "param_groups": "zoo.api.summary",
    "parameterize": "zoo.api.adapting",
    "push": "zoo.api.hub",
    "remove": "zoo.api.switching",
    "report": "zoo.studies.report.public",
    "rows": "zoo.api.switching",
    "save": "zoo.api.saving",
    "scale_from_base_": "zoo.layers.transfer",
    "summary": "zoo.api.summary",
    "trainable": "zoo.api.summary",
    "use": "zoo.api.switching",
    "UserError": "zoo.errors",
}
"""Where the functions are that this package offers; classes are parameterizations."""

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

BY_FILE = re.compile(r"zoo\.(?:parameterizations\.[a-z_]+\.)?([A-Z]\w*)")
"""A parameterization as `import zoo` offers it, or by its former file, as in older checkpoints."""


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


def __dir__() -> list[str]:
    """Name what there is, for whoever types `zoo.` and waits."""
    offered = importlib.import_module("zoo.parameterizations").__all__
    return sorted({*globals(), *PLACES, "hf", *offered})


def _offered(name: str) -> Any:
    """Import what the package offers under a name, when it is first used."""
    if name == "hf":
        return importlib.import_module("zoo.hf")
    # By its capital: any other name would load torch to say that it is not there.
    place = PLACES.get(name) or ("zoo.parameterizations" if name[:1].isupper() else None)
    found = getattr(importlib.import_module(place), name, None) if place else None
    if found is None:
        raise AttributeError(
            f"module 'zoo' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    globals()[name] = found
    return found


globals()["__getattr__"] = _offered  # not by its name: mypy would take any attribute for there


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
