"""What a network knows of its adapters: settings, what is trained besides, and what was before."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from zoo.api.arguments import check_network, shown
from zoo.errors import UserError, did_you_mean
from zoo.layers.adapters import Adapters
from zoo.layers.convert import Start, zoo_layers
from zoo.layers.layer import ZooLayer
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.factory import ParameterizationFactory

if TYPE_CHECKING:
    from zoo.runs.adapter_config import About

ATTRIBUTE = "_zoo_adapters"
"""The attribute of a network that has its record."""


@dataclass
class Adapter:
    """One adapter of a network.

    Args:
        factories: what made the map of each layer, by the layer's name.
        scales: s of each layer.
        trained: parameters that are trained besides, by name, with their values where the adapter
            is not in use.
        frozen: whether it is used without being trained.
        about: where it comes from, of one that was loaded.
    """

    factories: dict[str, ParameterizationFactory]
    scales: dict[str, float]
    trained: dict[str, Tensor] = field(default_factory=dict)
    frozen: bool = False
    about: "About | None" = None


@dataclass
class Record:
    """The adapters of a network, and which are in use.

    Args:
        start: what the layers' weights began as (`zoo.layers.convert.convert`).
        needed_grad: names of the parameters that were trained before the network was adapted.
        adapters: by name.
        weights: of the adapters in use; 1 of a single one.
        originals: by name what was there before, of all that any adapter trains besides.
        disabled: whether the network is without any for now (`zoo.disabled`).
        by_rows: whether rows of a batch have one each for now (`zoo.rows`).
    """

    start: Start
    needed_grad: frozenset[str] = frozenset()
    adapters: dict[str, Adapter] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    originals: dict[str, Tensor] = field(default_factory=dict)
    disabled: bool = False
    by_rows: bool = False

    def named(self, name: str) -> Adapter:
        """Return an adapter.

        Raises:
            UserError: if there is none of this name.
        """
        if not isinstance(name, str):
            raise UserError(
                f"an adapter goes by its name, got {shown(name)}: give one of "
                f"{', '.join(self.adapters)}"
            )
        if name not in self.adapters:
            there = f"there are {', '.join(self.adapters)}"
            raise UserError(f"no adapter {name!r}{did_you_mean(name, self.adapters, there)}")
        return self.adapters[name]

    def alone(self) -> str | None:
        """Return the name of the adapter that is in use by itself, whole; None if none is."""
        return next(iter(self.weights)) if list(self.weights.values()) == [1.0] else None

    def in_use(self, name: str | None) -> str:
        """Return a name that was given, or that of the adapter in use.

        Raises:
            UserError: if there is no such adapter, or not one alone in use.
        """
        if name is None and (name := self.alone()) is None:
            raise UserError(
                "not one adapter is in use alone: give a name; there are "
                f"{', '.join(self.adapters)}"
            )
        self.named(name)
        return name


def find_record(model: nn.Module) -> Record | None:
    """Return the record of a network; None if it has no adapters.

    Raises:
        UserError: if it is no network.
    """
    check_network(model)
    found = vars(model).get(ATTRIBUTE)
    return found if isinstance(found, Record) else None


def record_of(model: nn.Module) -> Record:
    """Return the record of an adapted network.

    Raises:
        UserError: if it has none.
    """
    if (found := find_record(model)) is None:
        inside = next((n for n, m in model.named_modules() if find_record(m) is not None), None)
        where = f"; it is in its part {inside!r}: give that" if inside else ""
        remedy = where or "; zoo.adapt(model, zoo.DCT, ratio=0.02) gives it one"
        raise UserError(f"this {type(model).__name__} has no adapter{remedy}")
    return found


def update_record_of(model: nn.Module, what: str) -> Record:
    """Return the record of a network whose adapters are updates of frozen weights.

    Raises:
        UserError: if it was made from scratch.
    """
    record = record_of(model)
    if record.start != "update":
        raise UserError(
            f"{what} takes weights from before training, and this network has none: it was made by "
            "zoo.parameterize, not by zoo.adapt"
        )
    return record


def maps_of(model: nn.Module, name: str) -> dict[str, tuple[ZooLayer, WeightParameterization]]:
    """Return the layers that have a map of this adapter, by name, and the maps."""
    record = record_of(model)
    found: dict[str, tuple[ZooLayer, WeightParameterization]] = {}
    for layer_name, layer in zoo_layers(model).items():
        if layer_name in record.adapters[name].factories:
            space = layer.parameterization
            own = space.of(name) if isinstance(space, Adapters) else space
            assert own is not None
            found[layer_name] = layer, own
    return found


def named_tensors(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the network's parameters and persistent buffers of these names."""
    if not (names := list(names)):
        return {}
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named |= dict(model.named_buffers(remove_duplicate=False))
    return {name: named[name] for name in names}
