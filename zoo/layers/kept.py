"""The weight that a layer keeps in eval mode, until what it is built from has changed."""

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype
from zoo.parameterizations import WeightParameterization

if TYPE_CHECKING:
    from zoo.layers.layer import ZooLayer


class KeptWeight:
    """W0 + s W of a layer in the dtype of its product, for passes that ask for no gradient.

    It is built when it is first asked for, and again once a parameter, a buffer or an attribute of
    the map, s, a dtype or the device is another one. What autograd's version counters miss is not
    seen: a write to `p.data` or into a buffer, and a step of a fused optimizer. A layer therefore
    gets a new object at each call of `train` or `eval`; and since whoever asks for a gradient in
    eval mode may take such a step next, from then on this object keeps nothing.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self._trained = False

    def weight_for(self, layer: "ZooLayer", x: Tensor) -> Tensor | None:
        """Return what a layer multiplies x by; None if autograd needs W, or no W is to be kept.

        One row of x times a small matrix takes no longer than this method, so it looks up and
        compares as little as it can: an attribute of a module takes ten times as long as an item of
        its dictionaries.
        """
        if x.is_meta:
            return None
        if torch.is_grad_enabled() and any(p.requires_grad for p in layer.parameters()):
            self._trained = True
            self.forget()
            return None
        space: Any = layer._modules["parameterization"]
        alone = layer._parameters["weight"] is None and layer.scale == 1.0
        if alone and space.needs_no_weight(x) and layer.multiplies_rows:
            self.forget()
            return None
        if self.weight is not None:
            device = self._device
            low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            if (
                self._scale == layer.scale
                and self._dtype is x.dtype
                and self._low is low
                and self._space is space
                and self._watch.unchanged()
            ):
                return self.weight
        self._build(layer, x)
        return self.weight

    def forget(self) -> None:
        """Free the weight's memory; it is built again when it is asked for."""
        self.weight = None

    def _build(self, layer: "ZooLayer", x: Tensor) -> None:
        self.forget()
        if layer.recompute or self._trained or not layer.builds_weight:
            return
        try:
            self._watch = Watch(layer, skip=("bias",))
        except ValueError:
            return
        self._scale, self._space = layer.scale, layer.parameterization
        self._dtype, self._low, self._device = x.dtype, autocast_dtype(x.device), x.device.type
        # Autograd may save it for the gradient of x, which it refuses to do in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            weight = layer.effective_weight().detach()
            self.weight = weight.to(layer.product_dtype(x if layer.has_base else weight))


class WeightKeeper(nn.Module):
    """A layer that need not build its weight in each pass.

    It keeps one in eval mode, and may be handed one that was built ahead for a pass that trains
    (`zoo.layers.batched`). No state dict, pickle or copy has either.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept = KeptWeight()
        self._built: Tensor | None = None

    def hand_over(self, weight: Tensor | None) -> None:
        """Multiply by this W0 + s W from now on, built for a pass that begins; None ends that.

        It may be of autocast's precision, and serves products alone: `weight` and
        `effective_weight` are still what the parameters say.
        """
        self._built = weight

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as every module does, and begin to keep a weight anew."""
        self._kept = KeptWeight()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._kept.forget()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Give a pickle or a copy all but the weights that are kept or were built ahead."""
        return {**self.__dict__, "_kept": KeptWeight(), "_built": None}


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a product with x: its own, or autocast's, which leaves float64 alone."""
    low = autocast_dtype(x.device)
    return x.dtype if low is None or x.dtype == torch.float64 else low


class Watch:
    """Tells whether the parameters of a module and the revisions of its maps are what they were.

    A parameter counts as changed where autograd's version counter says so, where it lies elsewhere
    in memory, or where it is another one. The check takes a fraction of a microsecond.

    Args:
        module: the module that is watched with all that is in it.
        skip: names of the module's own parameters that do not matter.

    Raises:
        ValueError: if a parameter has no version (one made in inference mode), or is not plainly
            the module's own: of a subclass, as sharded ones are, or put there by
            `torch.func.functional_call`.
    """

    def __init__(self, module: nn.Module, skip: tuple[str, ...] = ()) -> None:
        self._watched: list[tuple[dict[str, Any], str, nn.Parameter, int, int]] = []
        # Holding the memory keeps any other tensor from coming to lie at an address.
        self._aliases: list[Tensor] = []
        self._revisions: list[tuple[WeightParameterization, int]] = []
        for part in module.modules():
            if isinstance(part, WeightParameterization):
                self._revisions.append((part, part.revision))
            for name, p in part._parameters.items():
                if p is None or (part is module and name in skip):
                    continue
                if type(p) is not nn.Parameter or p.is_inference():
                    raise ValueError(f"{name} cannot be watched")
                self._watched.append((part._parameters, name, p, p._version, p.data_ptr()))
                self._aliases.append(p.detach())

    def unchanged(self) -> bool:
        """Tell whether every parameter and every map is what it was."""
        try:
            for slots, name, p, version, address in self._watched:
                if slots[name] is not p or p._version != version or p.data_ptr() != address:
                    return False
            for part, revision in self._revisions:
                if part.revision != revision:
                    return False
        except KeyError:  # a parameter goes by another name now
            return False
        return True
