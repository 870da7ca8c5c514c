"""Blocks with shared factors, W_ij = B_i diag(D_ij) C_j (BLAST, arXiv 2410.21262).

On I x J blocks of p x q: B_i (p, r) serves a row of blocks, C_j (r, q) a column of them, and D_ij
(r,) one block; r (m + n + I J) parameters.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.structured import sizes
from zoo.parameterizations.structured.two_paths import TwoPaths, rows_of

SWEEPS = 500
"""The most rounds of least squares of a projection."""
OF_A_TERM = (0, 1), (0, 2), (0, 1)
"""Axes of B, C and D along which one of the r terms has its numbers."""


class BLAST(WeightParameterization):
    """Blocks of shared factors, mixed by diagonals.

    W_ij = B_i diag(D_ij) C_j on a grid of I x J blocks: B (I, p, r), C (J, r, q) and D (I, J, r)
    with p = m / I, q = n / J; r (m + n + I J) parameters, and ranks up to r min(I, J). With D = 1
    it is LoRA's B C.

    x W^T is x_j C_j^T, then D, then B_i^T, and takes as many multiply-adds a row as there are
    parameters. W is built, for r mn, only where that takes less: with more parameters than weights,
    and beside a base for many rows at a budget above a third.

        >>> zoo.BLAST(8, 8, rank=2).num_trainable
        64

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        blocks: I and J, or one number for both, which divide m and n. By default the largest
            divisors up to 4; the paper compresses Llama with 16.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank, which buys r one less or so. Exactly one of
            the four. A budget is missed by less than m + n + I J.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a grid that does not divide the shape, a rank out of range, a budget out of
            range, given twice or not at all, or that buys no rank.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        blocks: int | Sequence[int] | None = None,
        rank: int | None = None,
        ratio: float | None = None,
        seed: int = 0,
        coefficients: int | None = None,
        lora_rank: int | None = None,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        grid = sizes.grid_up_to(m, n, 4) if blocks is None else sizes.grid_of(m, n, blocks)
        self.grid = down, across = grid
        each = m + n + down * across
        self.rank = rank_within(m, n, each, min(m, n), rank, ratio, coefficients, lora_rank)
        self.B = nn.Parameter(torch.empty(down, m // down, self.rank))
        self.C = nn.Parameter(torch.empty(across, self.rank, n // across))
        self.D = nn.Parameter(torch.empty(down, across, self.rank))
        self.reset_parameters(in_features**-0.5)

    def weight(self) -> Tensor:
        with without_autocast(self.B.device):
            return _build(self.B, self.C, self.D).flatten(0, 1)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W unless that takes more."""
        if not self._takes.pay(rows_of(x), x.device):
            return super().forward(x, bias)
        y = self._product(x, self.D, bias)
        return y.reshape(*x.shape[:-1], self.out_features)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s x W^T, without W unless that takes more."""
        if not self._takes.pay(rows_of(x), x.device, update=True):
            return super().forward_update(x, base, bias, scale)
        mixed = autocast_dtype(x.device) is not None
        y = self._product(
            x if mixed else x.to(self.B.dtype), self.D if scale == 1 else scale * self.D
        )
        plain = F.linear(x, base, bias)
        return (plain.reshape(y.shape) + y).to(plain.dtype).view(plain.shape)

    def _product(self, x: Tensor, d: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b as a view, (T, I, p); no product needs a copy of its operands."""
        rows = x.reshape(-1, self.grid[1], self.C.shape[2])
        z = torch.bmm(self.C, rows.permute(1, 2, 0))  # (J, r, T)
        z = torch.bmm(d.permute(2, 0, 1), z.transpose(0, 1))  # (r, I, T)
        z, b = z.permute(1, 2, 0), self.B.mT
        if bias is None:
            return torch.bmm(z, b).transpose(0, 1)
        return torch.baddbmm(bias.unflatten(0, self.B.shape[:2]).unsqueeze(1), z, b).transpose(0, 1)

    @property
    def _takes(self) -> TwoPaths:
        (m, n), k = self.shape, sum(f.numel() for f in (self.B, self.C, self.D))
        return TwoPaths(m, n, k, k, build=self.rank * m * n)

    @property
    def builds_weight(self) -> bool:
        return self._takes.keep(self.B.device)

    def building(self) -> tuple[int, int]:
        """Count r mn to build all B_i (D_i C), and twice as many backward."""
        return self._takes.build, 2 * self._takes.build

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T K forward and twice as many backward, K = r (m + n + I J); and what W0 takes.

        Where W is built: T mn + r mn, and twice as many. K numbers are read, and in an update those
        of W0; W alone, if it has fewer.
        """
        return self._takes.cost(rows, self.B.device, update)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw all three of variance t^2, t^3 = std / sqrt(r), so that E[W_ij^2] = std^2.

        For std = 0, D = 0, and B and C are as from scratch for std = 1 / sqrt(n).
        """
        size = ((std or self.in_features**-0.5) / math.sqrt(self.rank)) ** (1 / 3)
        self.B.normal_(0, 1).mul_(size)
        self.C.normal_(0, 1).mul_(size)
        self.D.normal_(0, 1).mul_(size if std > 0 else 0.0)
        self._step = size**2 * math.sqrt(self.rank * (3 if std > 0 else 1))

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Alternate least squares of D, B and C in float64 until the error stops falling.

        It starts from the truncated singular value decomposition, with D = 1, so that it is never
        worse than LoRA of rank r, and goes on from where two rounds point (Nesterov). It ends near
        a stationary point or after `SWEEPS` rounds, earlier for a large weight (`rounds`).
        Coefficients that make the target already are left as they are, and those of a target of 0
        are as at the start of an update. Rates then follow from the factors found.
        """
        t = target.to(self.B.device, torch.float64).reshape(*self.B.shape[:2], -1)
        factors = tuple(f.double() for f in (self.B, self.C, self.D))
        size = t.square().sum().item()
        if (t - _build(*factors)).square().sum().item() <= 1e-16 * size:
            return
        if size == 0:
            self.reset_parameters(0.0)
            return
        u, s, vh = torch.linalg.svd(t.flatten(0, 1), full_matrices=False)
        root = s[: self.rank].sqrt()
        b = (u[:, : self.rank] * root).view_as(self.B)
        c = (root[:, None] * vh[: self.rank]).unflatten(1, (self.grid[1], -1)).transpose(0, 1)
        factors = last = _balanced(b, c, torch.ones_like(self.D, dtype=torch.float64))
        error, steps = math.inf, 0
        for _ in range(rounds(SWEEPS, 7 * self._takes.build)):
            ahead = steps / (steps + 3)
            start = [f + ahead * (f - g) for f, g in zip(factors, last, strict=True)]
            found = _sweep(t, *start)
            now = (t - _build(*found)).square().sum().item()
            if now <= error - 1e-10 * size:
                last, factors, error, steps = factors, found, now, steps + 1
            elif steps:
                last, steps = factors, 0
            else:
                break
        for parameter, values in zip((self.B, self.C, self.D), factors, strict=True):
            parameter.copy_(values)
        b, c, d = (f.square().mean(axes) for f, axes in zip(factors, OF_A_TERM, strict=True))
        self._step = math.sqrt((c * d + b * d + b * c).sum().item())

    @property
    def lr_mult(self) -> float:
        """1 / sqrt(r (c^2 d^2 + b^2 d^2 + b^2 c^2)), root-mean-squares at the start.

        Steps of +-lr in B, C and D move W by one of the three each. From scratch that is 1 / (t^2
        sqrt(3 r)); of an update, which D alone moves at first, 1 / (t^2 sqrt(r)).
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, blocks={self.grid}, rank={self.rank}"


def _mixed(c: Tensor, d: Tensor) -> Tensor:
    """D_i C of each row of blocks, (I, r, n)."""
    return (d.unsqueeze(-1) * c).transpose(1, 2).flatten(2)


def _build(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """W by rows of blocks, (I, p, n)."""
    return torch.bmm(b, _mixed(c, d))


def _sweep(t: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for D, for B and for C in turn, each by what is left of the target, (I, p, n)."""
    across, _, width = c.shape
    left = (t - _build(b, c, d)).unflatten(2, (across, width)).transpose(1, 2)  # (I, J, p, q)
    slope = ((b.mT.unsqueeze(1) @ left) * c).sum(-1)
    d = d + _solve((b.mT @ b).unsqueeze(1) * (c @ c.mT), slope.unsqueeze(-1)).squeeze(-1)
    x = _mixed(c, d)
    b = b + _solve(x @ x.mT, x @ (t - _build(b, c, d)).mT).mT
    y = (b * d.transpose(0, 1).unsqueeze(2)).flatten(1, 2)  # B D_j, (J, m, r)
    left = (t - _build(b, c, d)).flatten(0, 1).unflatten(1, (across, width)).transpose(0, 1)
    return _balanced(b, c + _solve(y.mT @ y, y.mT @ left), d)


def _solve(gram: Tensor, slope: Tensor) -> Tensor:
    """Return the least-squares step, a billionth short of it, which keeps it finite."""
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    ridge = torch.diag_embed((1e-9 * size).unsqueeze(-1).expand(*size.shape, gram.shape[-1]))
    return torch.cholesky_solve(slope, torch.linalg.cholesky(gram + ridge))


def _balanced(b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same W of factors whose root-mean-squares are equal, for each of the r terms."""
    sizes_of = [f.square().mean(axes).sqrt() for f, axes in zip((b, c, d), OF_A_TERM, strict=True)]
    size = (sizes_of[0] * sizes_of[1] * sizes_of[2]) ** (1 / 3)
    by = [torch.where(size > 0, size / of, 0.0) for of in sizes_of]
    return b * by[0], c * by[1].unsqueeze(-1), d * by[2]
