"""A linear layer of another library beside an update: y = layer(x) + s x W^T."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

from zoo.bases.seeds import autocast_dtype, without_autocast
from zoo.bases.vmapped import transforming
from zoo.errors import UserError
from zoo.layers.dequantize import (
    check_reader,
    dequantized,
    first_tensor,
    is_matrix,
    scales_of,
    stated_dtype,
    unpack,
)
from zoo.layers.layer import OF_A_ZOO_LAYER, Then, ZooLayer
from zoo.layers.plain import DTYPES, path_of, plain_kind, why_not_plain
from zoo.layers.recompute import multiply_and_recompute, would_save_weight
from zoo.layers.succession import HOOKS, LOADS, hand_on_hooks
from zoo.parameterizations import OfBase, WeightParameterization


class ZooForeign(ZooLayer):
    """A linear layer that is not torch's, or whose weight is not, and an update beside it.

        y = layer(x) + s x W^T,  or layer(x) + x (W'(W0, s) - W0)^T of a map that knows W0

    Such are the quantized layers of bitsandbytes, torchao or GPTQ. The layer itself computes its
    part, and the sum has the dtype of that; the update is computed in the coefficients' dtype, or
    in autocast's. Tensors and modules are the layer's, by their names in a state dict.

    Nothing as large as a dense weight is kept, neither from one pass to the next nor for backward:
    W0 is dequantized where it is asked for (`zoo.layers.dequantize`), and a map that builds W does
    so in every pass and again in its backward (`zoo.layers.recompute`), in eval mode too.

    Args:
        parameterization: W, of shape (out_features, in_features).
        layer: with integers `in_features` and `out_features`, and a pass of one tensor.
        scale: s.
        dtype: of W0 and of a merged layer, where `layer` does not tell.

    Raises:
        ValueError: if a shape does not fit.
    """

    kind = "linear"
    geometry = ("in_features", "out_features")
    foreign: nn.Module

    def __init__(
        self,
        parameterization: WeightParameterization,
        layer: nn.Module,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameterization, scale, recompute=True)
        self.out_features, self.in_features = shape = shape_of(layer)
        if parameterization.shape != shape:
            raise ValueError(f"the map must have shape {shape}, got {parameterization.shape}")
        self.replaced: type[nn.Module] = nn.Linear
        self._usual_dtype = dtype
        self._scales: Any = None  # of a 4-bit weight, as they were before a pass has rounded them
        # No module of this one, which has the tensors and modules that it has.
        vars(self)["foreign"] = layer
        for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            vars(self)[name] = vars(layer)[name]
        vars(self)["_modules"] = {**layer._modules, **self._modules}

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as every module does, but for what is this one's own.

        The layer may have a tensor that is called the same, as a scale.
        """
        if name in OF_A_ZOO_LAYER and not isinstance(value, nn.Module):
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Look up as every module does, and then in the layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            foreign = vars(self).get("foreign")
            if foreign is None or name.startswith("__"):  # as of copies and pickles
                raise
            return getattr(foreign, name, None) if name == "bias" else getattr(foreign, name)

    # ---- The pass --------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Add the update of x, (..., in_features), to what the layer makes of it."""
        if self._aside:
            return self._pass_aside(x)
        return self.product(x, self.parameterization, self.scale)

    def product(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        y = self.base_product(x)
        u = self._update_of(x, space, scale)
        return (y.to(torch.promote_types(y.dtype, u.dtype)) + u).to(y.dtype)

    def base_product(self, x: Tensor) -> Tensor:
        foreign = self.foreign
        if foreign.training is not self.training:
            foreign.training = self.training
        if not is_compiling():
            if self.training or (x.requires_grad and torch.is_grad_enabled()):
                unpack(foreign, self._scales)
            elif (scales := scales_of(foreign)) is not None:
                self._scales = scales
        y: Tensor = foreign(x)
        return y

    def _update_of(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        """Return s x W^T, with no W0 that is kept for backward."""
        parameters = list(space.parameters())
        if autocast_dtype(x.device) is None:
            x = x.to(parameters[0].dtype)
        if space.needs_base:
            product = partial(self._product_of_base, space, scale)
            trained = x.requires_grad or any(p.requires_grad for p in parameters)
            again = trained and torch.is_grad_enabled() and not (transforming() or is_exporting())
        else:
            product = partial(_product, space, scale)
            again = space.builds_weight and would_save_weight(x)
        return multiply_and_recompute(product, x, *parameters, space=space) if again else product(x)

    def _product_of_base(
        self, space: WeightParameterization, scale: float, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Return x (W' - W0)^T of a map that knows W0; by factors, where they are known."""
        base = self.base
        pair = space.factors(base) if isinstance(space, OfBase) else None
        if pair is not None:
            left, right = (factor.to(x.dtype) for factor in pair)
            return scale * F.linear(F.linear(x, right), left)
        with without_autocast(base.device):
            update = space.effective(base, scale) - base
        return F.linear(x, update.to(x.dtype))

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError("the layer multiplies by its weight itself")

    # ---- The weight ------------------------------------------------------------------------------

    @property
    def has_base(self) -> bool:
        """True: the layer is there."""
        return True

    @property
    def base(self) -> Tensor:
        """W0, dequantized for whoever asks; (out_features, in_features).

        Raises:
            UserError: if the layer's library has no way to do it.
        """
        unpack(self.foreign, self._scales)
        return dequantized(self.foreign, self.parameterization.layer, self.base_dtype)

    @property
    def base_dtype(self) -> torch.dtype:
        """The dtype of W0 once it is dequantized."""
        return foreign_dtype(self.foreign, self._usual_dtype)

    @property
    def base_parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters of the layer but its bias."""
        return tuple(p for name, p in self.foreign.named_parameters() if name != "bias")

    def frozen_entries(self) -> set[str]:
        trained = {name for name, p in self.foreign.named_parameters() if p.requires_grad}
        return set(self.foreign.state_dict()) - trained

    def check_merges(self) -> None:
        check_reader(self.foreign, self.parameterization.layer)

    def set_base_(self, matrix: Tensor) -> None:
        self.check_writes()

    def begin_dense(self, then: Then) -> None:
        self.check_writes()

    def check_writes(self) -> None:
        name = self.parameterization.layer
        raise UserError(
            f"{name or 'the model'} is a {path_of(self.foreign)}, whose own weight stays what it "
            "is: leave it out of the targets"
        )

    def _like(self) -> Tensor:
        first = first_tensor(self.foreign)
        return next(self.parameterization.parameters()) if first is None else first

    def _read_weight(self) -> Any:
        """Return `merged_weight` where the layer has a matrix for a weight; else what is packed."""
        return super()._read_weight() if is_matrix(self.foreign) else self.foreign.weight

    # ---- There and back, and state dicts ---------------------------------------------------------

    def conflicts(self, layer: nn.Module) -> list[str]:
        """Nothing: what was set on the layer stays there, and is found there."""
        return []

    def take_over(self, layer: nn.Module) -> None:
        """Take over the hooks of the layer, but for those that it runs itself."""
        hand_on_hooks(layer, self, but=LOADS)
        fresh = vars(nn.Module())
        vars(layer).update({name: fresh[name] for name in HOOKS - {LOADS}})
        self.training = layer.training

    def restore(self) -> nn.Module:
        """Give back the layer itself, with the hooks that it had, and those that came since."""
        unpack(self.foreign, self._scales)
        hand_on_hooks(self, self.foreign, but=LOADS)
        self.foreign.training = self.training
        return self.foreign

    def _succeeded(self, plain: nn.Module) -> nn.Module:
        hand_on_hooks(self, plain)
        plain.training = self.training
        return plain

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        unpack(self.foreign, self._scales)
        self.foreign._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        unexpected: list[str] = []
        lists = missing_keys, unexpected, error_msgs
        self.foreign._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        inside = f"{prefix}parameterization."
        unexpected_keys += [key for key in unexpected if not key.startswith(inside)]

    def _replicate_for_data_parallel(self) -> Any:
        raise UserError(
            f"nn.DataParallel cannot copy a {path_of(self.foreign)}: use DistributedDataParallel"
        )

    def extra_repr(self) -> str:
        """Tell what the layer is, besides what every layer tells."""
        return f"{super().extra_repr()}, foreign={path_of(self.foreign)}"


def _product(space: WeightParameterization, scale: float, x: Tensor, *parameters: Tensor) -> Tensor:
    y: Tensor = space(x)
    return y if scale == 1.0 else scale * y


# ---- Which layers are such -----------------------------------------------------------------------


def shape_of(layer: Any) -> tuple[int, int]:
    """Return (out_features, in_features) as a layer tells them."""
    return layer.out_features, layer.in_features


def is_like_linear(module: nn.Module) -> bool:
    """Tell whether a module of another library is a linear layer, by what it has.

    It has two whole sizes, `in_features` and `out_features`, a pass of one tensor, and no linear
    layer within it that does its work.
    """
    if plain_kind(module) is not None or isinstance(module, ZooLayer | WeightParameterization):
        return False
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if not all(type(size) is int for size in sizes):
        return False
    needed = [
        p
        for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    inside = list(module.modules())[1:]
    return len(needed) == 1 and not any(hasattr(each, "in_features") for each in inside)


def is_foreign(layer: nn.Module) -> bool:
    """Tell whether a layer is linear and not a plain one of torch's."""
    kind = plain_kind(layer)
    return (
        is_like_linear(layer) if kind is None else kind == "linear" and bool(why_not_plain(layer))
    )


def why_not_foreign(layer: nn.Module) -> str | None:
    """Say why a linear layer cannot have an update beside it; None if it can."""
    cls = type(layer).__name__
    if any(size < 1 for size in shape_of(layer)):
        return f"a {cls} without sizes"
    if layer._forward_pre_hooks:  # which would set it on the layer that has them then
        for name in ("weight", "bias"):
            if isinstance(vars(layer).get(name), Tensor):
                return f"a {cls} whose {name} is computed in each forward pass"
    if "parameterization" in layer._modules:
        return f"a {cls} with a module 'parameterization' of its own"
    return None


def device_of(layer: nn.Module) -> torch.device:
    """Return where a layer's tensors are."""
    first = first_tensor(layer)
    return torch.device("cpu") if first is None else first.device


def foreign_dtype(layer: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype of a layer's matrix: as it tells, or that of its bias."""
    bias = layer._parameters.get("bias")
    usual = bias.dtype if bias is not None and bias.dtype in DTYPES else otherwise
    return stated_dtype(layer) or usual
