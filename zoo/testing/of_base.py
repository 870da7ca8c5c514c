"""Contracts of maps that know the frozen weight W0: those of W' - W0, and of layers with W'."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.bases.seeds import generator
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import OfBase, WeightParameterization
from zoo.parameterizations.cost import products_of_weight
from zoo.testing.case import TOLERANCE, Shape, agree
from zoo.testing.layers import LayerContracts
from zoo.testing.maps import MapContracts


class Beside(WeightParameterization):
    """The update W' - W0 of a map beside a fixed W0, as a map of its own.

    Args:
        inner: the map of W0.
    """

    base: Tensor

    def __init__(self, inner: OfBase) -> None:
        super().__init__(*inner.shape)
        self.inner = inner
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Draw W0, the same one for every map of this shape."""
        like = next(self.inner.parameters())
        drawn = torch.randn(self.shape, generator=generator(0, "base"), dtype=torch.float64)
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("base", drawn.to(like.device, dtype), persistent=False)
        self.inner._rebuild()
        self.inner.for_base(self.base)

    def weight(self) -> Tensor:
        """Return W' - W0, in the coefficients' dtype."""
        update = self.inner.effective(self.base) - self.base
        return update.to(next(self.inner.parameters()).dtype)

    def reset_parameters(self, std: float) -> None:
        """Set W' = W0, whatever `std`."""
        self.inner.reset_parameters(0.0)

    def project_(self, target: Tensor) -> None:
        """Refuse, as the map does."""
        self.inner.project_(target)

    @property
    def lr_mult(self) -> dict[str, float]:
        """Those of the map."""
        return {f"inner.{name}": mult for name, mult in self.inner.lr_mults().items()}


