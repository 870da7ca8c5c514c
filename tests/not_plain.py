"""Linear layers that are another function than their weight says, by what they are."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


class Int8(nn.Linear):
    """A weight in eight bits, with a scale."""

    def __init__(self, m, n):
        super().__init__(n, m)
        del self.weight
        self.register_buffer("weight", torch.randint(-127, 127, (m, n), dtype=torch.int8))
        self.weight_scale = 0.01

    def forward(self, x):
        return F.linear(x, self.weight * self.weight_scale, self.bias)


class Scaled(nn.Linear):
    """Outputs that are scaled."""

    def forward(self, x):
        return 2 * super().forward(x)


class Packed(nn.Linear):
    """A weight of another shape than the layer's."""

    def __init__(self, m, n):
        super().__init__(n, m)
        self.weight = nn.Parameter(torch.zeros(m * n // 2, 1))


class Called(nn.Linear):
    """A layer whose call does more than its forward pass."""

    def __call__(self, x):
        return super().__call__(x) + 1


class Marked(torch.Tensor):
    """A tensor with an arithmetic of its own, as libraries of quantization have them."""


class Wrapped(nn.Linear):
    """A layer that does more below its call."""

    def _call_impl(self, *args, **kwargs):
        return super()._call_impl(*args, **kwargs) + 1


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def patched(m, n):
    layer = nn.Linear(n, m)
    plain = layer.forward
    layer.forward = lambda x: plain(x) + 1
    return layer


def subclassed(m, n):
    layer = nn.Linear(n, m)
    weight = layer.weight.detach().as_subclass(Marked)
    layer.weight = nn.Parameter(weight)
    return layer


def float8(m, n):
    layer = nn.Linear(n, m)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return layer


NOT_PLAIN: dict[str, Callable[[int, int], nn.Module]] = {
    "int8": Int8,
    "scaled": lambda m, n: Scaled(n, m),
    "packed": Packed,
    "called": lambda m, n: Called(n, m),
    "wrapped": lambda m, n: Wrapped(n, m),
    "patched": patched,
    "subclassed": subclassed,
    "float8": float8,
    "weight norm": lambda m, n: parametrizations.weight_norm(nn.Linear(n, m)),
    "spectral norm": lambda m, n: parametrizations.spectral_norm(nn.Linear(n, m)),
    "pruned": lambda m, n: prune.l1_unstructured(nn.Linear(n, m), "weight", 0.5),
    "pruned bias": lambda m, n: prune.l1_unstructured(nn.Linear(n, m), "bias", 0.5),
    "computed bias": lambda m, n: parametrize.register_parametrization(
        nn.Linear(n, m), "bias", Doubled()
    ),
}
COMPUTED = ("pruned", "pruned bias")
"""Those whose weight or bias is no parameter, but set by a hook in each pass."""
