"""What an adapter is, whatever wrote it: updates of layers, and what else was trained."""

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError
from zoo.parameterizations import Dense, LoRA
from zoo.parameterizations.factory import ParameterizationFactory, factory_class

CONFIG, TENSORS, BINARY = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""What peft puts before the names of the backbone."""
Change = Callable[[Tensor], Tensor]


class Update(ABC):
    """What an adapter adds to the weight of one layer, and the parameterization that holds it."""

    shape: tuple[int, int] | None = None
    """(out_features, in_features), if the adapter says it."""
    of_base: bool = False
    """Whether dW cannot be known without W0."""

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether a weight can be (out_features, in_features) = `shape`."""
        return self.shape == shape

    def size(self) -> str:
        """Write the size that the weight has, as far as it is known."""
        return "of another size" if self.shape is None else str(self.shape)

    @abstractmethod
    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        """Return dW of this shape, float32; of a map `of_base` it takes W0."""

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """Return the numbers that were read."""

    def factory(self) -> ParameterizationFactory:
        """Return what makes the parameterization of a layer that is to hold the update.

        Here it is every weight of dW, as of what zoo has no coefficients for.
        """
        return Dense

    def fill_(self, p: Any, base: Tensor, scale: float) -> None:
        """Set the coefficients of a parameterization that `factory` has made.

        Args:
            p: the parameterization.
            base: W0 of its layer.
            scale: s of its layer.
        """
        p.coef.copy_(self.matrix(p.shape, base) / scale)


@dataclass(frozen=True, eq=False)
class Factors(Update):
    """An update of factors: dW = scale B A, with A (r, in_features) and B (out_features, r)."""

    A: Tensor
    B: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Return (out_features, in_features)."""
        return len(self.B), self.A.shape[1]

    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        return self.scale * (self.B.float() @ self.A.float())

    def tensors(self) -> Iterable[Tensor]:
        return self.A, self.B

    def factory(self) -> ParameterizationFactory:
        """Return LoRA of this rank."""
        return functools.partial(LoRA, rank=len(self.A))

    def fill_(self, p: Any, base: Tensor, scale: float) -> None:
        """Copy the factors; a scale other than the layer's goes into B."""
        p.lora_A.copy_(self.A)
        p.lora_B.copy_(self.B * (self.scale / scale))


class OfStack(Factors):
    """The update of one of several matrices that a network has in one parameter."""


@dataclass(frozen=True, eq=False)
class Mapped(Update):
    """An update that one of zoo's parameterizations makes of coefficients: dW = scale W.

    Args:
        made_by: the class, with its settings but for the shape.
        coefficients: by the parameters' names; or how they follow from the layer's W0.
        shape: (out_features, in_features), if the adapter says it.
        read: the numbers that were read, of coefficients that follow from W0.
        scale: s; 1 in peft's formats, whose scales are in the coefficients or settings.
        layer: the layer's name, from which random positions follow.
        fingerprint: of the map's fixed part, if the adapter says it.
    """

    made_by: ParameterizationFactory
    coefficients: Mapping[str, Tensor] | Callable[[Tensor], Mapping[str, Tensor]]
    shape: tuple[int, int] | None = None
    read: Sequence[Tensor] = ()
    scale: float = 1.0
    layer: str = ""
    fingerprint: str | None = None

    @property
    def of_base(self) -> bool:  # type: ignore[override]
        """Return whether dW cannot be known without W0."""
        return factory_class(self.made_by).needs_base or callable(self.coefficients)

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether the class has coefficients of this many numbers for the shape."""
        if self.shape is not None and self.shape != shape:
            return False
        try:
            with torch.device("meta"):
                given = self._given(torch.empty(shape))
                mine = dict(self.made_by(*shape).named_parameters())
        except (ValueError, RuntimeError):
            return False
        return {name: p.shape for name, p in mine.items()} == {
            name: tensor.shape for name, tensor in given.items()
        }

    def matrix(self, shape: tuple[int, int], base: Tensor | None = None) -> Tensor:
        p = self.made_by(*shape).for_layer(self.layer)
        base = torch.empty(shape, device="meta") if base is None else base.float()
        self.fill_(p, base, self.scale)
        if p.needs_base:
            return (p.effective(base, self.scale) - base).detach()
        return self.scale * p.weight().detach()

    def tensors(self) -> Iterable[Tensor]:
        return self.read if callable(self.coefficients) else self.coefficients.values()

    def factory(self) -> ParameterizationFactory:
        return self.made_by

    @torch.no_grad()
    def fill_(self, p: Any, base: Tensor, scale: float) -> None:
        """Copy the coefficients.

        Raises:
            ValueError: for a layer of another scale.
            UserError: if the map's fixed part was rebuilt otherwise than when it was trained.
        """
        if scale != self.scale:
            raise ValueError(f"the layer's scale must be {self.scale:g}, got {scale:g}")
        if self.fingerprint not in (None, p.fingerprint()):
            raise UserError(
                f"{self.layer}: the coefficients belong to another basis (hash {self.fingerprint}, "
                f"here {p.fingerprint()}): it was made from another W0, or by another version"
            )
        for name, tensor in self._given(base).items():
            p.get_parameter(name).copy_(tensor)

    def _given(self, base: Tensor) -> Mapping[str, Tensor]:
        return self.coefficients(base) if callable(self.coefficients) else self.coefficients


@dataclass(frozen=True)
class Adapter:
    """An adapter as it was read.

    Args:
        config: its adapter_config.json, or what stands for one.
        updates: by the layer's name in the backbone.
        saved: parameters that were trained as they are, such as those of the head, by name.
        bases: weights of layers before their updates, which the backbone must have as well, by the
            layer's name.
        changed: what makes the trained parameter of the backbone's, by name: of a table with a few
            trained rows, or a bias with a trained addition.
    """

    config: dict[str, Any]
    updates: dict[str, Update]
    saved: dict[str, Tensor]
    bases: dict[str, Tensor]
    changed: dict[str, Change] = field(default_factory=dict)


class Found(NamedTuple):
    """What a format's reader has found among an adapter's tensors.

    Args:
        updates: by layer.
        others: tensors that are not its own, by name.
        changed: as an `Adapter` has it.
    """

    updates: dict[str, Update]
    others: dict[str, Tensor]
    changed: Mapping[str, Change] = {}


def by_layer(
    tensors: Mapping[str, Tensor], pattern: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Group tensors by the layer and the part that a pattern finds in their names.

    Args:
        tensors: by name.
        pattern: of a whole name, with a group for the layer and one for the part.

    Returns:
        Parts by layer and part, and the tensors whose names do not match, by name.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(pattern, name):
            layers.setdefault(match[1], {})[match[2]] = tensor
        else:
            others[name] = tensor
    return layers, others


def same_bases(
    where: str, tensors: Mapping[str, Tensor], method: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the matrices A and B that layers share, by letter, and all other tensors by name.

    Raises:
        UserError: if they differ from layer to layer, each of which older files repeat them in.
    """
    shared: dict[str, Tensor] = {}
    others = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"(?:.*\.)?{method}_([AB])(?:\.default)?", name)
        if match is None:
            others[name] = tensor
        elif not same(shared.setdefault(match[1], tensor), tensor):
            raise UserError(f"{where} has other bases in {name} than elsewhere: use another one")
    return shared, others


def finite(update: Update) -> bool:
    """Return whether all numbers of an update are finite."""
    return all(bool(part.isfinite().all()) for part in update.tensors())


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, whatever their dtypes."""
    return a.shape == b.shape and torch.equal(a.float(), b.float())
