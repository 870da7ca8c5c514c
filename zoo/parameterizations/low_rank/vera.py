"""Two trained vectors about shared random matrices, W = diag(b) B diag(d) A.

It is VeRA (arXiv 2310.11454). B (m, r) and A (r, n) are fixed and shared between layers; b (m,) and
d (r,) are trained; m + r parameters.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, cached, shared, uniform_matrix, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import rank_within
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.fitting import rounds


@cached(maxsize=32)
def _kaiming(rows: int, columns: int, seed: int, name: str) -> Tensor:
    """Return entries of variance 2 / columns, a corner of the same infinite matrix for all."""
    return uniform_matrix(rows, columns, seed, "vera", name) * math.sqrt(2 / columns)


@cached(maxsize=8)
def _pefts(rows: int, columns: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return peft's A (r, N) and B (M, r) of a seed, uniform with the variances 2 / N and 2 / r."""
    random = torch.Generator().manual_seed(seed)
    sizes = ((rank, columns), (rows, rank))
    a, b = (
        torch.empty(size, device="cpu").uniform_(-1, 1, generator=random) * math.sqrt(6 / size[1])
        for size in sizes
    )
    return a, b


class VeRA(WeightParameterization):
    """Two trained vectors about random matrices of all layers.

    W = diag(b) B diag(d) A, b (m,), B (m, r), d (r,), A (r, n); m + r parameters, b and d. The
    count is hardly free: m of it is b, and each rank costs r (m + n) multiply-adds a row.

    B and A are uniform with Kaiming's variances, 2 / r and 2 / n. Like peft's, which cuts them for
    each layer from one pair as large as the largest layer, they are corners of one matrix; unlike
    peft's, n is the layer's own, and none is saved. An update starts at b = 0 and d = 0.1, as in
    the paper's and in peft.

    A product takes r (m + n) multiply-adds a row, without W, and as many backward; where that is
    more than mn, W is built of rmn, and rmn backward.

        >>> zoo.VeRA(8, 8).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r, in [1, mn]; by default, with no budget, 256 but at most min(m, n), the rank that W
            can have; or
        ratio: at most as many parameters as this share of mn: r is what m leaves, up to min(m, n);
            or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank has. At most one of the four.
        d_initial: d at the start of an update, not 0.
        cut_from: M and N, the largest sides of the layers that share B and A: they are then corners
            of the pair that peft draws for this seed, its `projection_prng_key`, and A has the
            variance 2 / N. By default ours, of any size.
        seed: of B and A.

    Raises:
        ValueError: for a rank or budget out of range, given twice, or of m parameters or fewer.
    """

    width_exponent: ClassVar[float] = -0.5
    """At full rank: B and A spread a step over all of W."""
    vera_A: Tensor  # (r, n)
    vera_B: Tensor  # (m, r)

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        d_initial: float = 0.1,
        cut_from: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        if d_initial == 0 or not math.isfinite(d_initial):
            raise ValueError(
                f"d_initial must be finite and not 0, or no gradient begins, got {d_initial}"
            )
        if rank is None and ratio is None and coefficients is None and lora_rank is None:
            rank = min(256, m, n)
        most = min(m, n) if rank is None else m * n
        self.rank = rank_within(m, n, 1, most, rank, ratio, coefficients, lora_rank, fixed=m)
        self.d_initial = d_initial
        self.cut_from = None if cut_from is None else _sides(m, n, cut_from)
        self.vera_lambda_b = nn.Parameter(torch.empty(m))
        self.vera_lambda_d = nn.Parameter(torch.empty(self.rank))
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    def reset_buffers(self) -> None:
        b = self.vera_lambda_b
        dtype = torch.promote_types(b.dtype, torch.float32)
        (m, n), r = self.shape, self.rank
        if self.cut_from is None:
            pair = _kaiming(r, n, self.seed, "A"), _kaiming(m, r, self.seed, "B")
        else:
            pair = _pefts(*self.cut_from, r, self.seed)
        for name, matrix, (rows, columns) in zip("AB", pair, ((r, n), (m, r)), strict=True):
            corner = shared(matrix, b.device, dtype)[:rows, :columns]
            self.register_buffer(f"vera_{name}", corner, persistent=False)

    def weight(self) -> Tensor:
        b, d = self.vera_lambda_b[:, None], self.vera_lambda_d[:, None]
        with without_autocast(b.device):
            return (b * (self.vera_B @ (d * self.vera_A))).to(b.dtype)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return b (B (d (A x^T))) + bias, without W where that is cheaper."""
        if self.builds_weight:
            return super().forward(x, bias)
        y = self._inner(x)
        b = self.vera_lambda_b.to(y.dtype)
        return y * b if bias is None else torch.addcmul(bias.to(y.dtype), y, b)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + bias + s b (B (d (A x^T))), the last added in one pass."""
        if self.builds_weight:
            return super().forward_update(x, base, bias, scale)
        y = F.linear(x, base, bias)
        mixed = autocast_dtype(x.device) is not None
        inner = self._inner(x if mixed else x.to(self.vera_lambda_b.dtype))
        wide = torch.promote_types(y.dtype, inner.dtype)
        b = (scale * self.vera_lambda_b).to(wide)
        return torch.addcmul(y.to(wide), inner.to(wide), b).to(y.dtype)

    def look_up(self, index: Tensor) -> Tensor:
        """Return b[index] (B[index] diag(d) A): r n operations per row."""
        b, d = self.vera_lambda_b[:, None], self.vera_lambda_d[:, None]
        with without_autocast(b.device):
            rows = F.embedding(index, self.vera_B) @ (d * self.vera_A)
            return (F.embedding(index, b) * rows).to(b.dtype)

    def _inner(self, x: Tensor) -> Tensor:
        """Return x (B diag(d) A)^T in the precision of products, with one copy of B and A in it."""
        a, b, dtype = self.vera_A, self.vera_B, self.vera_lambda_b.dtype
        lower = autocast_dtype(a.device)
        if lower is not None and dtype == torch.float32:
            dtype = lower
        if dtype != a.dtype:
            whole = torch.compiler.is_compiling()
            a, b = (t.to(dtype) if whole else shared(t, t.device, dtype) for t in (a, b))
        inner = F.linear(x, a)
        return F.linear(inner * self.vera_lambda_d.to(inner.dtype), b)

    @property
    def builds_weight(self) -> bool:
        """Whether r (m + n) > mn."""
        m, n = self.shape
        return self.rank * (m + n) > m * n

    def building(self) -> tuple[int, int]:
        """Count r mn to build B diag(d) A, and as many for d; B and A have no gradient."""
        products = self.rank * self.out_features * self.in_features
        return products, products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T r (m + n) either way, r (m + n) + m + r read, and what W0 takes; or of W."""
        if self.builds_weight:
            return cost_with_weight(self, rows)
        (m, n), matrices = self.shape, self.rank * (self.out_features + self.in_features)
        base = m * n if update else 0
        products = rows * (matrices + base)
        return Cost(products, products, matrices + m + self.rank + base)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw b and d of one variance, std sqrt(n) / 2, so that E[W_ij^2] = std^2.

        A term b_i B_ik d_k A_kj has variance b^2 d^2 4 / (r n), and there are r. For std = 0, b = 0
        and d = `d_initial`. Cut from wider matrices, n is their N.
        """
        columns = self.cut_from[1] if self.cut_from else self.in_features
        b = d = math.sqrt(std * math.sqrt(columns) / 2)
        if std > 0:
            self.vera_lambda_d.normal_(0, 1).mul_(d)
        else:
            d = self.d_initial
            self.vera_lambda_d.fill_(d)
        self.vera_lambda_b.normal_(0, 1).mul_(b)
        self._step = 2 * math.sqrt((b * b + d * d) / columns)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Alternate least squares, b with d fixed and d with b fixed, while the error falls.

        The map is bilinear: this is a stationary point, and not always the best one. Of a large
        weight it ends on the way there (`rounds`).
        """
        left, right = self.vera_B.double(), self.vera_A.double()
        t = target.to(left)
        b, d = self.vera_lambda_b.double(), self.vera_lambda_d.double()
        d = d if d.any() else torch.full_like(d, self.d_initial)
        gram = right @ right.mT
        last, enough = math.inf, 1e-12 * t.square().sum().item()
        for step in range(rounds(1000, 2 * self.rank * (t.numel() + self.rank * len(t)))):
            if step:  # d_k of the r matrices (b B_k) A_k
                scaled = b[:, None] * left
                among = gram * (scaled.mT @ scaled)
                along = ((scaled.mT @ t) * right).sum(1, keepdim=True)
                d = torch.linalg.lstsq(among, along, driver="gelsd").solution[:, 0]
            rows = left @ (d[:, None] * right)
            energy = rows.square().sum(1)
            b = (t * rows).sum(1) / torch.where(energy > 0, energy, 1.0)
            error = (t - b[:, None] * rows).square().sum().item()
            if last - error <= enough:
                break
            last = error
            self.vera_lambda_b.copy_(b)
            self.vera_lambda_d.copy_(d)

    @property
    def lr_mult(self) -> float:
        """sqrt(n / (b^2 + d^2)) / 2, b and d the vectors' first root-mean-squares.

        dW = diag(db) B diag(d) A + diag(b) B diag(dd) A with entries of +-lr in db and dd has
        variance lr^2 (b^2 + d^2) 4 / n per weight. An update of n = 768 has 139, some ten times
        LoRA's, which is what the paper takes.
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


def _sides(m: int, n: int, cut_from: Sequence[int]) -> tuple[int, int]:
    """Return M and N, which a layer of m x n is cut from.

    Raises:
        ValueError: if they are not two numbers, or less than the layer's.
    """
    if len(cut_from) != 2 or cut_from[0] < m or cut_from[1] < n:
        raise ValueError(f"cut_from must be two sizes of at least {[m, n]}, got {list(cut_from)}")
    return cut_from[0], cut_from[1]
