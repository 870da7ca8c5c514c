"""The linear layer whose weight is parameterized: y = x (W0 + s W)^T + b."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parameterizations import WeightParameterization


class ZooLinear(nn.Module):
    """A linear layer over a `WeightParameterization`, from scratch or as an update of frozen weights.

        from scratch  y = x W^T + b
        update        y = x W0^T + b + s x W^T,  W = 0 at the start

    Not a parametrization of `nn.Linear`: low-rank maps keep their matrix-free path, W is built once per forward, and
    the frozen weight is called `weight`, so that a dense checkpoint loads by name.

    Args:
        parameterization: W, of shape (out_features, in_features).
        bias: (out_features,), or None; trained, unless it is a parameter that is frozen already.
        weight: the frozen W0 of W's shape, or None for a layer from scratch; may be of another dtype than W.
        scale: s.

    Raises:
        ValueError: if a shape does not fit.
    """

    def __init__(
        self, parameterization: WeightParameterization, bias: Tensor | None = None, weight: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if weight is not None and tuple(weight.shape) != parameterization.shape:
            raise ValueError(f"weight must have shape {parameterization.shape}, got {tuple(weight.shape)}")
        if bias is not None and tuple(bias.shape) != parameterization.shape[:1]:
            raise ValueError(f"bias must have shape {parameterization.shape[:1]}, got {tuple(bias.shape)}")
        self.out_features, self.in_features = parameterization.shape
        self.scale = scale
        self.weight = None if weight is None else nn.Parameter(weight.detach(), requires_grad=False)
        trained = not isinstance(bias, nn.Parameter) or bias.requires_grad
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=trained)
        self.parameterization = parameterization
        self.replaced: type[nn.Module] = nn.Linear  # what `zoo.convert.merge` gives back

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if self.weight is None and self.scale == 1.0:
            return self.parameterization(x, self.bias)
        if self.weight is None:
            return F.linear(x, self.effective_weight(), self.bias)
        return self.parameterization.forward_update(x, self.weight, self.bias, self.scale)

    def update(self) -> Tensor:
        """What training added to the frozen weight, s W; from scratch, all of it; (out_features, in_features)."""
        return self.scale * self.parameterization.weight() if self.scale != 1.0 else self.parameterization.weight()

    def effective_weight(self) -> Tensor:
        """The matrix that the layer multiplies by, W0 + s W; (out_features, in_features)."""
        return self.update() if self.weight is None else self.weight + self.update()

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer with the same outputs, in the dtype of W0 where there is one."""
        w = self.effective_weight()
        w = w if self.weight is None else w.to(self.weight.dtype)
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=w.device, dtype=w.dtype)
        plain.weight.copy_(w)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        return plain

    def extra_repr(self) -> str:
        """Shape, and whether there is a base and a bias."""
        base = "" if self.weight is None else f", base, scale={self.scale}"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{base}"
