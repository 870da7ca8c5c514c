"""The linear layer whose weight is parameterized: y = x (W0 + s W)^T + b."""

from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from zoo.bases.seeds import without_autocast
from zoo.layers.kept import WeightKeeper, product_dtype
from zoo.layers.plain_linear import make_plain, take_place
from zoo.layers.recompute import multiply_and_recompute, would_save_weight
from zoo.layers.weight_view import WeightView
from zoo.parameterizations import WeightParameterization

NOT_OF_A_PLAIN_LAYER = {
    "scale",
    "recompute",
    "replaced",
    "stores_base",
    "dense_phase",
    "parameterization",
    "_kept",
    "_built",
}
"""Attributes of a parameterized layer that the plain one in its place does not get."""


Then = Literal["frozen", "projected"]
"""After a dense phase W0 stays, frozen, and W starts at 0; or W starts as the projection of W0."""


class ZooLinear(WeightKeeper):
    """A linear layer over a `WeightParameterization`, from scratch or an update of frozen weights.

        from scratch  y = x W^T + b
        update        y = x W0^T + b + s x W^T,  W = 0 at the start

    Not a parametrization of `nn.Linear`: low-rank maps keep their matrix-free path, and W is built
    once per forward, or kept from one to the next in eval mode (`zoo.layers.kept`). In a state dict
    W0 is called `weight`, so that a dense checkpoint loads by name; the attribute `weight` is what
    modules that hold a layer want of it, W0 + s W (`zoo.layers.weight_view`), and W0 is `base`.

    In its dense phase (`begin_dense`) the layer is y = x W0^T + b and W0 is trained, while the
    coefficients wait.

    Args:
        parameterization: W, of shape (out_features, in_features).
        bias: (out_features,), or None; trained, unless it is a parameter that is frozen already. A
            parameter stays the same one.
        weight: W0 of W's shape, or None for a layer from scratch; may be of another dtype than W. A
            parameter stays the same one, trained if it is; a tensor becomes a frozen one.
        scale: s.
        recompute: build W whenever it is needed, also in backward (`zoo.layers.recompute`), and
            never keep it. Nor in eval mode: a validation would take the memory that training saves.

    Raises:
        ValueError: if a shape does not fit.
    """

    bias: nn.Parameter | None
    stores_base = False
    """Whether W0 is in every checkpoint, since no seed and no file brings it back."""
    dense_phase: Then | None = None
    """What comes after the dense phase that the layer is in; None if it is in none."""
    _is_replica = False  # `nn.DataParallel` sets it

    def __init__(
        self,
        parameterization: WeightParameterization,
        bias: Tensor | None = None,
        weight: Tensor | None = None,
        scale: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        shape = parameterization.shape
        for name, value, fits in (("weight", weight, shape), ("bias", bias, shape[:1])):
            if value is not None and tuple(value.shape) != fits:
                raise ValueError(f"{name} must have shape {fits}, got {tuple(value.shape)}")
        self.out_features, self.in_features = shape
        self.scale = scale
        self.recompute = recompute
        # Not by register_parameter, which takes the property of this name for another attribute.
        self._parameters["weight"] = _parameter(weight, trained=False)
        self.register_parameter("bias", _parameter(bias, trained=True))
        self.parameterization = parameterization
        self.replaced: type[nn.Module] = nn.Linear  # what `zoo.layers.convert.merge` gives back

    # ---- The product -----------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x, (..., in_features), by the weight; (..., out_features)."""
        if self.dense_phase is not None:
            return F.linear(x, self._parameters["weight"], self.bias)  # type: ignore[arg-type]
        if not is_compiling() and not self._is_replica:  # a replica lives for one pass
            if self.training:
                self._kept.forget()  # Lightning goes back to training without a call of train
            elif (weight := self._kept.weight_for(self, x)) is not None:
                return F.linear(x, weight, self._parameters["bias"])  # self.bias is slow to look up
        if self._built is not None and self._built.dtype == product_dtype(x):
            return F.linear(x, self._built, self.bias)
        if self.recompute and would_save_weight(self.parameterization, x):
            return multiply_and_recompute(self._product, x, *self.parameters())
        return self._product(x)

    def _product(self, x: Tensor, *parameters: Tensor) -> Tensor:
        if self.base is not None:
            return self.parameterization.forward_update(x, self.base, self.bias, self.scale)
        if self.scale == 1.0:
            return self.parameterization(x, self.bias)
        return F.linear(x, self.effective_weight(), self.bias)

    # ---- The weight ------------------------------------------------------------------------------

    def update(self) -> Tensor:
        """Build what training added to W0, with the guarantees of `effective_weight`.

        It is s W; of a map that knows W0, what `effective` differs from W0 by. In a dense phase
        nothing was added yet, and it is W0 itself.
        """
        if self.dense_phase is not None:
            return self.effective_weight()
        if self.base is not None and self.parameterization.needs_base:
            return self.effective_weight() - self.base
        p = next(self.parameterization.parameters(), None)  # a replica has none
        with nullcontext() if p is None else without_autocast(p.device):
            w = self.parameterization.weight()
            return w if self.scale == 1.0 else self.scale * w

    def effective_weight(self) -> Tensor:
        """Build the matrix that the layer stands for, W0 + s W; (out_features, in_features).

        It is that of the parameters as they are now, in their dtype: the wider one, if that of W0
        is another. This holds in training and in eval mode, within a forward pass and outside,
        under autocast and without, whatever is kept or was built ahead.
        """
        if self.base is None:
            return self.update()
        if self.dense_phase is not None:
            return self.base
        with without_autocast(self.base.device):
            return self.parameterization.effective(self.base, self.scale)

    def merged_weight(self) -> Tensor:
        """Build `effective_weight` in W0's dtype, if there is a W0, as a merged layer has it."""
        w = self.effective_weight()
        return w if self.base is None else w.to(self.base.dtype)

    @property
    def base(self) -> Tensor | None:
        """W0, (out_features, in_features); None from scratch."""
        return self._parameters["weight"]

    @property
    def weight(self) -> Tensor:
        """`merged_weight` for modules that read it; built when a number of it is asked for."""
        return self.merged_weight() if is_compiling() or self._is_replica else WeightView(self)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        """Set W0 of a replica; a parameter, as tying weights sets it, never gets here."""
        if not self._is_replica:
            raise TypeError(
                "the weight of a parameterized layer cannot be set to a tensor: give a parameter, "
                "its base"
            )
        self._parameters["weight"] = value  # type: ignore[assignment]  # it needs no grad

    # ---- The dense phase -------------------------------------------------------------------------

    def begin_dense(self, then: Then) -> None:
        """Train W0 as it is, and let the coefficients wait, until `end_dense`.

        Args:
            then: what comes after.

        Raises:
            ValueError: if there is no W0.
        """
        space = self.parameterization
        if self.base is None:
            raise ValueError("a layer without a base has no dense phase")
        self.dense_phase = then
        if not space.waiting:  # tied layers share a map
            space.waiting = frozenset(n for n, p in space.named_parameters() if p.requires_grad)
        space.requires_grad_(False)
        self.base.requires_grad_(True)
        self._kept.forget()

    def end_dense(self) -> None:
        """Let the coefficients, whatever they are, be trained, and W0 be frozen or be no more."""
        space, base = self.parameterization, self.base
        for name, p in space.named_parameters():
            if name in space.waiting:
                p.requires_grad_(True)
        space.waiting = frozenset()
        if base is not None:
            base.requires_grad_(False)
            base.grad = None
        if self.dense_phase == "projected":
            self._parameters["weight"] = None
        self.dense_phase = None
        self._kept.forget()

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Make the plain layer that was there before, with the same outputs."""
        plain = make_plain(self.replaced, self.merged_weight(), self.bias)
        take_place(self, plain, besides=NOT_OF_A_PLAIN_LAYER)
        return plain

    def extra_repr(self) -> str:
        """Tell the shape, and whether there is a base and a bias."""
        base = "" if self.base is None else f", base, scale={self.scale}"
        recompute = ", recompute=True" if self.recompute else ""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}{base}{recompute}"


def _parameter(value: Tensor | None, trained: bool) -> nn.Parameter | None:
    if value is None or isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value.detach(), trained)
