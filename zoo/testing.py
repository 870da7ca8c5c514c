"""The conformance suite: every contract of `WeightParameterization`, as a test that subclasses inherit.

In a test file, for pytest:

    class TestMyBasis(ParameterizationTestCase):
        parameterization = MyBasis
        arguments = {"ratio": 0.5}

or without one: `zoo check my_basis.MyBasis`. Algebra is checked in float64. No test needs pytest itself.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.linear import ZooLinear
from zoo.parameterizations import Dense, OrthonormalSubspace, WeightParameterization

Shape = tuple[int, int]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest error accepted, relative to the largest value."""


def agree(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Fail unless two tensors differ by at most `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} is not {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), 1e-12)
    assert error <= tolerance * scale, f"they differ by {error:.2e}, where the largest value is {scale:.2e}"


class ParameterizationTestCase:
    """Contracts, one method each. Set `parameterization` and what it needs besides a shape.

    Attributes:
        parameterization: the class under test.
        arguments: its other arguments.
        shapes: every contract is checked on each.
        std_tolerance: relative error of the initial standard deviation, on a 96 x 64 weight.
    """

    parameterization: type[WeightParameterization]
    arguments: ClassVar[dict[str, Any]] = {}
    shapes: ClassVar[tuple[Shape, ...]] = ((16, 16), (8, 24), (24, 8), (13, 7), (1, 12))
    std_tolerance: ClassVar[float] = 0.2

    def make(self, shape: Shape, dtype: torch.dtype = torch.float64) -> WeightParameterization:
        """One instance, with random coefficients."""
        return self.parameterization(*shape, **self.arguments).to(dtype)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run every test on every shape, and those that want one in every dtype."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", self.shapes, ids=lambda s: f"{s[0]}x{s[1]}")
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", list(TOLERANCE), ids=lambda d: str(d).removeprefix("torch."))

    def test_weight_has_its_shape(self, shape: Shape) -> None:
        """weight() is (out_features, in_features), in the coefficients' dtype."""
        p = self.make(shape)
        assert p.weight().shape == p.shape == shape
        assert p.weight().dtype == next(p.parameters()).dtype

    def test_forward_equals_weight(self, shape: Shape, dtype: torch.dtype) -> None:
        """forward(x, b) = x W^T + b."""
        p = self.make(shape, dtype)
        x, b = torch.randn(3, 5, shape[1], dtype=dtype), torch.randn(shape[0], dtype=dtype)
        agree(p(x), x.double() @ p.weight().double().T, TOLERANCE[dtype])
        agree(p(x, b), x.double() @ p.weight().double().T + b.double(), TOLERANCE[dtype])

    def test_low_precision_rounds_once(self, shape: Shape) -> None:
        """W of bfloat16 coefficients is W of the same coefficients in float64, to one rounding."""
        p = self.make(shape, torch.bfloat16)
        exact = copy.deepcopy(p).double()
        if isinstance(p, OrthonormalSubspace):
            agree(p.weight(), exact.weight(), 2**-7)
        agree(p.weight(), exact.weight(), TOLERANCE[torch.bfloat16])

    def test_autocast_builds_in_full_precision(self, shape: Shape) -> None:
        """Under bfloat16 autocast, forward errs by the rounding of its product and no more."""
        p = self.make(shape, torch.float32)
        x = torch.randn(4, shape[1])
        with torch.autocast("cpu", torch.bfloat16):
            y = p(x)
        scale = (x.abs() @ p.weight().abs().T).max()  # products cancel, roundings do not
        assert (y.float() - x @ p.weight().T).abs().max() <= 2**-6 * scale

    def test_count(self, shape: Shape) -> None:
        """num_trainable = number of coefficients that require a gradient, at least 1."""
        p = self.make(shape)
        assert p.num_trainable == sum(q.numel() for q in p.parameters() if q.requires_grad) >= 1
        if isinstance(p, OrthonormalSubspace) and self.arguments.get("ratio") is not None:
            assert p.num_trainable == max(1, round(self.arguments["ratio"] * shape[0] * shape[1]))

    def test_initial_std(self) -> None:
        """reset_parameters(std): E[W_ij^2] = std^2."""
        p = self.make((96, 64))
        energies = []
        for _ in range(20):
            p.reset_parameters(0.3)
            energies.append(p.weight().detach().square().mean())
        ratio = torch.stack(energies).mean().sqrt().item() / 0.3
        assert abs(ratio - 1) <= self.std_tolerance, f"the standard deviation is {ratio:.3f} times what it should be"

    def test_zero_initialisation(self, shape: Shape) -> None:
        """reset_parameters(0): W = 0, and the gradient is not."""
        p = self.make(shape)
        p.reset_parameters(0.0)
        w = p.weight()
        assert w.abs().max() == 0
        (w * torch.randn_like(w)).sum().backward()
        assert max(q.grad.abs().max() for q in p.parameters() if q.grad is not None) > 0

    def test_project_is_stationary(self, shape: Shape) -> None:
        """project_(T): the gradient of |W - T|^2 in the coefficients vanishes."""
        p, target = self.make(shape), torch.randn(shape, dtype=torch.float64)
        before = self._slope(p, target)
        p.project_(target)
        after = self._slope(p, target)
        assert after <= 1e-3 * before, f"the gradient is {after:.2e}, and {before:.2e} at random coefficients"

    def _slope(self, p: WeightParameterization, target: Tensor) -> float:
        p.zero_grad()
        (p.weight() - target).square().sum().backward()
        return max(q.grad.abs().max().item() for q in p.parameters() if q.grad is not None)

    def test_project_is_idempotent(self, shape: Shape) -> None:
        """project_(W) leaves W as it is."""
        p = self.make(shape)
        w = p.weight().detach().clone()
        p.project_(w)
        agree(p.weight(), w, 1e-6)

    def test_isometry(self, shape: Shape) -> None:
        """|W| = |c|, where the basis is orthonormal."""
        p = self.make(shape)
        if isinstance(p, OrthonormalSubspace):
            agree(p.weight().norm(), p.coef.norm())

    def test_analyze_inverts_synthesize(self, shape: Shape) -> None:
        """analyze(synthesize(S)) = S, where the basis is orthonormal."""
        p = self.make(shape)
        if isinstance(p, OrthonormalSubspace):
            coef = torch.randn_like(p.coef)
            agree(p.gather(p.expand(coef, p.places), p.places), coef)

    def test_map_rank_is_count(self, shape: Shape) -> None:
        """The map from coefficients to W has rank num_trainable, where it is linear: none is redundant."""
        p = self.make(shape)
        if isinstance(p, OrthonormalSubspace | Dense):
            (jacobian,) = torch.autograd.functional.jacobian(self._function(p), tuple(p.parameters()))
            jacobian = jacobian.reshape(p.weight().numel(), p.num_trainable)
            assert torch.linalg.matrix_rank(jacobian) == p.num_trainable

    def _function(self, p: WeightParameterization) -> Callable[..., Tensor]:
        names = [name for name, _ in p.named_parameters()]

        class Weight(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.p = p

            def forward(self) -> Tensor:
                return self.p.weight()

        module = Weight()
        return lambda *values: torch.func.functional_call(
            module, {f"p.{n}": v for n, v in zip(names, values, strict=True)}, ()
        )

    def test_gradient(self) -> None:
        """The backward pass is the derivative of weight(), and is differentiable itself."""
        p = self.make((5, 4))
        values = tuple(q.detach().requires_grad_() for q in p.parameters())
        assert torch.autograd.gradcheck(self._function(p), values)
        assert torch.autograd.gradgradcheck(self._function(p), values)

    def test_state_is_coefficients_only(self, shape: Shape) -> None:
        """The state dict holds the parameters and nothing that a seed rebuilds."""
        p = self.make(shape)
        assert list(p.state_dict()) == [name for name, _ in p.named_parameters()]

    def test_load_under_another_seed(self, shape: Shape) -> None:
        """W follows from the state dict and the constructor's arguments alone, not from the global seed."""
        torch.manual_seed(1)
        p = self.make(shape)
        torch.manual_seed(2)
        q = self.make(shape)
        assert p.fingerprint() == q.fingerprint()
        q.load_state_dict(p.state_dict())
        assert torch.equal(p.weight(), q.weight())

    def test_layers_keep_their_positions(self, shape: Shape) -> None:
        """for_layer(name) is a function of the name: the same name gives the same W from the same coefficients."""
        p, q = self.make(shape), self.make(shape)
        q.load_state_dict(p.state_dict())
        assert torch.equal(p.for_layer("a").weight(), q.for_layer("b").for_layer("a").weight())

    def test_pickle(self, shape: Shape) -> None:
        """A pickled copy has the same W."""
        p = self.make(shape)
        assert torch.equal(pickle.loads(pickle.dumps(p)).weight(), p.weight())

    def test_deepcopy(self, shape: Shape) -> None:
        """A deep copy has the same W, and coefficients of its own."""
        p = self.make(shape)
        q = copy.deepcopy(p)
        assert torch.equal(q.weight(), p.weight())
        q.reset_parameters(1.0)
        assert not torch.equal(q.weight(), p.weight())

    def test_meta_initialisation(self, shape: Shape) -> None:
        """Built on the meta device, emptied onto a real one and loaded, W is what it was."""
        p = self.make(shape, torch.float32)
        with torch.device("meta"):
            q = self.parameterization(*shape, **self.arguments)
        assert all(t.is_meta for t in q.parameters())
        q = q.to_empty(device="cpu")
        q.load_state_dict(p.state_dict())
        assert torch.equal(q.weight(), p.weight())

    def test_moves_to_another_dtype(self, shape: Shape) -> None:
        """There and back through a wider dtype, W is what it was: what is fixed is rebuilt, not rounded."""
        p = self.make(shape, torch.float32)
        w = p.weight().detach().clone()
        agree(p.double().weight(), w, 1e-5)
        assert torch.equal(p.float().weight(), w)

    def test_forward_update(self, shape: Shape) -> None:
        """forward_update(x, W0, b, s) = x (W0 + s W)^T + b, whichever way it is computed."""
        p, base, bias = self.make(shape), torch.randn(shape).double(), torch.randn(shape[0]).double()
        for batch in ((2, 3), ()):
            x = torch.randn(*batch, shape[1]).double()
            agree(p.forward_update(x, base, bias, 0.7), x @ (base + 0.7 * p.weight()).mT + bias, 1e-9)

    def test_merge(self, shape: Shape) -> None:
        """A merged layer gives the same outputs to 1e-5, with and without a frozen base."""
        x, bias = torch.randn(4, shape[1]), torch.randn(shape[0])
        for base in (None, torch.randn(shape)):
            layer = ZooLinear(self.make(shape, torch.float32), bias, base, scale=0.7)
            agree(layer.merge()(x), layer(x).detach(), 1e-5)

    def test_only_coefficients_move(self, shape: Shape) -> None:
        """A step changes every coefficient tensor, and nothing that is fixed."""
        p = self.make(shape)
        before, fixed = [q.detach().clone() for q in p.parameters()], p.fingerprint()
        optimizer = torch.optim.SGD(p.parameters(), lr=0.1)
        (p.weight() * torch.randn(shape, dtype=torch.float64)).sum().backward()
        optimizer.step()
        assert all(not torch.equal(a, b) for a, b in zip(before, p.parameters(), strict=True))
        assert p.fingerprint() == fixed

    def test_compiles(self) -> None:
        """torch.compile takes forward and backward without a graph break, and changes neither."""
        p = self.make((24, 16), torch.float32)
        x = torch.randn(3, 16)
        expected = p(x)
        grads = torch.autograd.grad(expected.square().sum(), list(p.parameters()))
        torch._dynamo.reset()
        actual = torch.compile(p, fullgraph=True, backend="aot_eager")(x)
        agree(actual, expected, 1e-5)
        for a, b in zip(torch.autograd.grad(actual.square().sum(), list(p.parameters())), grads, strict=True):
            agree(a, b, 1e-5)

    def test_learning_rate_multiplier(self) -> None:
        """1 / rms(dW) <= lr_mult <= sum |G| / <G, dW>: as large as a dense step, of independent signs and of G's.

        For coefficients that move by +-1 from a 96 x 64 weight, at initialisation, and a gradient G of rank one. Within
        a factor 1.5, since either is one draw.
        """
        p = self.make((96, 64))
        p.reset_parameters(0.02)
        before = p.weight()
        g = torch.outer(torch.randn(96), torch.randn(64))
        grads = torch.autograd.grad((before * g).sum(), list(p.parameters()))
        moved = self._moved(p, [torch.randn_like(q).sign() for q in p.parameters()]).square().mean().sqrt().item()
        along = ((self._moved(p, [grad.sign() for grad in grads]) * g).sum() / g.abs().sum()).item()
        low, high = 1 / moved / 1.5, 1 / along * 1.5
        assert low <= p.lr_mult <= high, f"lr_mult is {p.lr_mult:.3f}, and not between {low:.3f} and {high:.3f}"

    @staticmethod
    @torch.no_grad()
    def _moved(p: WeightParameterization, moves: list[Tensor], step: float = 1e-6) -> Tensor:
        """How far W goes per unit of a small step of all parameters."""
        before = p.weight().clone()
        for q, move in zip(p.parameters(), moves, strict=True):
            q.add_(move, alpha=step)
        after = p.weight().clone()
        for q, move in zip(p.parameters(), moves, strict=True):
            q.sub_(move, alpha=step)
        return (after - before) / step


def conformance(case: ParameterizationTestCase) -> Iterator[tuple[str, str, str | None]]:
    """Run a case without pytest: (contract, its equation, first failure or None), one a test."""
    for name in [n for n in vars(ParameterizationTestCase) if n.startswith("test_")]:
        test = getattr(case, name)
        names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
        failure = None
        for arguments in _combinations(names, case.shapes):
            torch.manual_seed(0)
            try:
                test(**arguments)
            except Exception as error:  # a failed contract, whichever way it fails
                where = ", ".join(str(v).removeprefix("torch.") for v in arguments.values())
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                failure = f"{where}: {first}" if where else first
                break
        yield name.removeprefix("test_").replace("_", " "), (test.__doc__ or "").strip().splitlines()[0], failure


def _combinations(names: tuple[str, ...], shapes: tuple[Shape, ...]) -> Iterator[dict[str, Any]]:
    for shape in shapes if "shape" in names else (None,):
        for dtype in TOLERANCE if "dtype" in names else (None,):
            yield {k: v for k, v in (("shape", shape), ("dtype", dtype)) if v is not None}
