"""K numbers, each the value of many weights at random places.

    W_ij = s_ij c_h(i,j) / sqrt(N_h(i,j))

It is HashedNets (arXiv 1504.04788); the map of Uni-LoRA (arXiv 2506.00799) is the same without
signs. h sends each of the mn weights to one of K buckets, N_k is how many are in bucket k, and s_ij
is a sign; K parameters, any number in [1, mn].
"""

import torch
from torch import Tensor

from zoo.bases import seeds
from zoo.parameterizations.isometry import Isometry


class Hashed(Isometry):
    """Weights that share K values by a random hash.

    W_ij = s_ij c_h(i,j) / sqrt(N_h(i,j)) with signs s; orthonormal, K parameters.

    A weight's bucket is the remainder by K of its place in a random order of all mn, so that
    buckets are balanced: each has floor(mn / K) or ceil(mn / K) weights, and none is empty. Order
    and signs are drawn from the seed and the layer's name, and rebuilt, not saved; where W is built
    they cost as much memory as a float32 W, one integer of four bytes a weight. W takes one pass
    over it to build and no multiply-add, its gradient another.

    HashedNets draws each bucket by itself, which leaves a share of exp(-mn / K) of them empty, and
    has w = c / sqrt(N) for a parameter; Uni-LoRA hashes the factors of LoRA, all layers' together,
    with balanced buckets, no signs, and c uniform in +-0.02. From scratch c is normal here, and an
    update starts at c = 0.

        >>> zoo.Hashed(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: K = ratio mn, rounded, ratio in (0, 1]; or
        coefficients: K, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        seed: of buckets and signs, together with the layer's name.

    Raises:
        ValueError: for a budget out of range, given twice or not at all.
    """

    values: Tensor  # (mn,), the bucket k of a weight, or K + k where its sign is -1
    scale: Tensor  # (K,), 1 / sqrt(N)

    def reset_buffers(self) -> None:
        self._buffers.clear()
        (m, n), count = self.shape, len(self.coef)
        generator = seeds.generator(self.seed, "hash", self.layer)
        buckets = torch.randperm(m * n, generator=generator) % count
        negative = torch.randint(0, 2, (m * n,), generator=generator)
        values = buckets + count * negative
        values = values if 2 * count > 2**31 else values.int()
        sizes = torch.full((count,), m * n // count, dtype=torch.float64)
        sizes[: m * n % count] += 1
        place = self.coef.device
        self.register_buffer("values", values.to(place), persistent=False)
        self.register_buffer("scale", sizes.rsqrt().to(place, self.compute_dtype), persistent=False)

    def expand(self, coef: Tensor) -> Tensor:
        shares = (coef.to(self.compute_dtype) * self.scale).to(coef.dtype)
        return torch.cat([shares, -shares]).index_select(0, self.values).view(self.shape)

    def gather(self, weight: Tensor) -> Tensor:
        """Return the signed sum of each bucket over sqrt(N).

        It is the same at every call on a CPU, and on a GPU where torch is asked for deterministic
        algorithms.
        """
        numbers = weight.reshape(-1).to(self.compute_dtype)
        plus, minus = (
            numbers.new_zeros(2, len(self.coef))
            .view(-1)
            .index_add_(0, self.values, numbers)
            .view(2, -1)
        )
        return ((plus - minus) * self.scale).to(weight.dtype)

    def building(self) -> tuple[int, int]:
        """Count none: W is copied from c, and its gradient summed."""
        return 0, 0
