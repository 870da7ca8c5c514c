"""Contracts of a map in layers that are not linear, or not torch's: its matrix is theirs."""

import copy
import itertools
import math
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from zoo.bases.vmapped import Function
from zoo.layers.layer import ZooLayer
from zoo.layers.merge import merge, restore
from zoo.layers.swap import swap
from zoo.parameterizations import WeightParameterization
from zoo.testing.case import Case, Shape, agree, on


class _Product(Function):
    """(x, q, s) -> x (q s)^T, of which backward keeps nothing but the numbers and their scales."""

    @staticmethod
    def forward(x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
        return F.linear(x, numbers.to(x.dtype)) * scales.to(x.dtype).mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        numbers, scales = ctx.saved_tensors
        return (grad * scales.to(grad.dtype).mT) @ numbers.to(grad.dtype), None, None


class Quantized(nn.Module):
    """A linear layer in eight bits, as another library has one: y = x (q s)^T + b.

    Args:
        out_features: rows of W0.
        in_features: columns of W0.
        bias: whether there is a b.
    """

    numbers: Tensor  # (m, n), int8
    scales: Tensor  # (m, 1)

    def __init__(self, out_features: int, in_features: int, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = out_features, in_features
        shape = out_features, in_features
        self.register_buffer("numbers", torch.randint(-127, 128, shape).to(torch.int8))
        self.register_buffer("scales", torch.rand(out_features, 1) / 64)
        self.bias = nn.Parameter(torch.randn(out_features)) if bias else None

    def dequantize(self) -> Tensor:
        """Return W0, (m, n)."""
        return self.numbers * self.scales

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x by W0 in its own way, and add b."""
        y: Tensor = _Product.apply(x, self.numbers, self.scales)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class Example(NamedTuple):
    """A layer whose weight is a matrix of the shape that is asked for, and something to pass."""

    name: str
    layer: nn.Module
    x: Tensor


def examples(shape: Shape, dtype: torch.dtype, bias: bool) -> Iterator[Example]:
    """Yield convolutions of one to three dimensions, some in groups, and embeddings."""
    (m, n), sizes = shape, factors(shape[1])
    modes = itertools.cycle(("zeros", "circular", "reflect", "replicate"))
    cls: Any
    for axes, cls in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1):
        kernel = (*sizes, 1, 1, 1)[:axes]
        channels = n // math.prod(kernel)
        for groups in sorted({1, 2 if m % 2 == 0 else m}):
            pads, strides = tuple(k // 2 for k in kernel), (2, *[1] * (axes - 1))
            mode = next(modes) if groups > 1 else "zeros"
            layer = cls(
                channels * groups,
                m,
                kernel,
                strides,
                pads,
                groups=groups,
                bias=bias,
                padding_mode=mode,
                dtype=dtype,
            )
            around = [k + 2 for k in kernel]
            x = torch.randn(2, channels * groups, *around, dtype=dtype)
            yield Example(f"{axes}d of {groups} groups, {mode}", layer, x)
    for padding in (None, m - 1) if m > 1 else (None,):  # an only row that pads leaves no W0
        embedding = nn.Embedding(m, n, padding_idx=padding, dtype=dtype)
        index = torch.cat([torch.arange(m), torch.randint(m, (3,))]).view(1, -1)
        yield Example(f"an embedding, padding_idx={padding}", embedding, index)


def factors(n: int) -> list[int]:
    """Return the prime factors of a number, descending; the largest three are below 8 here."""
    found: list[int] = []
    for k in (7, 5, 3, 2):
        while n % k == 0 and len(found) < 3:
            found.append(k)
            n //= k
    return found


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """Return what a layer's pass takes: copies of its tensors by name."""
    return {name: t.detach().clone() for name, t in layer.state_dict().items()}


class KindContracts(Case):
    """A map in a convolution, in an embedding or beside a foreign layer is the matrix of it."""

    bases: ClassVar[tuple[bool, ...]] = (True, False)
    """Whether there is a W0."""

    def stands_for(self, p: WeightParameterization, base: Tensor | None, scale: float) -> Tensor:
        """Return W0 + s W, written out; s W without W0."""
        raise NotImplementedError

    def swapped(self, layer: nn.Module, update: bool, scale: float) -> Any:
        """Return a layer in the place of a copy of another one, some way from its start."""
        dtype = next((p.dtype for p in layer.parameters()), torch.float32)
        new: Any = swap(
            copy.deepcopy(layer),
            {"": lambda m, n: self.make((m, n), dtype).for_layer("a")},
            start="update" if update else "random",
            scale=scale,
        )
        with torch.no_grad():
            for p in new.parameterization.parameters():
                p.add_(0.3 * torch.randn_like(p))
        return new

    def test_other_layers_train_their_weight(self, shape: Shape) -> None:
        """A convolution or embedding has y, dL/dx and dL/dc of the plain one with W0 + s W.

        In training and eval mode, with W0 or without, with gradients and without, first and again.
        """
        updates, scales = itertools.cycle(sorted(self.bases)), itertools.cycle((0.7, 0.7, 1.0, 1.0))
        for bias in (True, False):
            for name, plain, x in examples(shape, torch.float64, bias):
                update, scale = next(updates), next(scales)
                with on(f"{name}, {'an update' if update else 'from scratch'}, s = {scale:g}"):
                    layer = self.swapped(plain, update, scale)
                    self._compare_with_plain(plain, x, layer, update, scale)
            next(updates)  # without a bias each is the other one

    def _compare_with_plain(
        self, plain: nn.Module, x: Tensor, layer: Any, update: bool, scale: float
    ) -> None:
        p, x = layer.parameterization, x.clone()
        if x.is_floating_point():
            x.requires_grad_()
        wanted = self._matrix(plain, layer, update, scale)
        agree(layer.effective_weight(), wanted, what="effective_weight()")
        tensors = tensors_of(plain) | {"weight": wanted.view(layer.stored_shape)}
        y = functional_call(plain, tensors, (x,))
        names = ["dL/dx"] * x.requires_grad + [f"dL/d {name}" for name, _ in p.named_parameters()]
        values = [*([x] if x.requires_grad else []), *p.parameters()]
        g = torch.randn_like(y)
        grads = torch.autograd.grad(y, values, g, allow_unused=True)
        for training in (True, False):
            found = layer.train(training)(x)
            agree(found, y, what="y")
            for name, actual, expected in zip(
                names, torch.autograd.grad(found, values, g, allow_unused=True), grads, strict=True
            ):
                if expected is not None:
                    agree(actual, expected, what=name)
        with torch.no_grad():
            for when in ("y without gradients", "y again"):
                agree(layer(x), y, what=when)
            agree(merge(layer)(x), y, what="y of the merged layer")

    def _matrix(self, plain: Any, layer: Any, update: bool, scale: float) -> Tensor:
        """Return what a layer stands for, the row of padding as in W0, or 0."""
        base = plain.weight.detach().flatten(1) if update else None
        matrix = self.stands_for(layer.parameterization, base, scale)
        padding = getattr(plain, "padding_idx", None)
        if padding is None:
            return matrix
        row = torch.zeros_like(matrix[:1]) if base is None else base[padding : padding + 1]
        return torch.cat([matrix[:padding], row, matrix[padding + 1 :]])

    def test_foreign_layers_have_an_update(self, shape: Shape) -> None:
        """Beside a layer of another library y = layer(x) + s x W^T, and so are dL/dx and dL/dc.

        Of a map that knows W0, y = layer(x) + x (W' - W0)^T; in training and in eval mode.
        """
        for bias, scale in ((True, 0.7), (False, 1.0)):
            plain = Quantized(*shape, bias)
            layer = self.swapped(plain, True, scale)
            p, x = layer.parameterization, torch.randn(2, 3, shape[1]).requires_grad_()
            values, g = [x, *p.parameters()], torch.randn(2, 3, shape[0])
            y = F.linear(x, self.stands_for(p, plain.dequantize(), scale), plain.bias)
            grads = torch.autograd.grad(y, values, g)
            for training in (True, False):
                with on(f"{'a' if bias else 'no'} bias, training={training}"):
                    found = layer.train(training)(x)
                    agree(found, y, 1e-4, "y")
                    for actual, expected in zip(
                        torch.autograd.grad(found, values, g), grads, strict=True
                    ):
                        agree(actual, expected, 1e-3, "a gradient")
            with torch.no_grad():
                agree(layer(x), y, 1e-4, "y without gradients")
                agree(merge(layer)(x), y, 1e-4, "y of the merged layer")

    @torch.no_grad()
    def test_other_layers_come_and_go(self, shape: Shape) -> None:
        """Disabled or restored a layer is the plain one to the bit; copies and files are the layer.

        Its state dict has the plain one's names, and `parameterization.*`.
        """
        linear = nn.Linear(shape[1], shape[0], bias=False), torch.randn(3, shape[1])
        foreign = Quantized(*shape, bias=True), torch.randn(3, shape[1])
        others = [
            Example("linear", *linear),
            Example("foreign", *foreign),
            *examples(shape, torch.float32, bias=True),
        ]
        for i, (name, plain, x) in enumerate(others):
            training = i % 2 == 0
            with on(f"{name}, training={training}"):
                layer = self.swapped(plain.train(training), True, 0.7)
                self._check_copies(plain, layer, x)

    def _check_copies(self, plain: nn.Module, layer: ZooLayer, x: Tensor) -> None:
        y, names = layer(x).clone(), list(plain.state_dict())
        own = [name for name in layer.state_dict() if not name.startswith("parameterization.")]
        assert own == names, f"the state dict has {own}, and the plain layer's {names}"
        layer.enabled = False
        agree(layer(x), plain(x), 0.0, "y of a layer that is not enabled")
        agree(layer.update(), torch.zeros(layer.parameterization.shape), 0.0, "its update")
        layer.enabled = True
        agree(layer(x), y, 0.0, "y of a layer that is enabled again")
        agree(copy.deepcopy(layer)(x), y, 0.0, "y of a copy")
        agree(pickle.loads(pickle.dumps(layer))(x), y, 0.0, "y of a pickled copy")
        other: Any = self.swapped(plain, True, 0.7)
        other.load_state_dict(copy.deepcopy(layer.state_dict()))
        agree(other(x), y, 1e-6, "y of a loaded state dict")
        restored = restore(layer, [""])
        assert type(restored) is type(plain), f"restored it is a {type(restored).__name__}"
        agree(restored(x), plain(x), 0.0, "y of the restored layer")
