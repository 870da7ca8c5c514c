"""Contracts of `lr_mult`: a step is as large in W as a dense one, at every width."""

import math

import torch
from torch import Tensor

from zoo.parameterizations import WeightParameterization
from zoo.testing.case import Case

WIDTHS = (64, 128, 256)
DRAWS = 6
"""Gradients that a mean is over: that of one may be off by a third."""


class RateContracts(Case):
    """What holds of the rates of a map that has a W without any other weight."""

    def test_learning_rate_multiplier(self) -> None:
        """1 / rms(dW) <= lr_mult <= sum |G| / <G, dW>: a step is as large as a dense one.

        So it is for independent signs, and for those of G: coefficients that move by +-lr_mult from
        a 96 x 64 weight, at initialisation, and a gradient G of rank one. Within a factor 1.5,
        since either is one draw.
        """
        p = self.make((96, 64))
        p.reset_parameters(0.02)
        mults, g = list(p.lr_mults().values()), torch.outer(torch.randn(96), torch.randn(64))
        independent = [
            f * torch.randn_like(q).sign() for f, q in zip(mults, p.parameters(), strict=True)
        ]
        moved = _moved(p, independent).square().mean().sqrt().item()
        along = ((_moved(p, _signs(p, g)) * g).sum() / g.abs().sum()).item()
        low, high = 1 / moved / 1.5, 1 / along * 1.5
        assert low <= 1 <= high, (
            f"lr_mult is {p.lr_mult}, and should be that times {low:.3f} to {high:.3f}"
        )

    def test_rates_serve_every_width(self) -> None:
        """0.2 <= |dW|_2 / |dW_dense|_2 <= 2 as n = 64 to 256, and it goes as n^e, |e| <= 0.25.

        Of the step of a gradient of rank one, with which a dense one is of spectral norm lr n. So a
        rate that follows from a narrow network's is that of a wide one in every map (Yang, Simon
        and Bernstein, arXiv 2310.17813; `zoo.layers.transfer`). A class of which it falls says how
        far, by `width_exponent`, and may fall as much.
        """
        least = self.parameterization.width_exponent
        sizes = []
        for n in WIDTHS:
            try:
                p = self.make((n, n))
            except ValueError:  # a shape that the class does not take
                return
            logs = []
            for _ in range(DRAWS):
                p.reset_parameters(0.02)
                g = torch.outer(torch.randn(n), torch.randn(n))
                logs.append(math.log(torch.linalg.matrix_norm(_moved(p, _signs(p, g)), 2) / n))
            sizes.append(math.exp(sum(logs) / DRAWS))
        said = ", ".join(f"{size:.2f}" for size in sizes)
        assert (0.2 if least == 0 else 0) <= min(sizes) <= max(sizes) <= 2, (
            f"a step is {said} times a dense one at widths {WIDTHS}: lr_mult is off by that"
        )
        exponent = math.log(sizes[-1] / sizes[0]) / math.log(WIDTHS[-1] / WIDTHS[0])
        assert least - 0.25 <= exponent <= 0.25, (
            f"a step is {said} times a dense one at widths {WIDTHS}, which goes as "
            f"n^{exponent:.2f}: have lr_mult follow the width, or state width_exponent"
        )


def _signs(p: WeightParameterization, g: Tensor) -> list[Tensor]:
    """Return the move of every parameter in a step of an Adam-like optimizer, lr = 1."""
    grads = torch.autograd.grad((p.weight() * g).sum(), list(p.parameters()))
    return [f * grad.sign() for f, grad in zip(p.lr_mults().values(), grads, strict=True)]


@torch.no_grad()
def _moved(p: WeightParameterization, moves: list[Tensor], step: float = 1e-6) -> Tensor:
    """Return how far W goes per unit of a small step of all parameters."""
    before = p.weight().clone()
    for q, move in zip(p.parameters(), moves, strict=True):
        q.add_(move, alpha=step)
    after = p.weight().clone()
    for q, move in zip(p.parameters(), moves, strict=True):
        q.sub_(move, alpha=step)
    return (after - before) / step
