"""What other code reads as the `weight` of a layer: W0 + s W, built when it is needed.

Modules read the weights of layers that they hold: `nn.MultiheadAttention` that of its output
projection, Mamba that of `dt_proj`, T5 the dtype of `wo` in every forward pass. They get a tensor
without memory. Shape, dtype and device cost nothing; any operation is done with the matrix itself,
built for it, through which gradients reach the coefficients.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from zoo.errors import UserError

OF_A_TENSOR = (
    "shape",
    "dtype",
    "device",
    "layout",
    "ndim",
    "requires_grad",
    "grad",
    "is_cuda",
    "is_cpu",
    "is_meta",
    "is_sparse",
    "is_quantized",
    "is_nested",
    "itemsize",
    "nbytes",
)
CALLED = (
    "size",
    "dim",
    "numel",
    "nelement",
    "element_size",
    "get_device",
    "is_floating_point",
    "is_complex",
    "__len__",
    "ndimension",
    "is_inference",
)
FREE = {getattr(Tensor, name).__get__ for name in OF_A_TENSOR} | {
    getattr(Tensor, name) for name in CALLED
}
"""What is known of a matrix without any of its numbers."""
FREE |= {torch.numel, torch.is_floating_point, torch.is_complex}

META = torch.device("meta")
IN_PLACE = {"__set__", "__setitem__", "__delitem__"} | {
    f"__i{name}__"
    for name in (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
        "matmul",
        "div",
    )
}
"""Special methods that change what they are of."""


class WeightView(Tensor):
    """The weight of a layer when it is asked for; neither it nor its `data` can be written.

    Args:
        layer: the `zoo.layers.layer.ZooLayer` whose weight it is.
        detached: whether no gradient goes through it.

    Raises:
        RuntimeError: by whatever would change it.
    """

    layer: Any
    detached: bool
    real_device: torch.device

    @staticmethod
    def __new__(cls: type["WeightView"], layer: Any, detached: bool = False) -> "WeightView":
        parameters = (*layer.base_parameters, *layer.parameterization.parameters())
        trained = (
            not detached and torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        )
        # On the meta device for whoever gets around Python: `p.data = view` then fails, and p
        # shares no missing memory.
        view: WeightView = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            layer.stored_shape,
            dtype=layer.base_dtype,
            device=META,
            dispatch_device=True,
            requires_grad=trained,
        )
        view.layer, view.detached, view.real_device = layer, detached, layer.device
        return view

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` with the matrix in place of each view."""
        kwargs = kwargs or {}
        if func in FREE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in (Tensor.detach, Tensor.data.__get__):  # type: ignore[attr-defined]
            return cls(args[0].layer, detached=True)
        written = [kwargs.get("out")]
        if _writes(func):
            written.append(args[0] if args else next(iter(kwargs.values()), None))
        if any(isinstance(part, WeightView) for part in tree_leaves(written)):
            raise RuntimeError(
                "the weight of a parameterized layer follows from its coefficients and cannot be "
                "written: use layer.parameterization.project_"
            )
        args, kwargs = tree_map(_built, (tuple(args), dict(kwargs)))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Give the device; refuse what passed by `__torch_function__`, and would lose gradients."""
        if func is torch.ops.prim.device.default:
            return args[0].real_device
        raise RuntimeError(
            f"{func} reads the weight of a parameterized layer in a way that zoo cannot follow"
        )


def _writes(func: Callable[..., Any]) -> bool:
    """Tell whether a function changes its first argument, as `add_` and `__iadd__` do."""
    name = getattr(func, "__name__", "")
    special = name.startswith("__") and name.endswith("__")
    return name in IN_PLACE if special else name.endswith("_")


def _built(value: Any) -> Any:
    if not isinstance(value, WeightView):
        return value
    if value.layer.route is not None:
        raise UserError(
            f"another module reads the weight of {value.layer.parameterization.layer}, of which "
            "rows of a batch cannot each have their own: leave it out of the targets, or use the "
            "adapters one after the other"
        )
    weight = value.layer.as_stored(value.layer.merged_weight())
    return weight.detach() if value.detached else weight
