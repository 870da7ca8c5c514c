"""Shards of the inputs that share their weights, W = D^T [I I I ...].

It is MiSS (matrix shard sharing, arXiv 2409.15371, first named Bone); r m parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost


def _tiled(block: Tensor, size: int) -> Tensor:
    """Repeat the columns of a matrix until there are `size` of them."""
    if block.shape[1] == size:
        return block
    return block.repeat(1, -(-size // block.shape[1]))[:, :size]


class MiSS(WeightParameterization):
    """Shards of r inputs that share one block of weights.

    W_ij = D_(j mod r) i, or D_(j mod r)(i mod q) with q = `mini_r`; D (r, m) or (r, q), r m or r q
    parameters. The rank is at most r: W is LoRA whose A repeats the identity.

    A product sums the shards of x and takes T r m multiply-adds, twice as many backward, whatever
    q is; building W takes none.

    peft's `init_weights: mini` is `mini_r`; its `bat` depends on W0 and is not here.

        >>> zoo.MiSS(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r, the inputs of a shard, in [1, n]; or
        ratio: of the mn weights, r = floor(ratio mn / q), q = m without `mini_r`; or
        coefficients: at most as many, r = floor(coefficients / q); or
        lora_rank: at most as many as LoRA of this rank has. Exactly one of the four.
        mini_r: q, the outputs of a shard, in [1, m]; all of them by default. The last shard may be
            smaller, of inputs as of outputs; peft wants a divisor of m.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank, and
            for a `mini_r` out of range.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        mini_r: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        rows = m if mini_r is None else mini_r
        if not 1 <= rows <= m:
            raise ValueError(f"mini_r must lie in [1, {m}] for shape {(m, n)}, got {mini_r}")
        self.rank = rank_within(m, n, rows, n, rank, ratio, coefficients, lora_rank)
        self.mini_r = mini_r
        self.miss_block = nn.Parameter(torch.empty(self.rank, rows))
        self.reset_parameters(in_features**-0.5)

    def weight(self) -> Tensor:
        with without_autocast(self.miss_block.device):
            rows = _tiled(self.miss_block, self.out_features).mT  # (m, r)
            return _tiled(rows, self.in_features)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (sum of the shards of x) D + b."""
        return F.linear(self._summed(x), self._rows(), bias)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s (sum of the shards of x) D, the last added in the product."""
        y, rows = F.linear(x, base, bias), self._rows()
        mixed = autocast_dtype(x.device) is not None
        inner = self._summed(x if mixed else x.to(rows.dtype))
        wide = torch.promote_types(y.dtype, inner.dtype)
        product = torch.addmm(
            y.reshape(-1, len(rows)).to(wide),
            inner.reshape(-1, self.rank).to(wide),
            rows.mT,
            alpha=scale,
        )
        return product.to(y.dtype).view_as(y)

    def look_up(self, index: Tensor) -> Tensor:
        """Return rows of D^T, repeated."""
        rows = F.embedding(index, self._rows())  # (..., r)
        return _tiled(rows.reshape(-1, self.rank), self.in_features).view(
            *index.shape, self.in_features
        )

    def _rows(self) -> Tensor:
        """Return D^T, (m, r), of which W is made."""
        return _tiled(self.miss_block, self.out_features).mT

    def _summed(self, x: Tensor) -> Tensor:
        """Return the sum of the shards of x, (..., n) to (..., r), the last one filled with 0."""
        if lacking := -self.in_features % self.rank:
            x = F.pad(x, (0, lacking))
        return x.unflatten(-1, (-1, self.rank)).sum(-2)

    def building(self) -> tuple[int, int]:
        """Count nothing: W is copied."""
        return 0, 0

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T r m forward, twice as many backward, the parameters read; and what W0 takes."""
        (m, n), product = self.shape, self.rank * self.out_features
        base = m * n if update else 0
        return Cost(
            rows * (product + base), rows * (2 * product + base), self.miss_block.numel() + base
        )

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw D_ki ~ N(0, std^2): every weight is one of them. Without W0, peft draws Kaiming."""
        self.miss_block.normal_(0, 1).mul_(std)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the mean of the weights that are to be equal, the least-squares solution."""
        block = self.miss_block
        i = torch.arange(self.out_features, device=block.device) % block.shape[1]
        j = torch.arange(self.in_features, device=block.device) % self.rank
        t = target.to(block.device, torch.float64)
        sums = t.new_zeros(self.rank, self.out_features).index_add_(0, j, t.mT)
        sums = t.new_zeros(block.shape).index_add_(1, i, sums)
        block.copy_(sums / (j.bincount()[:, None] * i.bincount()))

    @property
    def lr_mult(self) -> float:
        """1: a step of +-lr in each parameter is one of +-lr in each weight.

        The spectral norm of a step with signs of rank one is lr sqrt(mn), as that of a dense one.
        """
        return 1.0

    def extra_repr(self) -> str:
        mini = "" if self.mini_r is None else f", mini_r={self.mini_r}"
        return f"{super().extra_repr()}, rank={self.rank}{mini}"
