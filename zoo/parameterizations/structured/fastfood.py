"""Fastfood's random directions, W = s H G P H B [c; 0] of one layer; K parameters, any number.

Le, Sarlos and Smola (ICML 2013) have them in place of a dense Gaussian matrix; as a subspace of
weights they are the intrinsic dimension's (arXiv 1804.08838, 2012.13255). With N the least power of
two that is at least mn: c is padded to N, B are signs, H is Walsh and Hadamard's matrix (N, N) over
sqrt(N), P a permutation, and G normal numbers with a mean square of 1. The first mn of N are W, row
by row, and s = sqrt(N / mn).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases import seeds
from zoo.bases.hadamard import walsh_factors, walsh_matrix, walsh_transform
from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.budget import layer_budget
from zoo.parameterizations.fitting import rounds


class Fastfood(WeightParameterization):
    """Random directions by two Hadamard transforms.

    W = s H G P H B [c; 0], the first mn of N = 2^ceil(log2(mn)), as (m, n); K parameters. It is
    linear, and |W| = |c| in the mean over G, not exactly: `Hashed` and the subspaces are exact, and
    take less. It is here for the intrinsic dimension, whose authors have one c for all layers, or a
    scale a layer besides (SAID); here each layer has its own.

    Building W takes 2 N f multiply-adds and its gradient as many, f the sum of N's factors up to 32
    (128 for N = 2^20 = 32^4), by which H is made. What is fixed takes 2 N numbers and K, rebuilt
    from the seed and the layer's name.

        >>> zoo.Fastfood(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: K = ratio mn, rounded, ratio in (0, 1]; or
        coefficients: K, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        seed: of B, P and G, together with the layer's name.

    Raises:
        ValueError: for a budget out of range, given twice or not at all.
    """

    signs: Tensor  # (K,), the diagonal of B that meets c
    order: Tensor  # (N,), P
    gains: Tensor  # (N,), the diagonal of s G
    walsh: Tensor  # H of the largest factor of N

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        self.coef = nn.Parameter(
            torch.empty(layer_budget(out_features, in_features, ratio, coefficients, lora_rank))
        )
        self.reset_buffers()
        self.reset_parameters(in_features**-0.5)

    def reset_buffers(self) -> None:
        self._buffers.clear()
        size, count = self.out_features * self.in_features, len(self.coef)
        padded = 1 << (size - 1).bit_length()
        place = self.coef.device, torch.promote_types(self.coef.dtype, torch.float32)
        generator = seeds.generator(self.seed, "fastfood", self.layer)
        signs = 2 * torch.randint(0, 2, (padded,), generator=generator)[:count] - 1
        order = torch.randperm(padded, generator=generator)
        gains = torch.randn(padded, dtype=torch.float64, generator=generator)
        gains *= math.sqrt(padded / size) / gains.square().mean().sqrt()
        self.register_buffer("signs", signs.to(*place), persistent=False)
        self.register_buffer("order", order.to(place[0]), persistent=False)
        self.register_buffer("gains", gains.to(*place), persistent=False)
        walsh = walsh_matrix(next(iter(walsh_factors(padded)), 1))
        self.register_buffer("walsh", seeds.shared(walsh, *place), persistent=False)

    def weight(self) -> Tensor:
        with seeds.without_autocast(self.coef.device):
            w = self._expand(self.coef.to(self.gains.dtype))
        return w.view(self.shape).to(self.coef.dtype)

    def _expand(self, coef: Tensor) -> Tensor:
        """Return the mn numbers of W; (K,) to (mn,), in the dtype of c."""
        signs, gains, walsh = (t.to(coef.dtype) for t in (self.signs, self.gains, self.walsh))
        mixed = walsh_transform(F.pad(signs * coef, (0, len(gains) - len(coef))), walsh)
        mixed = walsh_transform(gains * mixed[self.order], walsh)
        return mixed[: self.out_features * self.in_features]

    def _gather(self, weight: Tensor) -> Tensor:
        """Return the adjoint of `_expand`; (mn,) to (K,)."""
        signs, gains, walsh = (t.to(weight.dtype) for t in (self.signs, self.gains, self.walsh))
        mixed = gains * walsh_transform(F.pad(weight, (0, len(gains) - len(weight))), walsh)
        mixed = walsh_transform(torch.zeros_like(mixed).index_copy_(0, self.order, mixed), walsh)
        return signs * mixed[: len(signs)]

    def building(self) -> tuple[int, int]:
        """Count 2 N f either way, f the sum of the factors of N."""
        padded = len(self.gains)
        count = 2 * padded * sum(walsh_factors(padded))
        return count, count

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Draw c_i ~ N(0, std^2 mn / K): E|W|^2 = E|c|^2 over G, so that E[W_ij^2] = std^2."""
        self.coef.normal_(0, 1).mul_(
            std * math.sqrt(self.out_features * self.in_features / len(self.coef))
        )

    @torch.no_grad()
    def project_(self, target: Tensor) -> None:
        """Solve the normal equations M^T M c = M^T target by conjugate gradients, in float64.

        They are begun at c, or at 0 if that is nearer, and end when the gradient is 1e-12 of what
        it was, after at most 10 K steps and 1000, fewer for a large weight (`rounds`).
        """
        t = target.to(self.coef.device, torch.float64).flatten()
        coef = self.coef.to(t, copy=True)
        left = t - self._expand(coef)
        if left.norm() >= t.norm():
            coef, left = torch.zeros_like(coef), t
        first, rest = self._gather(t).square().sum(), self._gather(left)
        step, square = rest.clone(), rest.square().sum()
        for _ in range(rounds(min(10 * len(coef), 1000), 2 * self.building()[0])):
            if square <= 1e-24 * first:
                break
            image = self._expand(step)
            length = square / image.square().sum()
            coef += length * step
            rest -= length * self._gather(image)
            last, square = square, rest.square().sum()
            step = rest + square / last * step
        self.coef.copy_(coef)

    @property
    def lr_mult(self) -> float:
        """mn / K, as of an `Isometry`: the directions are as long, and mix as well."""
        return self.out_features * self.in_features / len(self.coef)
