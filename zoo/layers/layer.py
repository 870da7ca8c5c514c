"""What every layer with a parameterized weight has: a map, perhaps a frozen W0 beside it, modes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from zoo.bases.seeds import without_autocast
from zoo.layers.base_weight import BaseHolder
from zoo.layers.kept import product_dtype
from zoo.layers.plain import Kind, make_plain
from zoo.layers.recompute import drops, multiply_and_recompute, would_save_weight
from zoo.layers.succession import conflicts, geometry_of, take_place
from zoo.layers.weight_view import WeightView
from zoo.parameterizations import WeightParameterization

OF_A_ZOO_LAYER = {
    "scale",
    "recompute",
    "replaced",
    "stores_base",
    "dense_phase",
    "parameterization",
    "_kept",
    "_built",
    "_aside",
    "_enabled",
    "_route",
}
"""Attributes of a parameterized layer that the plain one in its place does not get."""


Then = Literal["frozen", "projected"]
"""After a dense phase W0 stays, frozen, and W starts at 0; or W starts as the projection of W0."""
Route = Callable[["ZooLayer", Tensor], Tensor]
"""What computes a layer's pass in place of its `forward`, of the layer and x."""


class ZooLayer(BaseHolder, ABC):
    """A layer over a `WeightParameterization`, from scratch or an update of a frozen weight.

    What it computes is what the plain layer in its place does with the matrix

        from scratch  s W
        update        W0 + s W,  W = 0 at the start; or W'(W0, s) of a map that knows W0

    In a state dict W0 is called `weight` and has the plain layer's shape, so that a dense
    checkpoint loads by name; the attribute `weight` is what modules that hold a layer want of it,
    W0 + s W (`zoo.layers.weight_view`), and W0 as a matrix is `base`.

    In its dense phase (`begin_dense`) the layer is the plain one with W0, which is trained, while
    the coefficients wait. Not `enabled`, it is the plain one with W0 too, to the bit.

    Args:
        parameterization: W, of shape (m, n).
        scale: s.
        recompute: build W whenever it is needed, also in backward (`zoo.layers.recompute`), and
            never keep it. Nor in eval mode: a validation would take the memory that training saves.
    """

    kind: ClassVar[Kind]
    geometry: ClassVar[tuple[str, ...]] = ()
    """Attributes that say what the layer is besides its tensors, as in the plain one."""
    multiplies_rows: ClassVar[bool] = False
    """Whether the product is that of the map, x W^T, which a map may have a shortcut for."""
    bias: nn.Parameter | None
    replaced: type[nn.Module]
    """What `zoo.layers.merge.merge` gives back."""
    stores_base = False
    """Whether W0 is in every checkpoint, since no seed and no file brings it back."""
    dense_phase: Then | None = None
    """What comes after the dense phase that the layer is in; None if it is in none."""
    _enabled = True
    _route: Route | None = None
    _aside = False  # whether a pass goes another way than that of the layer's own map
    _is_replica = False  # `nn.DataParallel` sets it

    def __init__(
        self, parameterization: WeightParameterization, scale: float, recompute: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.recompute = recompute
        # Not by register_parameter, which takes the property of this name for another attribute.
        self._parameters["weight"] = None
        self.register_parameter("bias", None)
        self.parameterization = parameterization

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def product(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        """Return the layer's output with the map `space` in place of its own, and s = `scale`.

        Nothing is kept for it or taken from what is kept. Rows of a batch may each have a map.
        """

    @abstractmethod
    def base_product(self, x: Tensor) -> Tensor:
        """Return what the plain layer with W0 computes, to the bit."""

    @abstractmethod
    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the plain layer computes with a matrix, (m, n)."""

    # ---- A subclass may override -----------------------------------------------------------------

    @property
    def builds_weight(self) -> bool:
        """Whether `product` is with a W that is built, which the layer may then keep."""
        return self.parameterization.builds_weight

    def product_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype that a weight needs to be in for a product with x."""
        return product_dtype(x)

    # ---- The pass --------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output."""
        if self._aside:
            return self._pass_aside(x)
        if not is_compiling() and not self._is_replica:  # a replica lives for one pass
            if self.training:
                self._kept.forget()  # Lightning goes back to training without a call of train
            elif (weight := self._kept.weight_for(self, x)) is not None:
                # self.bias is slow to look up.
                return self._multiply(x, weight, self._parameters["bias"])
        if self._built is not None and self._built.dtype == self.product_dtype(x):
            return self._multiply(x, self._built, self.bias)
        if self.recompute and self.builds_weight and would_save_weight(x):
            space, product = self.parameterization, self._own_product
            return multiply_and_recompute(product, x, *self.parameters(), space=space)
        return self.product(x, self.parameterization, self.scale)

    def _own_product(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return self.product(x, self.parameterization, self.scale)

    def _pass_aside(self, x: Tensor) -> Tensor:
        if self._enabled and self.dense_phase is None:
            assert self._route is not None
            return self._route(self, x)
        return self.base_product(x)

    @property
    def enabled(self) -> bool:
        """Whether the layer has its map; otherwise it is the plain layer with W0.

        `update()` is 0 then. Only a layer that has a W0 can be without its map.
        """
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if not value and not self.has_base:
            raise ValueError("a layer without a base is nothing without its parameterization")
        self._enabled = value
        self._look_aside()

    @property
    def route(self) -> Route | None:
        """What computes every pass in place of the layer's own map; None if that does.

        It is called with the layer and x, and may call `product` with other maps for parts of x.
        A layer that is not enabled, or in its dense phase, does not ask it.
        """
        return self._route

    @route.setter
    def route(self, value: Route | None) -> None:
        self._route = value
        self._look_aside()

    def _look_aside(self) -> None:
        self._aside = self._is_base or self._route is not None

    @property
    def _is_base(self) -> bool:
        """Whether the layer is the plain one with W0 for now."""
        return not self._enabled or self.dense_phase is not None

    # ---- The weight ------------------------------------------------------------------------------

    def update(self) -> Tensor:
        """Build what training added to W0, (m, n), with the guarantees of `effective_weight`.

        It is s W; of a map that knows W0, what `effective` differs from W0 by. In a dense phase
        nothing was added yet, and it is W0 itself. Of a layer that is not enabled it is 0.
        """
        space = self.parameterization
        if not self._enabled:
            return torch.zeros(space.shape, dtype=self.base_dtype, device=self.device)
        if self.dense_phase is not None or (self.has_base and space.needs_base):
            base = self.base
            assert base is not None
            return base if self.dense_phase is not None else self._effective(base) - base
        return self.scaled(space, self.scale)

    def effective_weight(self) -> Tensor:
        """Build the matrix that the layer stands for, W0 + s W; (m, n).

        It is that of the parameters as they are now, in their dtype: the wider one, if that of W0
        is another. This holds in training and in eval mode, within a forward pass and outside,
        under autocast and without, whatever is kept or was built ahead. A `route` does not matter.
        """
        base = self.base
        if base is None:
            return self.update()
        return base if self._is_base else self._effective(base)

    @staticmethod
    def scaled(space: WeightParameterization, scale: float) -> Tensor:
        """Build s W of a map that has a W of its own."""
        p = next(space.parameters(), None)  # a replica has none
        with nullcontext() if p is None else without_autocast(p.device):
            w = space.weight()
            return w if scale == 1.0 else scale * w

    def _effective(self, base: Tensor) -> Tensor:
        with without_autocast(base.device):
            return self.parameterization.effective(base, self.scale)

    def merged_weight(self) -> Tensor:
        """Build `effective_weight` in W0's dtype, if there is a W0, as a merged layer has it."""
        w = self.effective_weight()
        return w.to(self.base_dtype) if self.has_base else w

    @property
    def weight(self) -> Tensor:
        """`merged_weight` for modules that read it, in the shape that the plain layer has it in.

        It is built when a number of it is asked for.
        """
        return self._read_weight()

    @weight.setter
    def weight(self, value: Tensor) -> None:
        """Set W0 of a replica; a parameter, as tying weights sets it, never gets here."""
        if not self._is_replica:
            raise TypeError(
                "the weight of a parameterized layer cannot be set to a tensor: give a parameter, "
                "its base"
            )
        self._parameters["weight"] = value  # type: ignore[assignment]  # it needs no grad

    def _read_weight(self) -> Tensor:
        base = self._parameters.get("weight")
        if base is not None and (self._is_base or hasattr(base, "_local_tensor")):
            return base  # also a part of it, which FSDP asks for between passes
        if is_compiling() or self._is_replica:
            return self.as_stored(self.merged_weight())
        return WeightView(self)

    # ---- The dense phase -------------------------------------------------------------------------

    def begin_dense(self, then: Then) -> None:
        """Train W0 as it is, and let the coefficients wait, until `end_dense`.

        Args:
            then: what comes after.

        Raises:
            ValueError: if there is no W0.
        """
        space = self.parameterization
        if not self.has_base:
            raise ValueError("a layer without a base has no dense phase")
        self.dense_phase = then
        self._look_aside()
        if not space.waiting:  # tied layers share a map
            space.waiting = frozenset(n for n, p in space.named_parameters() if p.requires_grad)
        space.requires_grad_(False)
        for p in self.base_parameters:
            p.requires_grad_(True)
        self._kept.forget()

    def end_dense(self) -> None:
        """Let the coefficients, whatever they are, be trained, and W0 be frozen or be no more."""
        space = self.parameterization
        for name, p in space.named_parameters():
            if name in space.waiting:
                p.requires_grad_(True)
        space.waiting = frozenset()
        for p in self.base_parameters:
            p.requires_grad_(False)
            p.grad = None
        if self.dense_phase == "projected":
            self._parameters["weight"] = None
        self.dense_phase = None
        self._look_aside()
        self._kept.forget()

    # ---- There and back --------------------------------------------------------------------------

    def conflicts(self, layer: nn.Module) -> list[str]:
        """Name what was set on a plain layer and means something else in this one."""
        return conflicts(layer, self)

    def take_over(self, layer: nn.Module) -> None:
        """Take over what a plain layer has besides its tensors, but for what is in `conflicts`."""
        take_place(layer, self)

    def check_merges(self) -> None:  # noqa: B027  a layer usually does
        """Raise UserError, naming the layer, if it has no plain one to be merged into."""

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Make the plain layer that was there before, with the same outputs."""
        weight, bias = self.as_plain(self.merged_weight()), self.bias
        copied = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        also = None if bias is None else nn.Parameter(bias.detach().to(weight.dtype, copy=True))
        return self._succeeded(make_plain(self.replaced, copied, also, geometry_of(self)))

    def restore(self) -> nn.Module:
        """Make the plain layer that was there before, with W0 and the bias themselves.

        Raises:
            ValueError: if there is no W0.
        """
        (weight,) = self.base_parameters or (None,)
        if weight is None:
            raise ValueError("a layer without a base was no other one before")
        plain = self.as_plain(weight)
        own = weight if plain is weight else nn.Parameter(plain.detach(), weight.requires_grad)
        return self._succeeded(make_plain(self.replaced, own, self.bias, geometry_of(self)))

    def check_map(self, space: WeightParameterization) -> None:  # noqa: B027  any map will do
        """Raise ValueError if a map of the right shape cannot be this layer's."""

    def as_plain(self, matrix: Tensor) -> Tensor:
        """Return a matrix, (m, n), or what is stored of one, as the plain layer keeps it."""
        return self.as_stored(matrix)

    def _succeeded(self, plain: nn.Module) -> nn.Module:
        """Hand on to a plain layer in the place of this one what else this one has."""
        take_place(self, plain, besides=OF_A_ZOO_LAYER)
        return plain

    def extra_repr(self) -> str:
        """Tell the shape, and whether there is a base and a bias."""
        m, n = self.parameterization.shape
        base = f", base, scale={self.scale}" if self.has_base else ""
        recompute = ", recompute=True" if self.recompute else ""
        disabled = "" if self._enabled else ", enabled=False"
        return f"{n}, {m}, bias={self.bias is not None}{base}{recompute}{disabled}"


def zoo_layers(model: nn.Module) -> dict[str, ZooLayer]:
    """Find every parameterized layer by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ZooLayer)}


def refuse_dropout(space: WeightParameterization, what: str) -> None:
    """Raise a ValueError if a map, or a part of it, drops numbers of the rows that it multiplies.

    Args:
        space: the map.
        what: the layer, which has no such rows, as "an embedding".
    """
    if drops(space):
        raise ValueError(f"has a dropout, which {what} has no rows of x for: set it to 0")
