"""LoRA whose factors start at W0's own (PiSSA, OLoRA, MiLoRA); r (m + n) parameters."""

from typing import Literal

import torch
from torch import Tensor

from zoo.parameterizations.cost import Cost
from zoo.parameterizations.of_base.factors import FactorsOfBase
from zoo.parameterizations.of_base.held import Pair, SidesOfBase, singular

STARTS = ("pissa", "olora", "milora")


class PiSSA(SidesOfBase, FactorsOfBase):
    """LoRA whose factors start at W0's own (PiSSA, OLoRA, MiLoRA).

    W' = W0 + s ((B0 + B) (A0 + A) - B0 A0); B (m, r) and A (r, n) are trained, and 0 at the start;
    r (m + n) parameters. B0 and A0 are, by `start`, of W0 = U S V^T = Q R:

        pissa   U_r sqrt(S_r) and sqrt(S_r) V_r^T of the r largest singular values, 2404.02948
        milora  the same of the r smallest, 2406.09044
        olora   the first r columns of Q and rows of R, 2406.01775

    Elsewhere W0 is replaced by W0 - s B0 A0; here it stays, so that the base model is there at any
    time, and W' = W0 at the start to the last bit. B0 A0 follows from W0 and is in no checkpoint.
    Weight decay pulls to the start, and not to 0. In peft s B0 A0 is that part of W0; here B0 A0
    is.

    W' is never built: dW = (B0 + B) A + B A0 takes twice LoRA's products.

        >>> zoo.PiSSA(8, 8, rank=2).num_trainable
        32

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: r by the name that it has elsewhere. Exactly one of the four.
        start: `pissa`, `olora` or `milora`.
        seed: unused, nothing is drawn.

    Raises:
        ValueError: for another start; for a budget out of range, given twice or not at all, or that
            buys no rank; by `for_base` for a W0 whose part is 0, from where nothing is learned.
    """

    factor_rms: float
    """sqrt of the mean squares of A0 and B0, added."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        start: Literal["pissa", "olora", "milora"] = "pissa",
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, rank, ratio, coefficients, lora_rank, seed)
        if start not in STARTS:
            raise ValueError(f"start must be {', '.join(STARTS)}, got {start!r}")
        self.start = start
        self.factor_rms = in_features**-0.5
        self.reset_parameters(0.0)

    def reset_coefficients(self) -> None:
        """Set B = 0 and A = 0."""
        self.lora_A.zero_()
        self.lora_B.zero_()

    def compute_sides(self, base: Tensor) -> Pair:
        r = self.rank
        if self.start == "olora":
            q, upper = torch.linalg.qr(base.double())
            sign = upper.diagonal().sign().where(upper.diagonal() != 0, 1.0)
            return (q * sign)[:, :r], (upper * sign[:, None])[:r]
        u, s, vh = singular(base, r, largest=self.start == "pissa")
        root = s.sqrt()
        return u * root, root[:, None] * vh

    def for_base(self, base: Tensor) -> "PiSSA":
        """Find B0 and A0, whose sizes the rate follows from.

        Raises:
            ValueError: if both are 0.
        """
        super().for_base(base)
        if not base.is_meta:
            left, right = self.sides(base)
            rms = (left.square().mean() + right.square().mean()).sqrt().item()
            if rms == 0:
                raise ValueError(f"start {self.start} finds only zeros in W0: choose another start")
            self.factor_rms = rms
        return self

    def factors(self, base: Tensor) -> Pair:
        """Return L (m, 2 r) and R (2 r, n) of dW / s = L R = (B0 + B) A + B A0."""
        left, right = self.sides(base)
        a, b = self.lora_A.to(right.dtype), self.lora_B.to(left.dtype)
        return torch.cat([left + b, b], 1), torch.cat([a, right], 0)

    def building(self) -> tuple[int, int]:
        """Count 2 r mn for L R, and twice as many for dL and dR."""
        products = 2 * self.rank * self.out_features * self.in_features
        return products, 2 * products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T (mn + 2 r (m + n)) forward, T (mn + 4 r (m + n)) backward.

        W0, L and R are read.
        """
        (m, n), factors = self.shape, 2 * self.rank * (self.out_features + self.in_features)
        return Cost(rows * (m * n + factors), rows * (m * n + 2 * factors), m * n + factors)

    @property
    def lr_mult(self) -> float:
        """1 / sqrt(r (a^2 + b^2)), a and b the root-mean-squares of A0 and B0, as LoRA's is."""
        return 1 / (self.rank**0.5 * self.factor_rms)

    def extra_repr(self) -> str:
        """Say what every map of factors does, and the start."""
        return f"{super().extra_repr()}, start={self.start!r}"
