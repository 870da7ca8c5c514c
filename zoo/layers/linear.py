"""The linear layer whose weight is parameterized: y = x (W0 + s W)^T + b."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting
from torch.utils.checkpoint import checkpoint

from zoo.bases.seeds import autocast_dtype
from zoo.bases.vmapped import transforming
from zoo.layers.plain_linear import is_conv1d, take_place
from zoo.layers.watch import Watch
from zoo.layers.weight_view import WeightView
from zoo.parameterizations import WeightParameterization

OWN = {"scale", "recompute", "replaced", "parameterization", "_kept", "_keeps"}
"""What a layer has for itself, and no plain one."""


class Kept(NamedTuple):
    """W0 + s W as a product takes it, and what it follows from."""

    weight: Tensor
    scale: float
    dtype: torch.dtype  # of x
    low: torch.dtype | None  # of autocast
    device: str
    parameterization: WeightParameterization
    watch: Watch


class ZooLinear(nn.Module):
    """A linear layer over a `WeightParameterization`, from scratch or as an update of frozen weights.

        from scratch  y = x W^T + b
        update        y = x W0^T + b + s x W^T,  W = 0 at the start

    Not a parametrization of `nn.Linear`: low-rank maps keep their matrix-free path, and W is built
    once per forward. In a state dict W0 is called `weight`, so that a dense checkpoint loads by
    name; the attribute `weight` is what modules that hold a layer want of it, W0 + s W
    (`zoo.layers.weight_view`), and W0 itself is `base`.

    Where W is built (`WeightParameterization.builds_weight`), backward needs

        dL/dx = dL/dy (W0 + s W),   dL/dW = s (dL/dy)^T x

    and autograd keeps x and W0 + s W for it; with `recompute` x alone, and W is built again from
    its coefficients. No product is computed twice, and gradients are the same to the bit.

    In eval mode, where no gradient is asked for, W0 + s W is built once and kept in the dtype of
    the product, until a parameter, s, a dtype or the device changes or `train` or `eval` is called.
    What autograd's version counters miss needs such a call: a write to `p.data` or into a buffer.
    So do steps of fused optimizers; hence nothing is kept any more, up to such a call, once a
    gradient was asked for in eval mode. With `recompute` nothing is kept here either: a validation
    would take the memory that training saves.

    Args:
        parameterization: W, of shape (out_features, in_features).
        bias: (out_features,), or None; trained, unless it is a parameter that is frozen already. A
            parameter stays the same one.
        weight: W0 of W's shape, or None for a layer from scratch; may be of another dtype than W. A
            parameter stays the same one, trained if it is; a tensor becomes a frozen one.
        scale: s.
        recompute: build W whenever it is needed, and never keep it.

    Raises:
        ValueError: if a shape does not fit.
    """

    bias: nn.Parameter | None
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
        if weight is not None and tuple(weight.shape) != parameterization.shape:
            raise ValueError(
                f"weight must have shape {parameterization.shape}, got {tuple(weight.shape)}"
            )
        if bias is not None and tuple(bias.shape) != parameterization.shape[:1]:
            raise ValueError(
                f"bias must have shape {parameterization.shape[:1]}, got {tuple(bias.shape)}"
            )
        self.out_features, self.in_features = parameterization.shape
        self.scale = scale
        self.recompute = recompute
        # Not by register_parameter, which takes the property of this name for another attribute.
        self._parameters["weight"] = _parameter(weight, trained=False)
        self.register_parameter("bias", _parameter(bias, trained=True))
        self.parameterization = parameterization
        self.replaced: type[nn.Module] = nn.Linear  # what `zoo.layers.convert.merge` gives back
        self._kept: Kept | None = None
        self._keeps = True

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if not self.training and (weight := self._kept_weight(x)) is not None:
            return F.linear(
                x, weight, self._parameters["bias"]
            )  # self.bias takes ten times as long to look up
        if (
            not is_compiling() and self._kept is not None
        ):  # Lightning goes back to training without a call of train
            self._kept = None
        # Where x needs no gradient, as that of a first layer, autograd keeps no W anyway.
        trained = self.recompute and x.requires_grad and torch.is_grad_enabled()
        whole = (
            transforming() or is_exporting()
        )  # torch.func has no saved tensors, nor has an exported program
        if trained and self.parameterization.builds_weight and not whole:
            return checkpoint(
                self._product, x, *self.parameters(), use_reentrant=False, preserve_rng_state=False
            )
        return self._product(x)

    def _product(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """The output.

        `checkpoint` saves `parameters`, so that autograd refuses to go back past a change of them.
        """
        if self.base is None and self.scale == 1.0:
            return self.parameterization(x, self.bias)
        if self.base is None:
            return F.linear(x, self.effective_weight(), self.bias)
        return self.parameterization.forward_update(x, self.base, self.bias, self.scale)

    def update(self) -> Tensor:
        """What training added to the frozen weight, s W; from scratch, all of it; (out_features, in_features)."""
        return (
            self.scale * self.parameterization.weight()
            if self.scale != 1.0
            else self.parameterization.weight()
        )

    def effective_weight(self) -> Tensor:
        """The matrix that the layer multiplies by, W0 + s W; (out_features, in_features)."""
        return self.update() if self.base is None else self.base + self.update()

    @property
    def base(self) -> Tensor | None:
        """W0, (out_features, in_features); None from scratch."""
        if self._is_replica:  # whose parameters `nn.DataParallel` makes plain attributes
            return self.__dict__.get("_replicated_base")
        return self._parameters["weight"]

    @property
    def weight(self) -> Tensor:
        """What a module that holds this layer reads as its weight: W0 + s W as `built`, when a number is asked for."""
        return self.built() if is_compiling() or self._is_replica else WeightView(self)

    @weight.setter
    def weight(self, value: Tensor | None) -> None:
        """Set W0 of a replica; a parameter, as tying weights sets it, never gets here."""
        if not self._is_replica:
            raise TypeError(
                "the weight of a parameterized layer cannot be set to a tensor: give a parameter, its base"
            )
        self.__dict__["_replicated_base"] = value

    def built(self) -> Tensor:
        """W0 + s W in the dtype of W0 where there is one, as a merged layer has it; (out_features, in_features)."""
        w = self.effective_weight()
        return w if self.base is None else w.to(self.base.dtype)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """The plain layer that was there before, with the same outputs; in the dtype of W0 where there is one."""
        plain = self.replaced.__new__(self.replaced)
        nn.Module.__init__(plain)
        vars(plain).update(out_features=self.out_features, in_features=self.in_features)
        weight = self.built().mT if is_conv1d(self.replaced) else self.built()
        plain.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        bias = None if self.bias is None else nn.Parameter(self.bias.to(weight.dtype, copy=True))
        plain.register_parameter("bias", bias)
        take_place(self, plain, besides=OWN)
        return plain

    def extra_repr(self) -> str:
        """Shape, and whether there is a base and a bias."""
        base = "" if self.base is None else f", base, scale={self.scale}"
        recompute = ", recompute=True" if self.recompute else ""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{base}{recompute}"

    # ---- The weight kept in eval mode ------------------------------------------------------------

    def _kept_weight(self, x: Tensor) -> Tensor | None:
        """What x is multiplied by, built now or before; None where autograd needs W, or W is not built at all.

        For one row of x this takes as long as the product of a small matrix, so it asks for little
        and inline.
        """
        if (
            is_compiling() or self._is_replica or x.is_meta
        ):  # a graph builds its own, a replica lives for one pass
            return None
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            self._kept, self._keeps = None, False  # someone trains in eval mode
            return None
        alone = self._parameters["weight"] is None and self.scale == 1.0
        if alone and self._modules["parameterization"].needs_no_weight(x):  # type: ignore[operator, union-attr]
            return None
        if self._kept is not None:
            weight, scale, dtype, low, device, parameterization, watch = self._kept
            if (
                scale == self.scale
                and dtype is x.dtype
                and low
                is (torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)
                and parameterization is self._modules["parameterization"]
                and watch.unchanged()
            ):
                return weight
        self._kept = self._build(x)
        return None if self._kept is None else self._kept.weight

    def _build(self, x: Tensor) -> Kept | None:
        if self.recompute or not self._keeps or not self.parameterization.builds_weight:
            return None
        p, device, low = self.parameterization, x.device.type, autocast_dtype(x.device)
        try:
            watch = Watch(self, skip=("bias",))
        except ValueError:
            return None
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # autograd may save it one day, for the gradient of x
            weight = self.effective_weight().detach()
            weight = weight if self.base is None else weight.to(x.dtype)
            if low is not None and weight.dtype != torch.float64:  # which autocast leaves alone
                weight = weight.to(low)
        return Kept(weight, self.scale, x.dtype, low, device, p, watch)

    def train(self, mode: bool = True) -> "ZooLinear":
        """As every module does, also for `eval`; a kept weight goes."""
        self._kept, self._keeps = None, True
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "ZooLinear":
        self._kept = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy has: all but a kept weight."""
        return {**self.__dict__, "_kept": None}


def _parameter(value: Tensor | None, trained: bool) -> nn.Parameter | None:
    return (
        value
        if value is None or isinstance(value, nn.Parameter)
        else nn.Parameter(value.detach(), trained)
    )