class OfBaseTestCase(MapContracts, LayerContracts):
    """What holds of every map of W0."""

    parameterization: type[OfBase]
    bases: ClassVar[tuple[bool, ...]] = (True,)

    def make(self, shape: Shape, dtype: torch.dtype = torch.float64) -> Any:
        """Make an instance some way from its start."""
        p = super().make(shape, dtype)
        with torch.no_grad():
            for q in p.parameters():
                q.add_(0.3 * torch.randn_like(q))
        return p

    def map(self, shape: Shape, dtype: torch.dtype = torch.float64) -> Any:
        """Make the map whose W is W' - W0."""
        return Beside(self.make(shape, dtype)).to(dtype)

    def stands_for(self, p: Any, base: Tensor | None, scale: float) -> Tensor:
        """Return W' of W0."""
        assert base is not None, "a map of W0 needs one"
        found: Tensor = p.effective(base, scale)
        return found

    def test_starts_as_its_base(self, shape: Shape, dtype: torch.dtype) -> None:
        """reset_parameters(0): W' = W0, and the gradient is not 0."""
        p, base = self.make(shape, dtype), torch.randn(shape).to(dtype)
        p.for_base(base).reset_parameters(0.0)
        w = p.effective(base)
        agree(w, base, 0.0 if p.starts_exactly else TOLERANCE[dtype], "W' at the start")
        (w * torch.randn_like(w)).sum().backward()
        largest = max(
            (q.grad.abs().max().item() for q in p.parameters() if q.grad is not None), default=0.0
        )
        assert largest > 0, "the gradient is 0, so that nothing would ever be learned"

    def test_needs_a_base(self, shape: Shape) -> None:
        """weight(), forward(x), project_(T) and reset_parameters(std > 0) raise a ValueError."""
        p = self.make(shape)
        for name, call in {
            "weight()": p.weight,
            "forward(x)": lambda: p(torch.randn(2, shape[1]).double()),
            "project_(T)": lambda: p.project_(torch.randn(shape).double()),
            "reset_parameters(1)": lambda: p.reset_parameters(1.0),
        }.items():
            refused = False
            try:
                call()
            except ValueError:
                refused = True
            assert refused, f"{name} raises no ValueError, and there is no W0"

    def test_the_wider_dtype(self, shape: Shape) -> None:
        """effective(W0) is of the wider dtype of W0's and the coefficients', on any device."""
        for mine, theirs, wide in (
            (torch.float32, torch.bfloat16, torch.float32),
            (torch.bfloat16, torch.float32, torch.float32),
            (torch.float32, torch.float64, torch.float64),
            (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ):
            p, base = self.make(shape, mine), torch.randn(shape).to(theirs)
            with torch.autocast("cpu", torch.bfloat16):
                found = p.effective(base)
            assert found.dtype == wide, f"of {mine} and {theirs} it is {found.dtype}"
            exact = p.double().effective(base.double())
            tolerance = 4e-2 if torch.bfloat16 in (mine, wide) else 1e-4
            agree(found, exact, tolerance, f"W' of {mine} and {theirs}")
            with torch.device("meta"):
                q = self.parameterization(*shape, **self.arguments)
                there = q.effective(torch.empty(shape))
            assert there.is_meta and tuple(there.shape) == shape, "there is no W' on meta"

    def test_update_is_the_difference(self, shape: Shape) -> None:
        """update() = W' - W0, and merged_weight() = W' in W0's dtype."""
        p, base = self.make(shape), torch.randn(shape).double()
        layer = ZooLinear(p, None, base, 0.7)
        w = p.effective(base, 0.7)
        agree(layer.update(), w - base, what="the update")
        agree(layer.merged_weight(), w, what="the merged weight")

    def test_building(self) -> None:
        """building() is what torch counts of effective(W0) and its gradient, in multiply-adds."""
        p = self.make((96, 64))
        stated, found = p.building(), products_of_weight(p)
        assert stated == found, f"building() is {stated}, and torch counts {found}"

    def test_learning_rate_multiplier(self) -> None:
        """lr_mult = 1 / rms(dW) within a factor 1.5, from the start: a step is as large as a dense.

        For independent signs, of a 96 x 64 weight.
        """
        base = 0.05 * torch.randn(96, 64).double()
        p: Any = super().make((96, 64)).for_base(base)
        p.reset_parameters(0.0)
        mults, step = p.lr_mults(), 1e-6
        with torch.no_grad():
            for name, q in p.named_parameters():
                q.add_(torch.randn_like(q).sign(), alpha=step * mults[name])
            moved = ((p.effective(base) - base) / step).square().mean().sqrt().item()
        assert 1 / 1.5 <= moved <= 1.5, (
            f"lr_mult is {p.lr_mult}, and should be that times {1 / moved:.3f}"
        )

    def test_gradient(self) -> None:
        """The backward pass is the derivative of effective(W0), but for what it takes for constant.

        Where that is something, no loss is: the gradient of |W' x - y|^2 along itself decreases it.
        """
        if not self.parameterization.detaches:
            super().test_gradient()
            return
        p, base = self.make(self.small), torch.randn(self.small).double()
        target = torch.randn(self.small).double()
        before = (p.effective(base) - target).square().sum()
        grads = torch.autograd.grad(before, list(p.parameters()))
        with torch.no_grad():
            for q, grad in zip(p.parameters(), grads, strict=True):
                q.sub_(grad, alpha=1e-5)
            after = (p.effective(base) - target).square().sum()
        assert after < before, f"the loss goes from {before:.6f} to {after:.6f}"

    def test_compiles(self) -> None:
        """torch.compile takes a layer, forward and backward, without a graph break.

        It changes neither.
        """
        p = self.make((24, 16), torch.float32)
        layer = ZooLinear(p, None, torch.randn(24, 16))
        x = torch.randn(3, 16)
        expected = layer(x)
        grads = torch.autograd.grad(expected.square().sum(), list(p.parameters()))
        torch._dynamo.reset()
        actual = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
        agree(actual, expected, 1e-5, "y")
        found = torch.autograd.grad(actual.square().sum(), list(p.parameters()))
        for (name, _), a, b in zip(p.named_parameters(), found, grads, strict=True):
            agree(a, b, 1e-4, f"dL/d {name}")
