"""The interface: a map from trainable coefficients to a weight matrix."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parameterizations.cost import Cost, cost_as_run, cost_with_weight, products_of_weight


def overtaken(cls: type, shortcut: str, stands_for: tuple[str, ...]) -> bool:
    """Say whether a class below the one that defines a shortcut redefines what it stands for."""
    for base in cls.__mro__:
        if shortcut in vars(base):
            return False
        if any(name in vars(base) for name in stands_for):
            return True
    return False


UNCOUNTED = {"revision", "training"}
"""Attributes that W does not follow from."""


class WeightParameterization(nn.Module, ABC):
    """A map from coefficients to a weight matrix W.

    W has shape (out_features, in_features).

    Parameters hold coefficients and nothing else. What is fixed (bases, positions) is a
    non-persistent buffer, rebuilt from `seed` by `reset_buffers` whenever the coefficients change
    device or dtype, by whatever way, so that a state dict is the coefficients only. `zoo check
    my_file.MyClass` runs every contract below as a test (`zoo.testing`).

    `weight` says what W is; all else that computes with W is a shortcut. A shortcut serves the
    class that defines it, and its subclasses as long as they redefine nothing that it stands for
    (`shortcuts`): a subclass of LoRA with a `weight` of its own multiplies by that weight, and not
    by LoRA's factors.

        >>> class Row(zoo.WeightParameterization):
        ...     def __init__(self, out_features, in_features, seed=0):
        ...         super().__init__(out_features, in_features, seed)
        ...         self.row = torch.nn.Parameter(torch.zeros(in_features))
        ...
        ...     def weight(self):
        ...         return self.row.expand(self.shape)
        ...
        ...     def reset_parameters(self, std):
        ...         torch.nn.init.normal_(self.row, 0, std)
        ...
        ...     @torch.no_grad()
        ...     def project_(self, target):
        ...         self.row.copy_(target.mean(0))
        >>> zoo.parameterize(torch.nn.Linear(8, 2), Row, targets="*")(torch.ones(8)).shape
        torch.Size([2])

    Args:
        out_features: rows of W.
        in_features: columns of W.
        seed: of everything that is fixed.

    Raises:
        ValueError: if a size is less than 1.
    """

    shortcuts: ClassVar[dict[str, tuple[str, ...]]] = {
        "forward": ("weight",),
        "effective": ("weight",),
        "forward_update": ("weight", "effective"),
        "look_up": ("weight",),
        "builds_weight": ("weight", "effective", "forward", "forward_update"),
        "needs_no_weight": ("weight", "forward"),
        "building": ("weight", "effective"),
        "cost": ("weight", "effective", "forward", "forward_update"),
    }
    """Methods and attributes that a class may speed up, each with what it must agree with.

    Where a subclass redefines one of the latter and not the shortcut, it gets the shortcut's
    plainest definition, that of the class furthest up. To keep an inherited one, it says so:
    `forward = LoRA.forward`.
    """
    needs_base: ClassVar[bool] = False
    """Whether there is no W without a base W0: a map of `zoo.parameterizations.of_base`."""
    width_exponent: ClassVar[float] = 0.0
    """The least e, if a step's spectral norm over a dense one's goes as n^e at some settings.

    Where it falls behind, a rate that serves a narrow layer is too small for a wide one
    (`zoo.layers.transfer`). That it grows no contract allows.
    """
    waiting: frozenset[str] = frozenset()
    """Names of parameters that are not trained yet: their layer is in its dense phase."""
    _built_at: list[tuple[torch.device, torch.dtype]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give up the shortcuts that no longer serve."""
        super().__init_subclass__(**kwargs)
        for name, stands_for in cls.shortcuts.items():
            if overtaken(cls, name, stands_for):
                ours = [base for base in cls.__mro__ if issubclass(base, WeightParameterization)]
                plain = (vars(base)[name] for base in reversed(ours) if name in vars(base))
                setattr(
                    cls, name, next(f for f in plain if not getattr(f, "__isabstractmethod__", 0))
                )

    def __init__(self, out_features: int, in_features: int, seed: int = 0) -> None:
        super().__init__()
        if out_features < 1 or in_features < 1:
            raise ValueError(
                "a weight needs at least one row and one column, "
                f"got {out_features} x {in_features}"
            )
        if not isinstance(seed, int):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        self.out_features = out_features
        self.in_features = in_features
        self.seed = seed
        self.layer = ""
        self.revision = 0  # how often a buffer or an attribute was set, from which W may follow
        self.register_load_state_dict_post_hook(_follow_parameters)

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def weight(self) -> Tensor:
        """Return W of the parameters as they are now, (out_features, in_features).

        It is differentiable in every parameter, and in their dtype, also under autocast and within
        a forward pass.
        """

    @abstractmethod
    def reset_parameters(self, std: float) -> None:
        """Draw coefficients with E[W_ij^2] = std^2.

        std = 0 gives W = 0 with a gradient that is not zero.
        """

    @abstractmethod
    def project_(self, target: Tensor) -> None:
        """Set coefficients that fit W to `target`, at a stationary point of |W - target|_F^2.

        The least-squares solution where the map is linear. Idempotent: projecting W itself changes
        nothing.
        """

    # ---- A subclass may override -----------------------------------------------------------------

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b; (..., in_features) to (..., out_features).

        A path that never builds W must equal this one.
        """
        return F.linear(x, self.weight(), bias)

    def look_up(self, index: Tensor) -> Tensor:
        """Return rows of W, W[index]; (...) to (..., in_features), as an embedding has them.

        They are in the coefficients' dtype, also under autocast. A path that never builds W must
        equal this one.
        """
        return F.embedding(index, self.weight())

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        """Return the matrix that a layer with the frozen `base` W0 stands for, W0 + s W; (m, n).

        What training added to W0 is this minus W0. A map that knows W0 defines this in place of
        `weight` (`zoo.parameterizations.of_base`). The sum is of the wider dtype of the two.
        """
        # Inductor drops torch.add's alpha, if W = A B.
        update = self.weight() if scale == 1 else scale * self.weight()
        return base + update

    def for_base(self, base: Tensor) -> "WeightParameterization":
        """Serve a layer whose frozen weight this is; rates and starts may follow from it."""
        return self

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s W)^T + b, W0 the frozen `base`: the product with `effective`.

        A path that never builds W must equal this one.

        One product with the sum, as ordinary fine-tuning has it: the sum is float32 if either is,
        and rounded once.
        """
        return F.linear(x, self.effective(base, scale).to(x.dtype), bias)

    @property
    def builds_weight(self) -> bool:
        """Whether a product is with a W that `weight` builds, which a layer may then keep.

        Here: whether `forward` and `forward_update` are this class' own. A path of another kind is
        left alone.
        """
        mine = WeightParameterization
        alone = self.needs_base or type(self).forward is mine.forward
        return alone and type(self).forward_update is mine.forward_update

    def needs_no_weight(self, x: Tensor) -> bool:
        """Say whether `forward(x)` is faster without W than a product with one that is kept.

        It is asked where no gradient is.
        """
        return False

    def building(self) -> tuple[int, int]:
        """Count the multiply-adds of `weight()`, and those of dL/dW to the coefficients' gradient.

        Of a map that knows W0, those of `effective`.

        Here both are what torch's counter finds when it is run. A class states them as a formula of
        m, n and its own sizes; what counts as one says `zoo.parameterizations.cost.Cost`.
        """
        return products_of_weight(self)

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what a product with `rows` rows T of x takes, from scratch or beside a base W0.

            forward   T mn + b         x W^T with a W that takes b multiply-adds to build
            backward  2 T mn + b'      dL/dx and dL/dW, T mn each, and b' from there to dL/dc
            read      mn               the W, or W0 + s W, that a layer keeps

        b and b' are `building`. A class with a path of its own that never builds W states its own,
        and in an update adds what W0 takes: T mn forward, T mn backward for dL/dx, and mn read. As
        long as it states nothing, that path is run here and counted.
        """
        mine, path = WeightParameterization, "forward_update" if update else "forward"
        if getattr(type(self), path) is getattr(mine, path):
            return cost_with_weight(self, rows)
        return cost_as_run(self, rows, update)

    @property
    def lr_mult(self) -> float | Mapping[str, float]:
        """Factor on an Adam-like optimizer's rate that makes its step as large in W as a dense one.

        Such an optimizer moves each coefficient by about +-lr, whatever the gradient's scale. What
        is as large can be meant in two ways, and lr_mult lies between them:

            |dW|_F as that of a dense step, lr sqrt(mn), for signs that are independent:
                1 / rms(dW / lr)
            <G, dW> as that of a dense step, lr sum |G_ij|, for the signs of a rank-one gradient G

        Where parts of a map want rates of their own, it is a mapping from each parameter's name, as
        `named_parameters` has it, to the factor of that one: LoRA+ gives B sixteen times A's.
        """
        return 1.0

    def reset_buffers(self) -> None:  # noqa: B027  most maps have no buffers
        """Rebuild every buffer from `seed`, `layer` and the shape, where the parameters are."""

    # ---- Concrete --------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.out_features, self.in_features

    @property
    def num_trainable(self) -> int:
        """How many coefficients are trained, or will be when a dense phase is over."""
        named = self.named_parameters()
        return sum(p.numel() for name, p in named if p.requires_grad or name in self.waiting)

    def lr_mults(self) -> dict[str, float]:
        """Return `lr_mult` of each parameter, by its name.

        Raises:
            ValueError: if it is a mapping with other names, or a factor is not above 0 and finite.
        """
        mult, names = self.lr_mult, [name for name, _ in self.named_parameters()]
        mults = dict(mult) if isinstance(mult, Mapping) else dict.fromkeys(names, mult)
        if sorted(mults) != sorted(names):
            raise ValueError(
                f"{type(self).__name__}.lr_mult is of {', '.join(sorted(mults)) or 'nothing'}, "
                f"and the parameters are {', '.join(sorted(names))}"
            )
        if wrong := [name for name in names if not 0 < mults[name] < math.inf]:
            raise ValueError(
                f"{type(self).__name__}.lr_mult must be above 0 and finite, "
                f"got {mults[wrong[0]]} for {wrong[0]}"
            )
        return {name: float(mults[name]) for name in names}

    def for_layer(self, name: str) -> "WeightParameterization":
        """Serve the layer of this name: positions differ between layers, bases stay shared."""
        self.layer = name
        self._rebuild()
        return self

    def fingerprint(self) -> str:
        """Return a hash of the fixed part, to four decimals.

        It is equal on every machine that would rebuild the same W.
        """
        digest = hashlib.sha256()
        for name, buffer in sorted(self.named_buffers()):
            values = torch.view_as_real(buffer) if buffer.is_complex() else buffer
            if values.is_floating_point():
                values = (values.double() * 1e4).round().long()
            digest.update(name.encode() + values.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        """Say shape, seed and count."""
        m, n = self.shape
        return f"{m}, {n}, seed={self.seed}, num_trainable={self.num_trainable}"

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register as every module does, and count it in `revision`."""
        self.revision += 1
        super().register_buffer(name, tensor, persistent)
        self._built_at = self._places_of_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set as every module does, and count it in `revision`.

        Raises:
            TypeError: for a method that shortcuts stand for: they would pass by that of one
                instance.
        """
        if callable(value) and any(name in stands_for for stands_for in self.shortcuts.values()):
            raise TypeError(
                f"{name} of one {type(self).__name__} cannot be replaced: define it in a subclass"
            )
        super().__setattr__(name, value)
        if name not in UNCOUNTED and name not in self.__dict__.get("_parameters", ()):
            self.__dict__["revision"] = self.__dict__.get("revision", 0) + 1

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register as every module does; buffers follow a parameter that is somewhere else."""
        replaced = self._parameters.get(name) is not None
        super().register_parameter(name, param)
        if replaced:
            _follow_parameters(self)

    def __getattr__(self, name: str) -> Any:
        """Look up as every module does, but rebuild a buffer that is left on the meta device.

        `torch.func.functional_call` puts them in place where no method is called.
        """
        value = super().__getattr__(name)
        if type(value) is Tensor and value.is_meta and name in self._buffers:
            _follow_parameters(self)
            value = super().__getattr__(name)
        return value

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "WeightParameterization":
        """Move parameters as torch does, and rebuild buffers where these are now, shared."""
        self._buffers.clear()
        super()._apply(fn, recurse)
        self._rebuild()
        return self

    def _rebuild(self) -> None:
        """Reset buffers; on the meta device nothing is computed."""
        self._buffers.clear()
        meta = all(p.is_meta for p in self.parameters())
        with torch.device("meta") if meta else nullcontext():
            self.reset_buffers()
        self._built_at = self._places_of_parameters()

    def _places_of_parameters(self) -> list[tuple[torch.device, torch.dtype]]:
        return [(p.device, p.dtype) for p in self.parameters()]


def _follow_parameters(module: nn.Module, *_: Any) -> None:
    """Rebuild the buffers of a parameterization whose parameters have another device or dtype.

    `load_state_dict` with `assign=True` makes them so, and so does an assignment by hand.
    """
    assert isinstance(module, WeightParameterization)
    moved = module._places_of_parameters() != module._built_at
    # Otherwise others are still to follow.
    if moved and len({p.is_meta for p in module.parameters()}) == 1:
        module._rebuild()
