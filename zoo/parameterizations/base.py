"""The interface: a map from trainable coefficients to a weight matrix."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightParameterization(nn.Module, ABC):
    """A map from coefficients to a weight matrix W.

    W has shape (out_features, in_features).

    Parameters hold coefficients and nothing else. What is fixed (bases, positions) is a non-persistent buffer, rebuilt
    from `seed` by `reset_buffers` whenever the module changes device or dtype, so that a state dict is the
    coefficients only. `zoo check my_file.MyClass` runs every contract below as a test (`zoo.testing`).

    Args:
        out_features: rows of W.
        in_features: columns of W.
        seed: of everything that is fixed.

    Raises:
        ValueError: if a size is less than 1.
    """

    def __init__(self, out_features: int, in_features: int, seed: int = 0) -> None:
        super().__init__()
        if out_features < 1 or in_features < 1:
            raise ValueError(f"a weight needs at least one row and one column, got {out_features} x {in_features}")
        self.out_features = out_features
        self.in_features = in_features
        self.seed = seed
        self.layer = ""
        self.revision = 0  # of the buffers: how often one was set

    # ---- A subclass defines ------------------------------------------------------------------------------------------

    @abstractmethod
    def weight(self) -> Tensor:
        """W, (out_features, in_features), differentiable in every parameter."""

    @abstractmethod
    def reset_parameters(self, std: float) -> None:
        """Draw coefficients with E[W_ij^2] = std^2; std = 0 gives W = 0 with a gradient that is not zero."""

    @abstractmethod
    def project_(self, target: Tensor) -> None:
        """Set coefficients that fit W to `target`, at a stationary point of |W - target|_F^2.

        The least-squares solution where the map is linear. Idempotent: projecting W itself changes nothing.
        """

    # ---- A subclass may override -------------------------------------------------------------------------------------

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W^T + b; (..., in_features) to (..., out_features). A path that never builds W must equal this one."""
        return F.linear(x, self.weight(), bias)

    def forward_update(self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """x (W0 + s W)^T + b, W0 the frozen `base`. A path that never builds W must equal this one.

        One product with the sum, as ordinary fine-tuning has it: the sum is float32 if either is, and rounded once.
        """
        update = self.weight() if scale == 1 else scale * self.weight()  # inductor drops torch.add's alpha, if W = A B
        return F.linear(x, (base + update).to(x.dtype), bias)

    @property
    def builds_weight(self) -> bool:
        """Whether a product is with a matrix that `weight` builds, which a layer may then keep or build again.

        Here: whether `forward` and `forward_update` are this class' own. A path of another kind is left alone.
        """
        mine = WeightParameterization
        return type(self).forward is mine.forward and type(self).forward_update is mine.forward_update

    @property
    def lr_mult(self) -> float:
        """Factor on the learning rate that makes a step of an Adam-like optimizer as large in W as a dense one.

        Such an optimizer moves each coefficient by about +-lr, whatever the gradient's scale. What is as large can be
        meant in two ways, and lr_mult lies between them:

            |dW|_F as that of a dense step, lr sqrt(mn), for signs that are independent: 1 / rms(dW / lr)
            <G, dW> as that of a dense step, lr sum |G_ij|, for the signs of a gradient G of rank one
        """
        return 1.0

    def reset_buffers(self) -> None:  # noqa: B027  most maps have no buffers
        """Rebuild every buffer from `seed`, `layer` and the shape, on the parameters' device and dtype."""

    # ---- Concrete ----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.out_features, self.in_features

    @property
    def num_trainable(self) -> int:
        """How many coefficients are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def for_layer(self, name: str) -> "WeightParameterization":
        """Serve the layer of this name: positions drawn per layer differ between layers, bases stay shared."""
        self.layer = name
        self.reset_buffers()
        return self

    def fingerprint(self) -> str:
        """A hash of the fixed part, to four decimals: equal on every machine that would rebuild the same W."""
        digest = hashlib.sha256()
        for name, buffer in sorted(self.named_buffers()):
            values = torch.view_as_real(buffer) if buffer.is_complex() else buffer
            if values.is_floating_point():
                values = (values.double() * 1e4).round().long()
            digest.update(name.encode() + values.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        """Shape, seed and count."""
        return f"{self.out_features}, {self.in_features}, seed={self.seed}, num_trainable={self.num_trainable}"

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """As every module does, counted in `revision`."""
        self.revision += 1
        super().register_buffer(name, tensor, persistent)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "WeightParameterization":
        """Move parameters as torch does; buffers are rebuilt where the parameters are now, and so stay shared."""
        self._buffers.clear()
        super()._apply(fn, recurse)
        self.reset_buffers()
        return self
