"""Contracts of isometries, of orthonormal subspaces, and of those with one matrix a side."""

import copy
import inspect
import itertools

import torch
from torch import Tensor

from zoo.parameterizations import Isometry, OrthonormalSubspace, SeparableSubspace
from zoo.testing.case import Shape, agree
from zoo.testing.layers import ParameterizationTestCase
from zoo.testing.maps import function_of


class IsometryTestCase(ParameterizationTestCase):
    """What holds of a subclass of `Isometry` besides."""

    parameterization: type[Isometry]

    def test_isometry(self, shape: Shape) -> None:
        """|W| = |c|."""
        p = self.make(shape)
        agree(p.weight().norm(), p.coef.norm(), what="|W|, which should be |c|,")

    def test_gather_inverts_expand(self, shape: Shape) -> None:
        """gather(expand(c)) = c."""
        p = self.make(shape)
        coef = torch.randn_like(p.coef)
        agree(p.gather(p.expand(coef)), coef, what="c after expand and gather")

    def test_gather_is_the_adjoint_of_expand(self, shape: Shape) -> None:
        """<expand(c), G> = <c, gather(G)> for any G."""
        p = self.make(shape)
        coef, g = torch.randn_like(p.coef), torch.randn(shape, dtype=torch.float64)
        size = coef.norm() * g.norm()
        there, back = (
            (p.expand(coef) * g).sum() / size,
            (coef * p.gather(g.clone())).sum() / size,
        )
        error = (there - back).abs().item()
        assert error <= 1e-9, f"the two products are {there:.4f} and {back:.4f} of |c| |G|"

    def test_map_rank_is_count(self, shape: Shape) -> None:
        """The map from coefficients to W has rank num_trainable: none is redundant."""
        p = self.make(shape)
        jacobians = torch.autograd.functional.jacobian(function_of(p), tuple(p.parameters()))
        rank = int(
            torch.linalg.matrix_rank(
                torch.cat([j.reshape(p.weight().numel(), -1) for j in jacobians], 1)
            )
        )
        assert rank == p.num_trainable, f"the rank is {rank}, with {p.num_trainable} coefficients"

    def test_batches_are_of_one_shape(self) -> None:
        """Maps of different shapes have different batch keys, or none."""
        keys = [(self.make(shape).batch_key(), shape) for shape in self.shapes]
        for (key, shape), (other, another) in itertools.combinations(keys, 2):
            same = key is not None and key == other
            assert not same, f"{shape} and {another} have one batch_key, {key}"

    def test_low_precision_is_one_rounding(self, shape: Shape) -> None:
        """W of bfloat16 coefficients is W of them in float64 to 2^-7: built in float32."""
        p = self.make(shape, torch.bfloat16)
        agree(p.weight(), copy.deepcopy(p).double().weight(), 2**-7, "W of bfloat16 coefficients")

    def test_spread_is_weight_up_to_rotations(self, shape: Shape) -> None:
        """With X = spread(c): collect(X X^T X) = gather(W W^T W), and collect(X) = c.

        Muon takes the former.
        """
        p = self.make(shape)
        c = torch.randn_like(p.coef)
        x, w = p.spread(c), p.expand(c)
        agree(p.collect(x.clone()), c, what="collect(spread(c)), which should be c,")
        agree(p.collect(x @ x.mT @ x), p.gather(w @ w.mT @ w), what="collect(X X^T X)")


class OrthonormalTestCase(IsometryTestCase):
    """What holds of a subclass of `OrthonormalSubspace` besides."""

    parameterization: type[OrthonormalSubspace]

    def test_count_is_the_ratio(self, shape: Shape) -> None:
        """num_trainable = ratio mn, rounded, where the arguments or their defaults give a ratio."""
        default = getattr(
            inspect.signature(self.parameterization).parameters.get("ratio"), "default", None
        )
        ratio = self.arguments.get("ratio", None if self.arguments else default)
        if isinstance(ratio, int | float):
            found, wanted = (
                self.make(shape).num_trainable,
                max(1, round(ratio * shape[0] * shape[1])),
            )
            assert found == wanted, (
                f"num_trainable is {found}, and {ratio} of {shape[0]} x {shape[1]} is {wanted}"
            )


class SeparableTestCase(OrthonormalTestCase):
    """What holds of a subclass of `SeparableSubspace` besides, if it makes W no other way."""

    parameterization: type[SeparableSubspace]

    def test_weight_is_of_its_sides(self, shape: Shape) -> None:
        """W = L^T S R with L = side(m, 0), R = side(n, 1), and c in S at `support`."""
        self._compare(self.make(shape))

    def test_a_large_weight_is_of_its_sides(self) -> None:
        """So is one of 16 times the size, where cosines go through the FFT."""
        m, n = self.shapes[0]
        self._compare(self.make((16 * m, 16 * n)))

    def _compare(self, p: SeparableSubspace) -> None:
        w: Tensor = torch.zeros(p.shape, dtype=torch.float64)
        w.view(-1)[p.support] = p.coef.detach()
        left, right = (p.side(n, axis) for axis, n in enumerate(p.shape))
        w = w if left is None else left.mT @ w
        agree(
            p.weight().detach(),
            w if right is None else w @ right,
            what="W, which should be L^T S R,",
        )
