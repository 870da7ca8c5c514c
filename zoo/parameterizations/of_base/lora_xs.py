"""A small matrix between W0's singular vectors (LoRA-XS, arXiv 2405.17604); r^2 parameters."""

import torch
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.budget import largest_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.of_base.held import Pair, SidesOfBase, singular


class LoRAXS(SidesOfBase):
    """A small matrix between W0's singular vectors.

    W' = W0 + s U_r S_r R V_r^T; U_r (m, r), S_r and V_r (n, r) are the largest singular values of
    W0 and their vectors, fixed, and R (r, r) is trained; r^2 parameters. R = 0 at the start; the
    paper draws it at 1e-5.

    The vectors are computed from W0 when it is first seen, or has changed, each with its largest
    entry above 0, and no checkpoint has them: a rounding of another machine turns them within
    equal singular values, and the fingerprint of a run tells.

        >>> zoo.LoRAXS(8, 8, rank=2).num_trainable
        4

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four.
        seed: unused, nothing is drawn.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank.
    """

    left_rms: float
    """Root-mean-square of U_r S_r; that of W0 until there is one, as if it had r columns alone."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        (m, n), most = self.shape, min(out_features, in_features)
        self.rank = largest_within(
            m, n, lambda r: r * r, most, rank, ratio, coefficients, lora_rank
        )
        self.left_rms = in_features**-0.5
        self.lora_R = nn.Parameter(torch.empty(self.rank, self.rank))
        self.reset_parameters(0.0)

    def reset_coefficients(self) -> None:
        """Set R = 0."""
        self.lora_R.zero_()

    def compute_sides(self, base: Tensor) -> Pair:
        u, s, vh = singular(base, self.rank)
        return u * s, vh

    def for_base(self, base: Tensor) -> "LoRAXS":
        """Decompose W0, whose singular values the rate follows from."""
        super().for_base(base)
        if not base.is_meta:
            self.left_rms = self.sides(base)[0].square().mean().sqrt().item()
        return self

    def factors(self, base: Tensor) -> Pair:
        """Return U_r S_r, (m, r), and R V_r^T, (r, n)."""
        with without_autocast(base.device):
            left, right = self.sides(base)
            return left, self.lora_R.to(right.dtype) @ right

    def building(self) -> tuple[int, int]:
        """Count r n (m + r) for U_r S_r times R V_r^T, and as many for dR."""
        (m, n), r = self.shape, self.rank
        return r * n * (m + r), r * n * (m + r)

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T (mn + r (m + n)) + r^2 n forward, T (mn + r (m + 2 n)) + r^2 n backward.

        W0, both sides and R are read.
        """
        (m, n), r = self.shape, self.rank
        forward = rows * (m * n + r * (m + n)) + r * r * n
        backward = rows * (m * n + r * (m + 2 * n)) + r * r * n
        return Cost(forward, backward, m * n + r * (m + n + r))

    @property
    def lr_mult(self) -> float:
        """sqrt(n / r) / rms(U_r S_r) / sqrt(r): dW = U_r S_r dR V_r^T, with entries of +-lr in dR.

        |U_r S_r dR V_r^T|^2 is lr^2 r |S_r|^2, and mn times the square of a dense step's lr.
        """
        (_, n), r = self.shape, self.rank
        return (n / r) ** 0.5 / (r**0.5 * self.left_rms)

    def extra_repr(self) -> str:
        """Say what every map does, and the rank."""
        return f"{super().extra_repr()}, rank={self.rank}"
