"""Contracts of the layers that use a map: every way from x to y is a product with `weight()`."""

import itertools
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from zoo.layers.batched import build_together
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.cost import counted
from zoo.testing.case import TOLERANCE, Shape, agree, on
from zoo.testing.kinds import KindContracts
from zoo.testing.maps import OwnWeightContracts
from zoo.testing.rates import RateContracts


class Parallel(nn.Module):
    """Layers over one x, their outputs stacked."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (layers, ..., m)."""
        return torch.stack([layer(x) for layer in self.layers])


Kind = tuple[Tensor | None, Tensor | None, float]
"""b, W0 and s."""


def times(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """x w^T + b, written out."""
    return x @ w.mT if bias is None else x @ w.mT + bias


class LayerContracts(KindContracts):
    """Every way from x to y is a product with the matrix that a layer stands for."""

    def stands_for(self, p: WeightParameterization, base: Tensor | None, scale: float) -> Tensor:
        """Return W0 + s W, written out; s W without W0."""
        return scale * p.weight() if base is None else base + scale * p.weight()

    def kinds_of_layer(self, shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Kind]]:
        """Yield what a layer is, and (b, W0, s): with b and W0 or without, s = 1 and not."""
        for biased, based, scale in itertools.product((True, False), self.bases, (1.0, 0.7)):
            bias = torch.randn(shape[0], dtype=dtype) if biased else None
            base = torch.randn(shape, dtype=dtype) if based else None
            kind = f"{'a' if biased else 'no'} bias, {'a' if based else 'no'} base, s = {scale:g}"
            yield kind, (bias, base, scale)

    def test_layers_train_their_weight(self, shape: Shape) -> None:
        """y = x (W0 + s W)^T + b, dL/dx and dL/dc in training, eval mode, recomputed.

        With b, W0 and s, or none of them; of a map that knows W0, y = x W'^T + b.
        """
        x, g = (
            torch.randn(2, 3, shape[1]).double().requires_grad_(),
            torch.randn(2, 3, shape[0]).double(),
        )
        for kind, (bias, base, scale) in self.kinds_of_layer(shape, torch.float64):
            p = self.make(shape).for_layer("a")
            y = times(x, self.stands_for(p, base, scale), bias)
            expected = self._with_gradients(p, x, y, g)
            for path, recompute, training in (
                ("in training", False, True),
                ("in eval mode", False, False),
                ("recomputed", True, True),
            ):
                with on(f"{path}, {kind}"):
                    layer = ZooLinear(p, bias, base, scale, recompute).train(training)
                    found = self._with_gradients(p, x, layer(x), g)
                    for (name, actual), wanted in zip(
                        found.items(), expected.values(), strict=True
                    ):
                        agree(actual, wanted, what=name)

    @staticmethod
    def _with_gradients(
        p: WeightParameterization, x: Tensor, y: Tensor, g: Tensor
    ) -> dict[str, Tensor]:
        names, values = zip(*p.named_parameters(), strict=True)
        grads = torch.autograd.grad(y, (x, *values), g)
        return dict(
            zip(
                ("y", "dL/dx", *(f"dL/d {name}" for name in names)),
                (y.detach(), *grads),
                strict=True,
            )
        )

    @torch.no_grad()
    def test_layers_keep_their_weight(self, shape: Shape) -> None:
        """Without gradients y = x (W0 + s W)^T + b: first, again, after a change, merged.

        Of one row or many.
        """
        for kind, (bias, base, scale) in self.kinds_of_layer(shape, torch.float64):
            p = self.make(shape).for_layer("a")
            for path, training in (
                ("in training without gradients", True),
                ("in eval mode without gradients", False),
            ):
                layer = ZooLinear(p, bias, base, scale).train(training)
                for when, batch in (("at first", (2, 3)), ("again", ()), ("after a change", (5,))):
                    if when == "after a change":
                        for q in p.parameters():
                            q.mul_(1.5)
                    x = torch.randn(*batch, shape[1]).double()
                    with on(f"{path}, {when}, {kind}"):
                        y = times(x, self.stands_for(p, base, scale), bias)
                        agree(layer(x), y, what="y")
                with on(f"merged, {kind}"):
                    agree(layer.merge()(x), y, what="y")

    def test_layers_under_autocast(self, shape: Shape) -> None:
        """Under bfloat16 autocast y = x (W0 + s W)^T + b to the rounding of its products."""
        x = torch.randn(4, shape[1])
        for kind, (bias, base, scale) in self.kinds_of_layer(shape, torch.float32):
            p = self.make(shape, torch.float32).for_layer("a")
            w = self.stands_for(p, base, scale).detach()
            y = times(x, w, bias)
            # Products cancel, roundings do not.
            parts = w.abs() if base is None else base.abs() + (w - base).abs()
            size = times(x.abs(), parts, None if bias is None else bias.abs()).max().item()
            for path, training, grads in (
                ("in training", True, True),
                ("in eval mode", False, True),
                ("kept", False, False),
            ):
                layer = ZooLinear(p, bias, base, scale).train(training)
                with (
                    on(f"{path}, {kind}"),
                    torch.set_grad_enabled(grads),
                    torch.autocast("cpu", torch.bfloat16),
                ):
                    error = (layer(x).float() - y).abs().max().item()
                    assert error <= 2**-6 * size, (
                        f"y is off by {error:.2e}, and may be by {2**-6 * size:.2e}"
                    )

    def test_merge(self, shape: Shape) -> None:
        """A merged layer gives the same outputs to 1e-5, with and without a frozen base."""
        x, bias = torch.randn(4, shape[1]), torch.randn(shape[0])
        for based in self.bases:
            base = torch.randn(shape) if based else None
            layer = ZooLinear(self.make(shape, torch.float32), bias, base, scale=0.7)
            agree(layer.merge()(x), layer(x).detach(), 1e-5, "y of the merged layer")

    def test_cost(self, shape: Shape) -> None:
        """cost(T) is what torch counts of a layer in training with T rows, and of its gradients.

        In multiply-adds; from scratch, and as an update of a frozen W0. A layer that keeps W reads
        mn numbers to multiply one row.
        """
        p = self.make(shape).for_layer("a")
        trained = [q for q in p.parameters() if q.requires_grad]
        for rows, update in itertools.product((1, 5, 70), sorted(self.bases)):
            layer = ZooLinear(p, None, torch.randn(shape).double() if update else None)
            x = torch.randn(rows, shape[1]).double().requires_grad_()
            found, stated = counted(partial(layer, x), [x, *trained]), p.cost(rows, update)
            with on(f"{rows} rows, {'an update' if update else 'from scratch'}"):
                assert stated[:2] == found, f"{stated}, and torch counts {found}"
                if p.builds_weight:
                    assert stated.read == math.prod(shape), f"{stated}, and W is kept"

    def _pair(self, dtype: torch.dtype) -> Parallel:
        """Make a layer from scratch, or of W0, and one that updates a base; 24 x 16."""
        first, second = (self.make((24, 16), dtype).for_layer(name) for name in "ab")
        bases = [None if False in self.bases else torch.randn(24, 16, dtype=dtype)]
        bases.append(torch.randn(24, 16, dtype=dtype))
        return Parallel(
            ZooLinear(first, torch.randn(24, dtype=dtype), bases[0]),
            ZooLinear(second, None, bases[1], 0.7),
        )

    def test_function_transforms(self) -> None:
        """torch.func's vmap, grad and jacrev give what a loop, backward and W give.

        In training and in eval mode.
        """
        net = self._pair(torch.float64)
        x = torch.randn(3, 2, 16).double()
        trained: dict[str, Tensor] = {
            name: p for name, p in net.named_parameters() if p.requires_grad
        }

        def loss(values: dict[str, Tensor], rows: Tensor) -> Tensor:
            y: Tensor = functional_call(net, values, (rows,))
            return y.tanh().sum()

        for path, training in (("in training", True), ("in eval mode", False)):
            net.train(training)
            with on(path):
                agree(vmap(net, out_dims=1)(x), net(x), what="vmap over x")
                weights = torch.stack([layer.effective_weight() for layer in net.layers])  # type: ignore[operator]
                agree(
                    jacrev(net)(x[0, 0]),
                    weights,
                    what="the Jacobian in x, which should be W0 + s W,",
                )
                found = vmap(grad(loss), in_dims=(None, 0))(trained, x)
                for i, rows in enumerate(x):
                    alone = torch.autograd.grad(net(rows).tanh().sum(), list(trained.values()))
                    for (name, actual), wanted in zip(found.items(), alone, strict=True):
                        agree(actual[i], wanted, what=f"the gradient of example {i + 1} in {name}")

    def test_exports(self) -> None:
        """torch.export takes layers for any number of rows, and changes no output.

        In training and in eval mode.
        """
        net = self._pair(torch.float32)
        for path, training in (("in training", True), ("in eval mode", False)):
            net.train(training)
            with on(path):
                rows = torch.export.Dim("rows")
                program = torch.export.export(
                    net, (torch.randn(5, 16),), dynamic_shapes={"x": {0: rows}}
                )
                x = torch.randn(9, 16)
                agree(program.module()(x), net(x), 1e-5, "y")


