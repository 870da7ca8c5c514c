"""Full-rank sums of random low-rank bases, W = s sum_j B_j diag(l_j) A diag(g_j).

It is RandLoRA (arXiv 2502.00987). With M = max(m, n) and d = min(m, n): B_j (M, r) and A (r, d) are
fixed and shared between layers of equal size, l_j (r,) and g_j (d,) are trained; N bases, N (r + d)
parameters. The sum is (M, d) and is transposed when m < n.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, of_device, shared, uniform_matrix, without_autocast
from zoo.bases.vmapped import Function
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget, needs
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.low_rank.products import add_product

FACTORS_UP_TO = {"cpu": 1.0, "cuda": 1.0}
"""How many times as many operations a product with factors may have as one with W, to be faster.

By type of device. "cpu" as operations have it; "cuda" is unmeasured.
"""


class _Inner(Function):
    """l, g -> s diag(l_j) A diag(g_j), (N r, d). Nothing of that size is kept.

    With D its gradient, dL/dl_jk = s sum_c D_jkc A_kc g_jc and dL/dg_jc = s sum_k D_jkc A_kc l_jk.
    """

    @staticmethod
    def forward(
        lam: Tensor, gamma: Tensor, basis_A: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        inner = (lam[:, :, None] * basis_A).mul_(scale * gamma[:, None, :])  # (N, r, d)
        return inner.flatten(0, 1).to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.scale, _ = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        lam, gamma, basis_A = ctx.saved_tensors
        product = grad.unflatten(0, lam.shape) * (ctx.scale * basis_A)  # (N, r, d), in A's dtype
        return (
            (product @ gamma[:, :, None]).squeeze(2),
            (lam[:, None, :] @ product).squeeze(1),
            None,
            None,
            None,
        )


class RandLoRA(WeightParameterization):
    """Trained diagonals between shared random bases.

    W = s sum_j B_j diag(l_j) A diag(g_j); N (r + min(m, n)) parameters.

        >>> zoo.RandLoRA(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: share of the mn weights: as many bases as fit; or
        lora_rank: as many bases as fit into what LoRA of this rank has, r (m + n); or
        coefficients: as many bases as fit into so many; or
        num_bases: N, at least 1. With none of the four, ceil(d / r): the fewest that reach full
            rank.
        rank: r, in [1, min(m, n)]. By default 8, and with a budget the least one whose bases still
            reach full rank, since building W costs 2 mn N r operations.
        scaling: of W: `peft` (alpha / r, alpha = 20 r) or `paper` (alpha / (r sqrt(N)), alpha = 2
            r).
        alpha: the numerator, if not the one named.
        seed: of the bases.

    Raises:
        ValueError: for a rank, number of bases or ratio out of range, or ratio and num_bases
            together.
    """

    basis_A: Tensor  # (r, d)
    basis_B: Tensor  # (M, N r), the r columns of B_1 first

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        num_bases: int | None = None,
        rank: int | None = None,
        scaling: Literal["peft", "paper"] = "peft",
        alpha: float | None = None,
        seed: int = 0,
        lora_rank: int | None = None,
        coefficients: int | None = None,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        d = min(self.shape)
        if rank is not None and not 1 <= rank <= d:
            raise ValueError(f"rank must lie in [1, {d}] for shape {self.shape}, got {rank}")
        given = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
        given = {name: value for name, value in given.items() if value is not None}
        if given and num_bases is not None:
            name, value = next(iter(given.items()))
            both = f"{value} and {num_bases}"
            raise ValueError(
                f"{name} and num_bases exclude each other, got {both}: set one to null"
            )
        if num_bases is not None and num_bases < 1:
            raise ValueError(f"num_bases must be at least 1, got {num_bases}")
        if scaling not in ("peft", "paper"):
            raise ValueError(f"scaling must be peft or paper, got {scaling!r}")
        if given:
            budget = layer_budget(*self.shape, ratio, coefficients, lora_rank, least=0)
            rank, num_bases = self._fit(budget, rank)
        self.rank = rank = rank or min(8, d)
        self.num_bases = num_bases = num_bases or math.ceil(d / rank)
        alpha = alpha if alpha is not None else (20.0 if scaling == "peft" else 2.0) * rank
        self.scale = alpha / rank / (math.sqrt(num_bases) if scaling == "paper" else 1.0)
        self.randlora_lambda = nn.Parameter(torch.empty(num_bases, rank))
        self.randlora_gamma = nn.Parameter(torch.empty(num_bases, d))
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    def _fit(self, budget: int, rank: int | None) -> tuple[int, int]:
        """Return (r, N) for at most `budget` parameters.

        N = floor(budget / (r + d)), r the least with N r >= d.
        """
        d = min(self.shape)
        ranks = [rank] if rank is not None else range(1, min(d, budget - d) + 1)
        if budget < d + (rank or 1):
            raise ValueError(
                f"{budget} coefficients buy no basis for shape {self.shape}: "
                f"one needs {needs(d + (rank or 1), *self.shape)}"
            )
        fits = ((r, budget // (r + d)) for r in ranks)
        best = 0, 0
        for fit in fits:
            if fit[0] * fit[1] >= d:
                return fit
            best = max(best, fit, key=math.prod)
        return best

    def reset_buffers(self) -> None:
        d, device = min(self.shape), self.randlora_lambda.device
        dtype = torch.promote_types(self.randlora_lambda.dtype, torch.float32)
        a = uniform_matrix(self.rank, d, self.seed, "A")
        b = uniform_matrix(max(self.shape), self.num_bases * self.rank, self.seed, "B")
        self.register_buffer("basis_A", shared(a, device, dtype), persistent=False)
        self.register_buffer("basis_B", shared(b, device, dtype), persistent=False)

    def weight(self) -> Tensor:
        with without_autocast(self.randlora_lambda.device):
            return self._weight()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W^T + b; under autocast W is built in the lower precision, as x is multiplied."""
        return F.linear(x, self._weight(), bias)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s W)^T + b.

        Few rows are multiplied without W, where that pays by its operations (`FACTORS_UP_TO`).
        Forward and backward, besides those with W0: 4 M N r d + 2 rows M d with W, which is built
        and has a gradient; rows N r (4 M + 6 d) with its two factors.
        """
        # A program serves any number of rows.
        builds = torch.compiler.is_exporting() or not torch.is_grad_enabled()
        if not builds and self._factors_pay(x.numel() // self.in_features, x.device):
            return add_product(x, base, bias, *self._factors(), scale)
        # Inductor drops torch.add's alpha here.
        update = self._weight() if scale == 1 else scale * self._weight()
        return F.linear(x, (base + update).to(x.dtype), bias)

    def look_up(self, index: Tensor) -> Tensor:
        """Return L[index] R of W = L R: N r n operations per row."""
        with without_autocast(self.randlora_lambda.device):
            left, right = self._factors()
            return (F.embedding(index, left) @ right).to(self.randlora_lambda.dtype)

    def _factors_pay(self, rows: int, device: torch.device) -> bool:
        k, wide, d = self.num_bases * self.rank, max(self.shape), min(self.shape)
        factors, whole = rows * k * (4 * wide + 6 * d), 4 * wide * k * d + 2 * rows * wide * d
        return factors < of_device(FACTORS_UP_TO, device) * whole

    @property
    def builds_weight(self) -> bool:
        return True

    def building(self) -> tuple[int, int]:
        """Count M N r d for W, as many for its gradient, and 2 N r d more for l and g."""
        inner = self.num_bases * self.rank * min(self.shape)
        return max(self.shape) * inner, (max(self.shape) + 2) * inner

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what the path takes that serves T rows: W that is built, or in an update factors.

            forward   T (mn + N r (M + d))
            backward  T (mn + N r (M + 2 d)) + 2 N r d
            read      mn, since a layer keeps W

        M is the larger of m and n, and d the smaller one.
        """
        if not update or not self._factors_pay(rows, self.randlora_lambda.device):
            return cost_with_weight(self, rows)
        k, wide, d = self.num_bases * self.rank, max(self.shape), min(self.shape)
        return Cost(
            rows * (wide * d + k * (wide + d)),
            rows * (wide * d + k * (wide + 2 * d)) + 2 * k * d,
            wide * d,
        )

    def _weight(self) -> Tensor:
        left, right = self._factors()
        w = left @ right
        return w.to(self.randlora_lambda.dtype) if autocast_dtype(w.device) is None else w

    def _factors(self) -> tuple[Tensor, Tensor]:
        """W = L R, (m, N r) and (N r, n), in the dtype that their product has."""
        a, b = self.basis_A, self.basis_B
        dtype, lower = a.dtype, autocast_dtype(a.device)
        if lower is not None and dtype == torch.float32:
            dtype = lower
            # One copy for all layers, in place of one that autocast makes for each and keeps for
            # backward.
            b = b.to(dtype) if torch.compiler.is_compiling() else shared(b, b.device, dtype)
        inner = _Inner.apply(
            self.randlora_lambda.to(a.dtype), self.randlora_gamma.to(a.dtype), a, self.scale, dtype
        )
        return (b, inner) if self.out_features >= self.in_features else (inner.mT, b.mT)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw diagonals of variance std / (s sqrt(N r)) each, the bases having variance 1.

        For std = 0, l = 0 and g = 1 / M.
        """
        if std > 0:
            lam = gamma = math.sqrt(std / (self.scale * math.sqrt(self.num_bases * self.rank)))
            self.randlora_gamma.normal_(0, 1).mul_(gamma)
        else:
            lam, gamma = 0.0, 1 / max(self.shape)
            self.randlora_gamma.fill_(gamma)
        self.randlora_lambda.normal_(0, 1).mul_(lam)
        self._step = self.scale * math.sqrt(self.num_bases * self.rank * (lam**2 + gamma**2))

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Alternate least squares: g with l fixed, then l with g fixed.

        It ends when the error stops falling, or earlier for a large weight (`rounds`). The map is
        bilinear, so this is a stationary point and not always the best one.
        """
        a, b = (
            self.basis_A.double(),
            self.basis_B.double().unflatten(1, (self.num_bases, self.rank)),
        )
        t = target.to(a) / self.scale
        t = t if self.out_features >= self.in_features else t.mT  # (M, d)
        lam, gamma = self.randlora_lambda.double(), self.randlora_gamma.double()
        if t.abs().max() == 0:
            self.randlora_lambda.zero_()
            return
        if not lam.any():
            gamma = torch.ones_like(gamma)
        last = math.inf
        for _ in range(rounds(1000, 2 * t.numel() * lam.numel() ** 2)):
            # Columns j of t: t[:, j] = sum_i (sum_k B_ik lam_ik A_kj) gamma_ij, N unknowns each.
            columns = torch.einsum("mik,ik,kj->jmi", b, lam, a)
            if lam.any():
                gamma = (
                    torch.linalg.lstsq(columns, t.mT[..., None], driver="gelsd").solution[..., 0].mT
                )
            atoms = torch.einsum("mik,kj,ij->mjik", b, a, gamma).flatten(0, 1).flatten(1)
            lam = torch.linalg.lstsq(atoms, t.reshape(-1, 1), driver="gelsd").solution.view_as(lam)
            error = (atoms @ lam.flatten() - t.flatten()).square().sum().item()
            if last - error <= 1e-12 * t.square().sum().item():
                break
            last = error
        self.randlora_lambda.copy_(lam)
        self.randlora_gamma.copy_(gamma)

    @property
    def lr_mult(self) -> float:
        """1 / (s sqrt(N r (l^2 + g^2))), l and g the diagonals' first root-mean-squares.

        dW = s sum_j B_j (diag(dl_j) A diag(g_j) + diag(l_j) A diag(dg_j)), a sum of N r terms of
        each kind.
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_bases={self.num_bases}, rank={self.rank}"
