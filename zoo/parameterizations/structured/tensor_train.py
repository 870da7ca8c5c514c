"""Tensor trains, W[i, j] = G_1[i_1, j_1] ... G_d[i_d, j_d] (arXiv 1509.06569).

Row i and column j are written in mixed radix, i = (i_1, ..., i_d) with i_d the fastest and i_k
below m_k, m = m_1 ... m_d, and likewise j; G_k holds a matrix (r_k-1, r_k) for each of its m_k n_k
pairs, with r_0 = r_d = 1: sum_k r_k-1 m_k n_k r_k parameters. Two cores are a sum of r_1 Kronecker
products (`Kronecker`).
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import autocast_dtype, without_autocast
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import largest_within
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.fitting import rounds
from zoo.parameterizations.structured.sizes import ascending_factors
from zoo.parameterizations.structured.two_paths import TwoPaths, rows_of


class TensorTrain(WeightParameterization):
    """A tensor train of d cores.

    W[i, j] = G_1[i_1, j_1] ... G_d[i_d, j_d], core k (r_k-1, m_k, n_k, r_k), r_0 = r_d = 1; sum_k
    r_k-1 m_k n_k r_k parameters. All inner ranks are r, or the most that the sizes on either side
    of them can have.

    Building W takes b = sum_k>1 (m_1 n_1 ... m_k n_k) r_k-1 r_k multiply-adds, and 2 b backward.
    Without W a row of x takes, core by core,

        f = sum_k (m_1 ... m_k-1) (n_k+1 ... n_d) r_k-1 m_k n_k r_k

    forward and 2 f backward, which is done where it pays by `PRODUCTS_UP_TO`: at ranks of a few.

        >>> zoo.TensorTrain(8, 8, ratio=0.25).num_trainable
        12

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        rank: r, from 1 to the largest inner rank that there can be; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank has, r (m + n). Exactly one of the four. The
            count grows with r^2, and falls short of a budget by less than the next r would add.
        cores: d, at least 2.
        modes: m_k and n_k of each core, d pairs. By default the most even factors, those of m from
            small to large and those of n from large to small, so that cores are of about one size:
            (8, 12), (8, 8), (12, 8) for 768 x 768. A prime has factors 1.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank, and
            for modes that are not factors of the shape.
    """

    width_exponent: ClassVar[float] = -0.5
    """At a fixed rank."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        rank: int | None = None,
        cores: int = 3,
        modes: Sequence[Sequence[int]] | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        m, n = self.shape
        if cores < 2:
            raise ValueError(f"cores must be at least 2, got {cores}")
        if modes is None:
            rows, columns = ascending_factors(m, cores), ascending_factors(n, cores)[::-1]
        else:
            rows, columns = _modes(m, n, modes)
        self.rows, self.columns = rows, columns
        pairs = [p * q for p, q in zip(rows, columns, strict=True)]
        self.largest = [
            min(math.prod(pairs[:k]), math.prod(pairs[k:])) for k in range(len(pairs) + 1)
        ]
        # On either side of a core of 1 x 1 the larger rank would be in vain.
        self._steps = len(pairs) - 1 if min(pairs) > 1 else 1

        def count(level: int) -> int:
            ranks = self._ranks(level)
            return sum(p * q * s for p, q, s in zip(ranks, pairs, ranks[1:], strict=False))

        def largest(most: int) -> int:
            return largest_within(m, n, count, most, rank, ratio, coefficients, lora_rank)

        if rank is None:
            level = largest((max(self.largest) - 1) * self._steps + 1)
        else:
            level = (largest(max(self.largest)) - 1) * self._steps + 1
        self.ranks = self._ranks(level)
        for k, (p, q) in enumerate(zip(rows, columns, strict=True)):
            core = torch.empty(self.ranks[k], p, q, self.ranks[k + 1])
            self.register_parameter(f"core_{k + 1}", nn.Parameter(core))
        each = build = 0
        for k, core in enumerate(self.cores):
            each += math.prod(rows[:k]) * math.prod(columns[k + 1 :]) * core.numel()
            build += math.prod(pairs[: k + 1]) * self.ranks[k] * self.ranks[k + 1] if k > 0 else 0
        self._takes = TwoPaths(m, n, self.num_trainable, each, build, small=True)
        self.reset_parameters(in_features**-0.5)

    def _ranks(self, level: int) -> list[int]:
        """Return r_0 to r_d: at each level one more is one larger, from the first to the last."""
        r, more = divmod(level - 1, self._steps)
        return [min(r + 1 + (k <= more), most) for k, most in enumerate(self.largest)]

    @property
    def cores(self) -> list[Tensor]:
        """G_1 to G_d."""
        return [getattr(self, f"core_{k + 1}") for k in range(len(self.rows))]

    def weight(self) -> Tensor:
        first, *others = self.cores
        dtype = torch.promote_types(first.dtype, torch.float32)
        with without_autocast(first.device):
            w = first.to(dtype).flatten(0, 2)  # (m_1 n_1 ... m_k n_k, r_k)
            for core in others:
                w = (w @ core.to(dtype).flatten(1)).reshape(-1, core.shape[-1])
            pairs = [size for pair in zip(self.rows, self.columns, strict=True) for size in pair]
            d = len(self.rows)
            order = [*range(0, 2 * d, 2), *range(1, 2 * d, 2)]
            return w.view(pairs).permute(order).reshape(self.shape).to(first.dtype)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W where that pays."""
        if not self._takes.pay(rows_of(x), x.device):
            return super().forward(x, bias)
        y = self._product(x)
        return y if bias is None else y + bias

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s W)^T + b, without W where that pays."""
        if not self._takes.pay(rows_of(x), x.device, update=True):
            return super().forward_update(x, base, bias, scale)
        y = F.linear(x, base, bias)
        return (y + self._product(x, scale)).to(y.dtype)

    def _product(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Return s x W^T: core k takes (r_k-1 n_k) numbers of a row to (m_k r_k)."""
        dtype = self.core_1.dtype
        z = x if autocast_dtype(x.device) is not None else x.to(dtype)
        rest = self.in_features
        for k, core in enumerate(self.cores):
            rest //= self.columns[k]
            core = core if scale == 1 or k > 0 else scale * core
            matrix = core.permute(1, 3, 0, 2).flatten(2).flatten(0, 1)
            z = matrix @ z.reshape(-1, matrix.shape[1], rest)
        return z.reshape(*x.shape[:-1], self.out_features)

    @property
    def builds_weight(self) -> bool:
        return self._takes.keep(self.core_1.device)

    def building(self) -> tuple[int, int]:
        """Count b, and 2 b backward."""
        return self._takes.build, 2 * self._takes.build

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what is said of the class, of `rows` rows; read is W, or the parameters and W0."""
        return self._takes.cost(rows, self.core_1.device, update)

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw cores of one variance, (std^2 / (r_1 ... r_d-1))^(1 / d), so that E[W_ij^2] = std^2.

        For std = 0 the last one is 0, and the product of the others has variance n_d / n, so that
        what it makes of x has that of x.
        """
        *others, last = self.cores
        paths = math.prod(self.ranks)
        if std > 0:
            each, end = (std / math.sqrt(paths)) ** (1 / len(self.cores)), 1.0
        else:
            energy = self.columns[-1] / self.in_features / (paths / self.ranks[-2])
            each, end = energy ** (0.5 / len(others)), 0.0
        for core in others:
            core.normal_(0, 1).mul_(each)
        last.normal_(0, 1).mul_(each * end)
        steps = 1 + len(others) * end  # as many products have one core that moves
        self._step = math.sqrt(steps * paths) * each ** len(others)

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Take the truncated decompositions of TT-SVD, and then alternate least squares.

        One core after the other is set to its best given the rest, with those before and after it
        orthonormal, until the error stops falling: a stationary point, not always the best one; of
        a large weight it ends on the way there (`rounds`). All cores get one size. For a target of
        0 they are as at the start of an update.
        """
        if not target.any():
            self.reset_parameters(0.0)
            return
        d = len(self.rows)
        order = [k for pair in zip(range(d), range(d, 2 * d), strict=True) for k in pair]
        t = target.to(self.core_1.device, torch.float64).reshape(*self.rows, *self.columns)
        t = t.permute(order).reshape([p * q for p, q in zip(self.rows, self.columns, strict=True)])
        cores, last = self._decompose(t), math.inf
        for sweep in range(2 * rounds(500, 4 * sum(self.ranks) * t.numel())):  # there and back
            # Backwards first, and then forwards again.
            cores = [core.permute(2, 1, 0) for core in reversed(cores)]
            t = t.permute(*reversed(range(d)))
            cores = _swept(t, cores)
            error = (t.square().sum() - cores[-1].square().sum()).item()
            if sweep % 2 and last - error <= 1e-12 * t.square().sum().item():
                break
            last = error
        sizes = [core.square().mean().sqrt() for core in cores]
        even = torch.stack(sizes).prod() ** (1 / d)
        for core, values, size in zip(self.cores, cores, sizes, strict=True):
            core.copy_((values * (even / size if size > 0 else 0)).view_as(core))

    def _decompose(self, t: Tensor) -> list[Tensor]:
        """Return cores (r_k-1, m_k n_k, r_k), orthonormal but for the last: TT-SVD of a tensor."""
        cores: list[Tensor] = []
        for size, before, r in zip(t.shape[:-1], self.ranks, self.ranks[1:], strict=False):
            u, s, vh = torch.linalg.svd(t.reshape(before * size, -1), full_matrices=False)
            cores.append(u[:, :r].reshape(before, size, r))
            t = s[:r, None] * vh[:r]
        return [*cores, t[..., None]]

    @property
    def lr_mult(self) -> float:
        """1 / sqrt(r_1 ... r_d-1 sum_k prod_l!=k g_l^2), g_k the first root-mean-square of core k.

        dW is a sum of d products, each with one core of entries +-lr. For an update that starts at
        0 it is sqrt(n / (n_d r_d-1)), that of the last core.
        """
        return 1 / self._step

    def extra_repr(self) -> str:
        modes = ", ".join(f"{p} x {q}" for p, q in zip(self.rows, self.columns, strict=True))
        return f"{super().extra_repr()}, ranks {self.ranks[1:-1]}, modes {modes}"


def _swept(t: Tensor, cores: list[Tensor]) -> list[Tensor]:
    """Set one core after the other to its best, where those after the first are orthonormal.

    Then those before the last are.
    """
    rights = [t.new_ones(1, 1)]
    for core in reversed(cores[1:]):
        rights.append((core.flatten(0, 1) @ rights[-1]).reshape(len(core), -1))
    left, found = t.new_ones(1, 1), []
    for core in cores:
        right = rights.pop()
        best = (left.mT @ t.reshape(len(left), -1)).reshape(-1, right.shape[1]) @ right.mT
        if rights:
            best = torch.linalg.qr(best).Q
            left = (left @ best.reshape(len(core), -1)).reshape(-1, len(right))
        found.append(best.reshape(core.shape))
    return found


def _modes(
    m: int, n: int, modes: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return m_1 to m_d and n_1 to n_d."""
    if len(modes) < 2 or any(len(pair) != 2 or min(pair) < 1 for pair in modes):
        raise ValueError(f"modes must be two pairs m_k, n_k or more, got {modes}")
    found = tuple(pair[0] for pair in modes), tuple(pair[1] for pair in modes)
    for size, side, factors in zip((m, n), ("rows", "columns"), found, strict=True):
        if math.prod(factors) != size:
            works = " x ".join(map(str, ascending_factors(size, len(modes))))
            raise ValueError(
                f"modes must make shape {(m, n)}: {size} {side} are {works}, for example, "
                f"got {' x '.join(map(str, factors))}"
            )
    return found