class ParameterizationTestCase(OwnWeightContracts, RateContracts, LayerContracts):
    """What holds of every parameterization that has a W of its own, alone and in layers."""

    def test_look_up(self, shape: Shape, dtype: torch.dtype) -> None:
        """look_up(i) = W[i], for indices of any shape, some twice and none."""
        p = self.make(shape, dtype)
        w = p.weight()
        for size in ((), (7,), (2, 3), (0,)):
            index = torch.randint(shape[0], size)
            rows = p.look_up(index)
            with on(f"{size} indices"):
                assert rows.dtype == dtype, f"rows are {rows.dtype}, and the coefficients {dtype}"
                agree(rows, w[index], TOLERANCE[dtype], "the rows")
        index = torch.randint(shape[0], (5,))
        with torch.autocast("cpu", torch.bfloat16):
            agree(p.look_up(index), w[index], TOLERANCE[dtype], "the rows under autocast")

    def test_together_is_alone(self, shape: Shape) -> None:
        """Layers that are built as one batch have the y and dL/dc that each has alone.

        They are of one shape (`zoo.layers.batched`).
        """
        maps = [self.make(shape).for_layer(name) for name in "abc"]
        biases = torch.randn(3, shape[0]).double()
        net = Parallel(*(ZooLinear(p, bias) for p, bias in zip(maps, biases, strict=True)))
        build_together(net)
        x, g = (
            torch.randn(5, shape[1]).double().requires_grad_(),
            torch.randn(3, 5, shape[0]).double(),
        )
        y = net(x)
        for i, p in enumerate(maps):
            alone = times(x, p.weight(), biases[i])
            names, values = zip(*p.named_parameters(), strict=True)
            with on(f"layer {i + 1} of 3"):
                agree(y[i], alone, what="y")
                grads = torch.autograd.grad(y, values, g, retain_graph=True)
                for name, actual, wanted in zip(
                    names, grads, torch.autograd.grad(alone, values, g[i]), strict=True
                ):
                    agree(actual, wanted, what=f"dL/d {name}")

    def test_compiles(self) -> None:
        """torch.compile takes forward and backward without a graph break, and changes neither."""
        p = self.make((24, 16), torch.float32)
        x = torch.randn(3, 16)
        expected = p(x)
        grads = torch.autograd.grad(expected.square().sum(), list(p.parameters()))
        torch._dynamo.reset()
        actual = torch.compile(p, fullgraph=True, backend="aot_eager")(x)
        agree(actual, expected, 1e-5, "y")
        found = torch.autograd.grad(actual.square().sum(), list(p.parameters()))
        for (name, _), a, b in zip(p.named_parameters(), found, grads, strict=True):
            agree(a, b, 1e-5, f"dL/d {name}")
