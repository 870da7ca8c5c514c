"""A grid of blocks of low rank each, W_ij = U_ij V_ij; r (I n + J m) parameters on I x J blocks.

Three methods are settings of it:

    Monarch   arXiv 2204.00595   blocks: sqrt, rank: 1, permute: strided
              W = P L P^T R of block-diagonal L and R, n = b^2:
              W[(c, a), (j, d)] = L_a[c, j] R_j[a, d]
    BTT       arXiv 2406.06248   blocks: sqrt, normalize: true for large models
              of two cores: W[(a, b), (c, d)] = sum_s L_a[(c, s), b] R_c[d, (a, s)]
    GraLoRA   arXiv 2505.20355   blocks: k and lora_rank: its rank, which has rank / k a block
              its hybrid rank is a sum with `LoRA`
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases import seeds
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.structured import sizes
from zoo.parameterizations.structured.two_paths import TwoPaths, rows_of


class BlockLowRank(WeightParameterization):
    """A grid of low-rank blocks (Monarch, BTT, GraLoRA).

    W_ij = U_ij V_ij, U_ij (p, r) and V_ij (r, q), on a grid of I x J blocks of p = m / I rows and q
    = n / J columns; the rank of W is up to r I J. r (I n + J m) parameters, and 2 if normalized: A
    (J, q, I r) holds all V_ij^T and B (I, J r, p) all U_ij^T, as peft's GraLoRA has them.

    x W^T is two products of batches and takes as many multiply-adds a row as there are parameters.
    W is built, for r mn, only where that takes less: for a grid with more parameters than weights,
    and beside a base for many rows at a budget above a third.

    Normalized as BTT's large models, which diverge without, a core X of d_in inputs and d_out
    outputs (A: q and I r, B: J r and p) is g X / max(1, rms(X) / c), c = sqrt(min(d_in, d_out)) /
    d_in its first root-mean-square and g a trained gain.

        >>> zoo.BlockLowRank(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        blocks: I and J, or one number for both, which divide m and n; or `sqrt`, the divisors
            nearest to the roots of m and n, I from below and J from above. By default 4, or 2 where
            that uses a tenth more of a budget, or 1 where it buys no rank of these; the largest
            divisors up to that, so that there is a grid for every shape.
        rank: r of each block, in [1, min(p, q)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four. A budget is missed
            by less than I n + J m.
        permute: which rows and columns make a block: `none`, neighbours; `strided`, rows i, i + I,
            i + 2 I, ... and neighbouring columns; `random`, any, drawn for each layer.
        normalize: the cores.
        seed: of random permutations, together with the layer's name.

    Raises:
        ValueError: for a grid that does not divide the shape, a rank out of range, a budget out of
            range, given twice or not at all, or that buys no rank.
    """

    width_exponent: ClassVar[float] = -0.5
    """At a fixed rank of blocks whose number grows."""
    rows: Tensor  # (2, m), a permutation and its inverse, if they are random
    columns: Tensor  # (2, n)

    def __init__(
        self,
        out_features: int,
        in_features: int,
        blocks: int | Sequence[int] | Literal["sqrt"] | None = None,
        rank: int | None = None,
        ratio: float | None = None,
        permute: Literal["none", "strided", "random"] = "none",
        normalize: bool = False,
        seed: int = 0,
        coefficients: int | None = None,
        lora_rank: int | None = None,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        if permute not in ("none", "strided", "random"):
            raise ValueError(f"permute must be none, strided or random, got {permute!r}")
        self.permute = permute
        self.normalize = normalize
        self.grid, self.rank = self._fit(blocks, rank, ratio, coefficients, lora_rank)
        (m, n), (down, across), r = self.shape, self.grid, self.rank
        self.block = m // down, n // across
        self.gralora_A = nn.Parameter(torch.empty(across, self.block[1], down * r))
        self.gralora_B = nn.Parameter(torch.empty(down, across * r, self.block[0]))
        if normalize:
            self.gain = nn.Parameter(torch.empty(2))
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    def _fit(
        self,
        blocks: int | Sequence[int] | str | None,
        rank: int | None,
        ratio: float | None,
        coefficients: int | None,
        lora_rank: int | None,
    ) -> tuple[tuple[int, int], int]:
        """Return the grid and r."""
        (m, n), fixed = self.shape, 2 if self.normalize else 0

        def unit(grid: tuple[int, int]) -> int:
            return grid[0] * n + grid[1] * m

        def fit(grid: tuple[int, int]) -> tuple[tuple[int, int], int]:
            most, budget = min(m // grid[0], n // grid[1]), (ratio, coefficients, lora_rank)
            return grid, rank_within(m, n, unit(grid), most, rank, *budget, fixed)

        if blocks == "sqrt":
            return fit((sizes.even_factors(m)[0], sizes.even_factors(n)[1]))
        if isinstance(blocks, str):
            raise ValueError(f"blocks must be one number, two, or sqrt, got {blocks!r}")
        if blocks is not None:
            return fit(sizes.grid_of(m, n, blocks))
        if rank is not None:
            return fit(sizes.grid_up_to(m, n, 4))
        found = []
        for most in (4, 2):
            with suppress(ValueError):
                found.append(fit(sizes.grid_up_to(m, n, most)))
        counts = [r * unit(grid) for grid, r in found]
        if found:
            return found[0] if counts[0] >= 0.9 * counts[-1] else found[-1]
        return fit((1, 1))

    def reset_buffers(self) -> None:
        if self.permute != "random":
            return
        for name, size in zip(("rows", "columns"), self.shape, strict=True):
            order = torch.randperm(size, generator=seeds.generator(self.seed, name, self.layer))
            both = torch.stack([order, order.argsort()]).to(self.gralora_A.device)
            self.register_buffer(name, both, persistent=False)

    def _cores(self) -> tuple[Tensor, Tensor]:
        """A and B as they are multiplied, both gains and norms in B."""
        a, b = self.gralora_A, self.gralora_B
        if not self.normalize:
            return a, b
        wide = torch.promote_types(a.dtype, torch.float32)
        excess = [
            (core.to(wide).square().mean() / rms**2).clamp(min=1.0)
            for core, rms in zip((a, b), self._core_rms(), strict=True)
        ]
        return a, b * (self.gain.to(wide).prod() / (excess[0] * excess[1]).sqrt()).to(b.dtype)

    def _core_rms(self) -> tuple[float, float]:
        """c of A and of B."""
        (p, q), (down, across), r = self.block, self.grid, self.rank
        return math.sqrt(min(q, down * r)) / q, math.sqrt(min(across * r, p)) / (across * r)

    def weight(self) -> Tensor:
        (down, across), r = self.grid, self.rank
        with seeds.without_autocast(self.gralora_A.device):
            a, b = self._cores()
            left = b.unflatten(1, (across, r)).mT  # (I, J, p, r)
            right = a.unflatten(2, (down, r)).permute(2, 0, 3, 1)  # (I, J, r, q)
            w = torch.matmul(left, right)
            order = (2, 0, 1, 3) if self.permute == "strided" else (0, 2, 1, 3)
            w = w.permute(order).reshape(self.shape)
            return w[self.rows[0]][:, self.columns[0]] if self.permute == "random" else w

    def _apart(self, rows: Tensor) -> Tensor:
        """Outputs by blocks of rows of W, (..., m) to (I, ..., p)."""
        if self.permute == "strided":
            return rows.unflatten(-1, (self.block[0], self.grid[0])).movedim(-1, 0)
        if self.permute == "random":
            rows = rows[..., self.rows[1]]
        return rows.unflatten(-1, (self.grid[0], self.block[0])).movedim(-2, 0)

    def _together(self, outputs: Tensor) -> Tensor:
        """Undo `_apart`, (I, T, p) to (T, m), or a view of it as (T, I, p) or (T, p, I)."""
        y = outputs.permute((1, 2, 0) if self.permute == "strided" else (1, 0, 2))
        return y.flatten(1)[:, self.rows[0]] if self.permute == "random" else y

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W unless that takes more."""
        if not self._takes.pay(rows_of(x), x.device):
            return super().forward(x, bias)
        y = self._product(x, *self._cores(), bias)
        return y.reshape(*x.shape[:-1], self.out_features)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s x W^T, without W unless that takes more."""
        if not self._takes.pay(rows_of(x), x.device, update=True):
            return super().forward_update(x, base, bias, scale)
        a, b = self._cores()
        mixed = seeds.autocast_dtype(x.device) is not None
        y = self._product(x if mixed else x.to(a.dtype), a, b if scale == 1 else scale * b)
        plain = F.linear(x, base, bias)
        return (plain.reshape(y.shape) + y).to(plain.dtype).view(plain.shape)

    def _product(self, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b as `_together` has it."""
        (_, q), (down, across), r = self.block, self.grid, self.rank
        rows = x.reshape(-1, self.in_features)
        if self.permute == "random":
            rows = rows[:, self.columns[1]]
        z = torch.bmm(rows.unflatten(1, (across, q)).transpose(0, 1), a)  # (J, T, I r)
        z = z.unflatten(2, (down, r)).permute(2, 1, 0, 3).flatten(2)  # (I, T, J r)
        y = torch.bmm(z, b) if bias is None else torch.baddbmm(self._apart(bias).unsqueeze(1), z, b)
        return self._together(y)

    @property
    def _takes(self) -> TwoPaths:
        (m, n), k = self.shape, self.gralora_A.numel() + self.gralora_B.numel()
        return TwoPaths(m, n, k, k, build=self.rank * m * n)

    @property
    def builds_weight(self) -> bool:
        return self._takes.keep(self.gralora_A.device)

    def building(self) -> tuple[int, int]:
        """Count r mn to build all U_ij V_ij, and twice as many for dU and dV."""
        return self._takes.build, 2 * self._takes.build

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T K forward and twice as many backward, K = r (I n + J m); and what W0 takes.

        Where W is built: T mn + r mn, and twice as many. K numbers are read, and in an update those
        of W0; W alone, if it has fewer.
        """
        return self._takes.cost(rows, self.gralora_A.device, update)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw cores of variance std / sqrt(r) each, so that E[W_ij^2] = std^2.

        For std = 0, A ~ N(0, 1 / q) and B = 0; peft draws A uniformly in +-1 / sqrt(q).

        Normalized, cores are drawn with their root-mean-squares c, as BTT's are, and both gains
        make up for what W then lacks or has too much: BTT's are 1. For std = 0, B = 0 and they are.
        """
        (_, q), r = self.block, self.rank
        a = b = math.sqrt(std) * r**-0.25 if std > 0 else q**-0.5
        if self.normalize:
            a, b = self._core_rms()
        self.gralora_A.normal_(0, 1).mul_(a)
        self.gralora_B.normal_(0, 1).mul_(b if std > 0 else 0.0)
        self._start = a, b, std
        if self.normalize:
            self.gain.fill_(1.0)
            if std > 0:
                self.gain.fill_(math.sqrt(std / (a * b * math.sqrt(r))))
                for i, (core, rms) in enumerate(
                    zip((self.gralora_A, self.gralora_B), (a, b), strict=True)
                ):
                    self.gain[i] *= rms / core.square().mean().sqrt().clamp(max=rms)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the truncated singular value decomposition of each block (Eckart-Young).

        It is the optimum, split evenly: U sqrt(S) and sqrt(S) V^T. Normalized, the gains take each
        core's root-mean-square. For a target of 0 they are as at the start of an update.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        shape, r = (self.grid[1], self.block[1]), self.rank
        t = target.to(self.gralora_A.device, torch.float64)
        if self.permute == "random":
            t = t[:, self.columns[1]]
        blocks = self._apart(t.mT).unflatten(1, shape).mT  # (I, J, p, q)
        u, s, vh = torch.linalg.svd(blocks, full_matrices=False)
        root = s[..., :r].sqrt()
        b = (u[..., :r] * root.unsqueeze(-2)).mT.flatten(1, 2)
        a = (root.unsqueeze(-1) * vh[..., :r, :]).permute(1, 3, 0, 2).flatten(2)
        for i, core in enumerate((a, b) if self.normalize else ()):
            self.gain[i] = core.square().mean().sqrt() / self._core_rms()[i]
            if self.gain[i] > 0:
                core.div_(self.gain[i].double())
        self.gralora_A.copy_(a)
        self.gralora_B.copy_(b)

    @property
    def lr_mult(self) -> float | Mapping[str, float]:
        """1 / sqrt(r (a^2 + b^2)), a and b the cores' root-mean-squares at initialisation.

        dU V + U dV has variance lr^2 r (a^2 + b^2) a weight for entries of +-lr, as in LoRA.

        Normalized, a and b differ, W has g = std / (sqrt(r) a b) as a factor, and each core has a
        rate of its own by which it moves W half as much in square: 1 / (g b sqrt(2 r)) for A, 1 /
        (g a sqrt(2 r)) for B. From B = 0, which alone moves W then, it is sqrt(2) times that. Gains
        move by lr of themselves. BTT's rates are n / (2 q), n / (2 r J) and 1.
        """
        a, b, std = self._start
        if not self.normalize:
            return 1 / math.sqrt(self.rank * (a * a + (b * b if std > 0 else 0.0)))
        root = math.sqrt(self.rank)
        gain = std / (root * a * b) if std > 0 else 1.0
        step = gain * root * (math.sqrt(2) if std > 0 else 1.0)
        return {
            "gralora_A": 1 / (step * b),
            "gralora_B": 1 / (step * a),
            "gain": math.sqrt(gain),
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, blocks={self.grid}, rank={self.rank}"
