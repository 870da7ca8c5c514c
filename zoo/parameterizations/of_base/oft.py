"""Rotations of blocks of W0's columns (OFT, arXiv 2306.07280); n (b - 1) / 2 parameters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.budget import largest_within
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.of_base.base_map import OfBase
from zoo.parameterizations.structured.sizes import divisors, nearest_divisors
from zoo.parameterizations.structured.two_paths import rows_of


class OFT(OfBase):
    """Rotations of blocks of W0's columns.

    W' = W0 R^T, R block-diagonal, of n / b blocks. Each block is a rotation by Cayley's transform,
    R = (I - Q) (I + Q)^-1, of a skew-symmetric Q (b, b) whose b (b - 1) / 2 numbers above the
    diagonal are trained; n (b - 1) / 2 parameters. Q = 0 at the start, and W' = W0. W' W'^T = W0
    W0^T always: angles between rows stay. W' is built, for b mn, or x is turned, for b n a row,
    where its rows are fewer than W0's.

    peft's layers by default take a series in place of the inverse, 1 + 2 Q + 2 Q^2 + 2 Q^3 + Q^4,
    which is no rotation, and of -Q: `terms: 5` is that. With `use_cayley_neumann: false` they have
    the exact transform. Of fewer terms, 4 and 3 end with Q^3 and 2 is 1 + 2 Q, as there.

        >>> zoo.OFT(8, 8, ratio=0.25).num_trainable
        12

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        block: b, at least 2, which divides n; or
        ratio: of the mn weights, the largest b that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four.
        terms: of the series, at least 2; 0 for the exact transform.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a block that does not divide n or of one column, for fewer terms than 2; for
            a budget out of range, given twice or not at all, or that buys no rotation.
    """

    places: Tensor  # (b (b - 1) / 2,), above the diagonal of a flat (b, b) matrix

    def __init__(
        self,
        out_features: int,
        in_features: int,
        block: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        terms: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, seed)
        if terms < 0 or terms == 1:
            raise ValueError(f"terms must be 0, for none, or at least 2, got {terms}")
        self.block = self._fit(block, ratio, coefficients, lora_rank)
        self.terms = terms
        count, numbers = in_features // self.block, self.block * (self.block - 1) // 2
        self.oft_R = nn.Parameter(torch.empty(count, numbers))
        self.reset_buffers()
        self.reset_parameters(0.0)

    def _fit(self, block: int | None, *budget: float | None) -> int:
        """Return b."""
        (m, n), sizes = self.shape, divisors(self.in_features)[1:]
        if not sizes:
            raise ValueError(f"needs at least 2 columns, got shape {self.shape}: leave it out")
        if block is not None and all(value is None for value in budget):
            if block not in sizes:
                near = [str(b) for b in nearest_divisors(n, max(block, 1)) if b > 1]
                raise ValueError(
                    f"block must divide the {n} columns and be at least 2: "
                    f"{' or '.join(near)}, got {block}"
                )
            return block
        ratio, coefficients, lora_rank = budget
        which = largest_within(
            m,
            n,
            lambda k: n * (sizes[k - 1] - 1) // 2,
            len(sizes),
            block,
            ratio,
            coefficients,  # type: ignore[arg-type]
            lora_rank,  # type: ignore[arg-type]
            "block",
        )
        return sizes[which - 1]

    def reset_buffers(self) -> None:
        i, j = torch.triu_indices(self.block, self.block, 1)
        places = (i * self.block + j).to(self.oft_R.device)
        self.register_buffer("places", places, persistent=False)

    def reset_coefficients(self) -> None:
        """Set Q = 0."""
        self.oft_R.zero_()

    def rotations(self) -> Tensor:
        """Return the blocks of R, (n / b, b, b), in at least float32."""
        b = self.block
        c = self.oft_R.to(torch.promote_types(self.oft_R.dtype, torch.float32))
        upper = c.new_zeros(len(c), b * b).index_copy(1, self.places, c).unflatten(1, (b, b))
        q = upper - upper.mT
        one = torch.eye(b, dtype=q.dtype, device=q.device)
        if self.terms == 0:
            return torch.linalg.solve(one + q, one - q, left=False)
        r, power = one + 2 * q, q
        for k in range(2, self._last + 1):
            power = power @ q
            r = r + (1 if k == self._last else 2) * power
        return r

    @property
    def _last(self) -> int:
        """The highest power of the series, whose factor is 1 and not 2; 1 + 2 Q has none."""
        return 0 if self.terms < 3 else max(self.terms - 1, 3)

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        with without_autocast(base.device):
            r = self.rotations()
            wide = torch.promote_types(base.dtype, r.dtype)
            w = base.to(wide)
            blocks = w.unflatten(1, (-1, self.block)).transpose(0, 1)  # (n / b, m, b)
            turned = torch.bmm(blocks, r.to(wide).mT).transpose(0, 1).flatten(1)
            if scale != 1:
                turned = w + scale * (turned - w)
            return turned.to(torch.promote_types(base.dtype, self.oft_R.dtype))

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return (x + s (x R - x)) W0^T + b, of fewer rows than W0 has; else x W'^T + b."""
        if rows_of(x) >= self.out_features:
            return super().forward_update(x, base, bias, scale)
        r = self.rotations().to(x.dtype)
        blocks = x.reshape(-1, self.in_features // self.block, self.block).transpose(0, 1)
        turned = torch.bmm(blocks, r).transpose(0, 1).reshape(x.shape)  # blocks (n / b, T, b)
        if scale != 1:
            turned = x + scale * (turned - x)
        return F.linear(turned, base.to(x.dtype), bias)

    @property
    def builds_weight(self) -> bool:
        """Whether a layer keeps W' where no gradient is asked for; then it is built."""
        return True

    def building(self) -> tuple[int, int]:
        """Count b mn for W0 R^T, and as many for dR; and b^2 n for each product that makes R.

        A series has one for each power above the first, and twice as many backward; the exact
        transform one backward alone, beside the systems that it solves.
        """
        (m, n), b = self.shape, self.block
        powers = max(self._last - 1, 0)
        forward, backward = (0, 1) if self.terms == 0 else (powers, 2 * powers)
        return b * n * (m + forward * b), b * n * (m + backward * b)

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T n (m + b) either way and T b n for dR, of fewer rows T than W0 has; or of W'.

        R takes what it does in `building`.
        """
        (m, n), b = self.shape, self.block
        if rows >= m:
            return cost_with_weight(self, rows)
        rotations, gradients = (count - b * m * n for count in self.building())
        product = rows * n * (m + b)
        return Cost(rotations + product, gradients + product + rows * b * n, m * n)

    @property
    def lr_mult(self) -> float:
        """1 / (2 rms(W0) sqrt(b - 1)): dW = 2 W0 dQ, with entries of +-lr in dQ."""
        return 1 / (2 * self.base_rms * (self.block - 1) ** 0.5)

    def extra_repr(self) -> str:
        """Say what every map does, and the block."""
        series = f", terms={self.terms}" if self.terms else ""
        return f"{super().extra_repr()}, block={self.block}{series}"
