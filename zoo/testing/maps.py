"""Contracts of the map from coefficients to W."""

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.cost import products_of_weight
from zoo.testing.case import TOLERANCE, Case, Shape, agree, on


def function_of(p: WeightParameterization) -> Callable[..., Tensor]:
    """W as a function of the coefficients, in the order of `parameters()`."""
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


def where(p: torch.nn.Module) -> set[torch.device]:
    """Return the devices of parameters and buffers."""
    return {t.device for t in (*p.parameters(), *p.buffers())}


def agree_on_basis(p: WeightParameterization, q: WeightParameterization) -> None:
    """Fail unless what is fixed is the same."""
    found, wanted = p.fingerprint(), q.fingerprint()
    assert found == wanted, f"the hash of what is fixed is {found}, and should be {wanted}"


def x_of_every_shape(n: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield one row or many, none, a batch of batches, and one that is not contiguous.

    Each is what it is, and x (..., n).
    """
    for batch in ((), (1,), (2, 3), (70,), (0,), (2, 0), (2, 1, 3, 2)):
        yield str((*batch, n)), torch.randn(*batch, n, dtype=dtype)
    yield f"{(2, 3, n)}, transposed", torch.randn(n, 3, 2, dtype=dtype).permute(2, 1, 0)


def _by_hand(p: WeightParameterization, state: dict[str, Tensor]) -> None:
    if any(p.children()):  # a map hears of its own parameters only
        p.load_state_dict(copy.deepcopy(state), assign=True)
    for name in p._parameters:
        setattr(p, name, torch.nn.Parameter(state[name].clone()))


def _swapped(p: WeightParameterization, state: dict[str, Tensor]) -> None:
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        p.load_state_dict(copy.deepcopy(state), assign=True)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


FILLED: dict[str, Callable[[Any, dict[str, Tensor]], object]] = {
    "to_empty, then load_state_dict": lambda p, state: p.to_empty(device="cpu").load_state_dict(
        state
    ),
    "load_state_dict(assign=True)": lambda p, state: p.load_state_dict(
        copy.deepcopy(state), assign=True
    ),
    "load_state_dict(assign=True) that swaps tensors": _swapped,
    "parameters assigned by hand": _by_hand,
}
"""Ways in which coefficients leave the meta device."""


class MapContracts(Case):
    """W as a function of coefficients, seed and layer: one method each."""

    def map(self, shape: Shape, dtype: torch.dtype = torch.float64) -> Any:
        """Make the map whose W is meant."""
        return self.make(shape, dtype)

    def test_weight_has_its_shape(self, shape: Shape) -> None:
        """weight() is (out_features, in_features), in the coefficients' dtype."""
        p = self.map(shape)
        found, dtype = p.weight(), next(p.parameters()).dtype
        assert p.shape == shape, f"shape is {p.shape}, and should be {shape}"
        assert found.shape == shape, (
            f"weight() has shape {tuple(found.shape)}, and should have {shape}"
        )
        assert found.dtype == dtype, f"weight() is {found.dtype}, and the coefficients are {dtype}"

    def test_weight_is_a_function_of_its_coefficients(self, shape: Shape) -> None:
        """weight() is the same at each call, in either mode, with gradients and without."""
        p = self.map(shape)
        w = p.weight().detach().clone()
        agree(p.weight(), w, 0.0, "W of a second call")
        agree(p.eval().weight(), w, 0.0, "W in eval mode")
        with torch.no_grad():
            agree(p.weight(), w, 0.0, "W in eval mode without gradients")
            agree(p.train().weight(), w, 0.0, "W in training without gradients")
            for q in p.parameters():
                q.mul_(1.5)
            again = self.map(shape)
            again.load_state_dict(p.state_dict())
            agree(
                p.weight(),
                again.weight(),
                0.0,
                "W without gradients, after the coefficients changed,",
            )

    def test_low_precision_rounds_once(self, shape: Shape) -> None:
        """W of bfloat16 coefficients is W of them in float64, to what is trained's rounding."""
        p = self.map(shape, torch.bfloat16)
        exact = copy.deepcopy(p).double().weight()
        agree(p.weight(), exact, TOLERANCE[torch.bfloat16], "W of bfloat16 coefficients")

    def test_count(self, shape: Shape) -> None:
        """num_trainable = number of coefficients that require a gradient, at least 1."""
        p = self.map(shape)
        counted = sum(q.numel() for q in p.parameters() if q.requires_grad)
        assert p.num_trainable == counted, (
            f"num_trainable is {p.num_trainable}, and {counted} are trained"
        )
        assert counted >= 1, "nothing is trained"

    def test_gradient(self) -> None:
        """The backward pass is the derivative of weight(), and is differentiable itself."""
        p = self.map(self.small)
        values = tuple(q.detach().requires_grad_() for q in p.parameters())
        torch.autograd.gradcheck(function_of(p), values)  # raises what differs
        torch.autograd.gradgradcheck(function_of(p), values)

    def test_state_is_coefficients_only(self, shape: Shape) -> None:
        """The state dict holds the parameters and nothing that a seed rebuilds."""
        p = self.map(shape)
        found, wanted = list(p.state_dict()), [name for name, _ in p.named_parameters()]
        assert found == wanted, f"the state dict holds {found}, and the parameters are {wanted}"

    def test_load_under_another_seed(self, shape: Shape) -> None:
        """W follows from the state dict and the arguments alone, not from the global seed."""
        torch.manual_seed(1)
        p = self.map(shape)
        torch.manual_seed(2)
        q = self.map(shape)
        agree_on_basis(p, q)
        q.load_state_dict(p.state_dict())
        agree(q.weight(), p.weight(), 0.0, "W under another seed")

    def test_layers_keep_their_positions(self, shape: Shape) -> None:
        """W is a function of the layer's name: always the same, however the layer got it."""
        p, q = self.map(shape), self.map(shape)
        q.load_state_dict(p.state_dict())
        w = p.for_layer("a").weight().detach().clone()
        agree(
            q.for_layer("b").for_layer("a").weight(), w, 0.0, "W of a layer that had another name"
        )
        p.reset_buffers()
        agree(p.weight(), w, 0.0, "W of a layer whose buffers were rebuilt")
        q.layer = "a"
        agree(
            q.to(torch.float64).weight(),
            w,
            0.0,
            "W of a layer that was named and then moved, as `convert` does it",
        )

    def test_pickle(self, shape: Shape) -> None:
        """A pickled copy has the same W."""
        p = self.map(shape).for_layer("a")
        agree(pickle.loads(pickle.dumps(p)).weight(), p.weight(), 0.0, "W of a pickled copy")

    def test_deepcopy(self, shape: Shape) -> None:
        """A deep copy has the same W, and coefficients of its own."""
        p = self.map(shape).for_layer("a")
        q, w = copy.deepcopy(p), p.weight().detach().clone()
        agree(q.weight(), w, 0.0, "W of a copy")
        with torch.no_grad():
            for value in q.parameters():
                value.add_(torch.randn_like(value))
        agree(p.weight(), w, 0.0, "W, after coefficients of its copy were changed,")

    def test_meta_initialisation(self, shape: Shape) -> None:
        """Built on the meta device and filled, W is what it was, whichever way it is filled."""
        p = self.map(shape, torch.float32).for_layer("a")
        state = p.state_dict()
        for path, fill in FILLED.items():
            with torch.device("meta"):
                q = self.map(shape, torch.float32).for_layer("a")
            assert where(q) == {torch.device("meta")}, (
                f"built on the meta device, it is on {where(q)}"
            )
            assert q.lr_mults(), "there is no rate of a map on the meta device"
            with on(path):
                fill(q, state)
                assert where(q) == {torch.device("cpu")}, f"filled, it is on {where(q)}"
                agree(q.weight(), p.weight(), 0.0, "W")

    def test_loads_another_dtype(self, shape: Shape) -> None:
        """A state dict of float64 that is assigned to a float32 map makes it one of float64."""
        p, q = self.map(shape), self.map(shape, torch.float32)
        q.load_state_dict(p.state_dict(), assign=True)
        agree(q.weight(), p.weight(), what="W")

    def test_moves_to_another_dtype(self, shape: Shape) -> None:
        """There and back through a wider dtype, W is what it was: bases are not rounded."""
        p = self.map(shape, torch.float32)
        w = p.weight().detach().clone()
        agree(p.double().weight(), w, 1e-5, "W in float64")
        agree(p.float().weight(), w, 0.0, "W in float32 again")

    def test_only_coefficients_move(self, shape: Shape) -> None:
        """A step changes every coefficient tensor, and nothing that is fixed."""
        p = self.map(shape)
        before, fixed = copy.deepcopy(dict(p.named_parameters())), copy.deepcopy(p)
        optimizer = torch.optim.SGD(p.parameters(), lr=0.1)
        (p.weight() * torch.randn(shape, dtype=torch.float64)).sum().backward()
        optimizer.step()
        still = [name for name, q in p.named_parameters() if torch.equal(q, before[name])]
        assert not still, f"{', '.join(still)} did not move"
        agree_on_basis(p, fixed)


class OwnWeightContracts(MapContracts):
    """What holds of a map that has a W without any other weight."""

    def test_draws(self, shape: Shape) -> None:
        """reset_parameters draws anew at each call; buffers and W leave global randomness.

        torch's global random state is then as it was.
        """
        p, before = self.make(shape), torch.get_rng_state()
        self.make(shape)
        again = torch.get_rng_state()
        self.make(shape)
        seeded = torch.equal(again, torch.get_rng_state()) and not torch.equal(again, before)
        assert not seeded, "the constructor sets the global seed"
        p.reset_parameters(1.0)
        w, drawn = p.weight().detach().clone(), torch.get_rng_state()
        p.for_layer("a").reset_buffers()
        p.weight().sum().backward()
        assert torch.equal(torch.get_rng_state(), drawn), (
            "reset_buffers or weight() moved the global random state"
        )
        p.for_layer("").reset_parameters(1.0)
        assert not torch.equal(p.weight(), w), (
            "W is the same after two draws: reset_parameters sets the global seed"
        )

    def test_forward_equals_weight(self, shape: Shape, dtype: torch.dtype) -> None:
        """forward(x, b) = x W^T + b."""
        p = self.make(shape, dtype)
        x, b = torch.randn(3, 5, shape[1], dtype=dtype), torch.randn(shape[0], dtype=dtype)
        y = x.double() @ p.weight().double().T
        agree(p(x), y, TOLERANCE[dtype], "x W^T")
        agree(p(x, b), y + b.double(), TOLERANCE[dtype], "x W^T + b")
        for batch, rows in x_of_every_shape(shape[1], dtype):
            y = rows.double() @ p.weight().double().T + b.double()
            with on(f"x of {batch}"):
                agree(p(rows, b), y, TOLERANCE[dtype], "x W^T + b")

    def test_forward_update(self, shape: Shape) -> None:
        """forward_update(x, W0, b, s) = x (W0 + s W)^T + b, with b and without, s = 1 or not."""
        p, base, b = self.make(shape), torch.randn(shape).double(), torch.randn(shape[0]).double()
        for bias, scale in itertools.product((b, None), (1.0, 0.7, -2.0)):
            for batch, x in x_of_every_shape(shape[1], torch.float64):
                y = x @ (base + scale * p.weight()).mT + (0.0 if bias is None else bias)
                with on(f"s = {scale:g}, {'no bias' if bias is None else 'a bias'}, x of {batch}"):
                    agree(p.forward_update(x, base, bias, scale), y, what="y")

    def test_update_of_a_low_precision_base(self, shape: Shape) -> None:
        """forward_update of float32 c, bfloat16 W0 and x is x (W0 + s W)^T to its roundings."""
        p, base = self.make(shape, torch.float32), torch.randn(shape).bfloat16()
        x, w = torch.randn(4, shape[1]).bfloat16(), 0.7 * p.weight().detach().double()
        y = x.double() @ (base.double() + w).mT
        limit = 2**-6 * (x.double().abs() @ (base.double().abs() + w.abs()).mT).max().item()
        error = (p.forward_update(x, base, None, 0.7).double() - y).abs().max().item()
        assert error <= limit, f"y is off by {error:.2e}, and may be by {limit:.2e}"

    def test_autocast_builds_in_full_precision(self, shape: Shape) -> None:
        """Under bfloat16 autocast, forward errs by the rounding of its product and no more."""
        p = self.make(shape, torch.float32)
        x = torch.randn(4, shape[1])
        with torch.autocast("cpu", torch.bfloat16):
            y = p(x)
        # Products cancel, roundings do not.
        limit = 2**-6 * (x.abs() @ p.weight().abs().T).max().item()
        error = (y.float() - x @ p.weight().T).abs().max().item()
        assert error <= limit, f"x W^T is off by {error:.2e}, and may be by {limit:.2e}"

    def test_building(self) -> None:
        """building() is what torch counts of weight() and of its gradient, in multiply-adds."""
        p = self.make((96, 64))
        stated, found = p.building(), products_of_weight(p)
        assert stated == found, f"building() is {stated}, and torch counts {found}"

    def test_initial_std(self) -> None:
        """reset_parameters(std): E[W_ij^2] = std^2."""
        p = self.make((96, 64))
        for std in (0.3, 0.02):
            energies = []
            for _ in range(20):
                p.reset_parameters(std)
                energies.append(p.weight().detach().square().mean())
            ratio = torch.stack(energies).mean().sqrt().item() / std
            what = f"the standard deviation is {ratio:.3f} times what it should be, {std}"
            assert abs(ratio - 1) <= self.std_tolerance, what

    def test_zero_initialisation(self, shape: Shape) -> None:
        """reset_parameters(0): W = 0, and the gradient is not."""
        p = self.make(shape)
        p.reset_parameters(0.0)
        w = p.weight()
        largest = w.abs().max().item()
        assert largest == 0, f"the largest weight is {largest:.2e}"
        (w * torch.randn_like(w)).sum().backward()
        largest = max(
            (q.grad.abs().max().item() for q in p.parameters() if q.grad is not None), default=0.0
        )
        assert largest > 0, "the gradient is 0, so that nothing would ever be learned"

    def test_project_is_stationary(self, shape: Shape) -> None:
        """project_(T): the gradient of |W - T|^2 in the coefficients vanishes."""
        p, target = self.make(shape), torch.randn(shape, dtype=torch.float64)
        before = self._slope(p, target)
        p.project_(target)
        after = self._slope(p, target)
        assert after <= 1e-3 * before, (
            f"the gradient is {after:.2e}, and {before:.2e} at random coefficients"
        )

    def _slope(self, p: WeightParameterization, target: Tensor) -> float:
        p.zero_grad()
        (p.weight() - target).square().sum().backward()
        return max(
            (q.grad.abs().max().item() for q in p.parameters() if q.grad is not None), default=0.0
        )

    def test_project_is_idempotent(self, shape: Shape) -> None:
        """project_(W) leaves W as it is."""
        p = self.make(shape)
        w = p.weight().detach().clone()
        p.project_(w)
        agree(p.weight(), w, 1e-6, "W after project_(W)")

    def test_project_of_nothing_can_learn(self, shape: Shape) -> None:
        """project_(0): W = 0, and the gradient is not, as at the start of an update."""
        p = self.make(shape)
        p.project_(torch.zeros(shape, dtype=torch.float64))
        w = p.weight()
        largest = w.abs().max().item()
        assert largest == 0, f"the largest weight is {largest:.2e}"
        grads = torch.autograd.grad(
            (w * torch.randn_like(w)).sum(), list(p.parameters()), allow_unused=True
        )
        largest = max((g.abs().max().item() for g in grads if g is not None), default=0.0)
        assert largest > 0, "the gradient is 0, so that nothing would ever be learned"
