"""Reflections of W0's rows (HRA, arXiv 2405.17484); r n parameters."""

import torch
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.of_base.base_map import OfBase


class Householder(OfBase):
    """Pairs of reflections of W0's rows (HRA).

    W' = W0 H_1 H_2 ... H_r, H_k = I - 2 u_k u_k^T / |u_k|^2; U (n, r) is trained, r even; r n
    parameters. At the start u_1 = u_2, u_3 = u_4, ..., so that reflections undo each other, and W'
    = W0 to rounding. W' W'^T = W0 W0^T always, and W' - W0 has rank r. The product is one with a
    triangular matrix, of unit columns U (Schreiber & Van Loan 1989):

        H_1 ... H_r = I - U T U^T,  T = (I / 2 + the part of U^T U above its diagonal)^-1

        >>> zoo.Householder(8, 8, rank=2).num_trainable
        16

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, even, in [2, n]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for an odd rank, with which W' is not W0 at the start, or one out of range; for
            a budget out of range, given twice or not at all, or that buys no pair of reflections.
    """

    starts_exactly = False

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
        (m, n), most = self.shape, in_features // 2
        if most < 1:
            raise ValueError(f"needs at least 2 columns, got shape {self.shape}: leave it out")
        if rank is not None and (rank % 2 or not 2 <= rank <= 2 * most):
            raise ValueError(
                f"rank must be even and lie in [2, {2 * most}] for shape {self.shape}, got {rank}"
            )
        pairs = None if rank is None else rank // 2
        self.rank = 2 * rank_within(m, n, 2 * n, most, pairs, ratio, coefficients, lora_rank)
        self.hra_u = nn.Parameter(torch.empty(n, self.rank))
        self.reset_parameters(0.0)

    def reset_coefficients(self) -> None:
        """Draw every second u ~ N(0, I / n), and set the one after it to the same."""
        half = self.hra_u[:, ::2].normal_(0, 1).mul_(self.in_features**-0.5)
        self.hra_u[:, 1::2] = half

    def factors(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """Return -W0 U, (m, r), and T U^T, (r, n), of unit columns U."""
        wide = torch.promote_types(base.dtype, torch.promote_types(self.hra_u.dtype, torch.float32))
        with without_autocast(base.device):
            u = self.hra_u.to(wide)
            u = u / u.norm(dim=0)
            half = 0.5 * torch.eye(self.rank, dtype=wide, device=u.device)
            inverse = half + (u.mT @ u).triu(1)  # of T
            turned = torch.linalg.solve_triangular(inverse, u.mT, upper=True)
            return -(base.to(wide) @ u), turned

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        with without_autocast(base.device):
            left, right = self.factors(base)
            update = left @ right
            w = base + (update if scale == 1 else scale * update)
            return w.to(torch.promote_types(base.dtype, self.hra_u.dtype))

    def building(self) -> tuple[int, int]:
        """Count r n (2 m + r) for W0 U, that times T U^T, and U^T U; r n (3 m + 3 r) for dU.

        W0 has no gradient; a third r^2 n is that of the triangular system.
        """
        (m, n), r = self.shape, self.rank
        return r * n * (2 * m + r), 3 * r * n * (m + r)

    @property
    def lr_mult(self) -> float:
        """1 / (4 rms(W0) sqrt(r / 2)), for vectors of length 1.

        H of u + e is H less 2 (e u^T + u e^T) of |2 e|, |e| = lr sqrt(n) for entries of +-lr; a
        pair moves by twice a difference of two, and r / 2 pairs are independent.
        """
        return 1 / (4 * self.base_rms * (self.rank / 2) ** 0.5)

    def extra_repr(self) -> str:
        """Say what every map does, and the rank."""
        return f"{super().extra_repr()}, rank={self.rank}"
