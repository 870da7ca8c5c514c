"""A grid of circulant blocks (C3A, arXiv 2407.19342); mn / b parameters.

    W[I b + r, J b + s] = c_IJ[(s - r) mod b] / sqrt(b)

The first row of a block is c_IJ / sqrt(b), and each later one the row above, rolled to the right: a
circular correlation of b numbers of x with c.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases.circulant import circulant_product, circulants, wrapped_sums
from zoo.bases.fourier import fft_multiply_adds
from zoo.bases.seeds import autocast_dtype, of_device, without_autocast
from zoo.parameterizations.budget import layer_budget, needs
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.isometry import MAPPED_BY, Isometry
from zoo.parameterizations.structured.sizes import divisors, nearest_divisors

PASSES = {"cpu": 140, "cuda": 3000}
"""What passes over x, y and their spectra take, in multiply-adds a number of x and y.

By type of device. "cpu" is measured: from scratch a training step without W is faster for 768 x 768
from b = 8 on, for 384 x 384 from 12 on and for 128 x 512 never, whatever the rows. "cuda" is an
estimate by bytes, unmeasured.
"""


class Circulant(Isometry):
    """Circulant blocks of a size that divides both sides, as C3A.

    W[I b + r, J b + s] = c_IJ[(s - r) mod b] / sqrt(b); orthonormal, mn / b parameters. A block of
    a number repeats it b times, at a share of 1 / sqrt(b) each; W has full rank.

    Building W takes no multiply-add, and neither does its gradient. By the FFT a row of x takes

        5/4 (m + n) log2(b) + 4 (b // 2 + 1) mn / b^2

    forward, and T rows 5/4 mn / b log2(b) besides. So it is trained where that pays: from scratch
    if it is less than mn with what its passes take, `PASSES` (m + n); in an update, where W costs
    one product in three more than W0 alone, if three times as much is.

    peft's C3A has the same W from w = c n / sqrt(b), since it divides by n. It starts w at xavier's
    uniform, so that W is not 0; an update starts at c = 0 here (its `init_weights=True`), with a
    gradient, since W is linear in c. Its rate is of that scale: a step of lr moves a weight by lr /
    n there, and by lr lr_mult / sqrt(b) = lr sqrt(b) here. peft's 0.3 with n = 3072 and b = 64
    moves each weight by 1e-4, and is lr = 1.2e-5 here.

        >>> zoo.Circulant(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        block: b, which divides m and n; or
        ratio: of the mn weights, with the smallest b that has at most as many; or
        coefficients: at most as many, in the same way; or
        lora_rank: at most as many as LoRA of this rank has, r (m + n). Exactly one of the four. A
            budget is rarely met: of 768 x 768 at 1/10, b = 12 has 1/12.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or below mn / gcd(m, n),
            and for a block that does not divide; it names numbers that would work.
    """

    shortcuts = {
        **Isometry.shortcuts,
        "cost": (*MAPPED_BY, "forward", "forward_update"),
        "builds_weight": (*MAPPED_BY, "forward", "forward_update"),
    }

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        block: int | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        if out_features >= 1 and in_features >= 1:  # otherwise super() has a word to say
            size = out_features * in_features
            self.block = _block_of(out_features, in_features, block, ratio, coefficients, lora_rank)
            coefficients = size // self.block
        super().__init__(out_features, in_features, None, coefficients, seed)

    def _rows(self, coef: Tensor) -> Tensor:
        """Return the first row of each block, (m / b, n / b, b)."""
        b = self.block
        grid = self.out_features // b, self.in_features // b
        return (coef.to(self.compute_dtype) / math.sqrt(b)).view(*grid, b)

    def expand(self, coef: Tensor) -> Tensor:
        return circulants(self._rows(coef).to(coef.dtype))

    def gather(self, weight: Tensor) -> Tensor:
        sums = wrapped_sums(weight.to(self.compute_dtype), self.block)
        return (sums / math.sqrt(self.block)).flatten().to(weight.dtype)

    @property
    def builds_weight(self) -> bool:
        """Whether a layer keeps W where no gradient is asked for; then W is built for products."""
        return True

    def _pays(self, update: bool) -> bool:
        """Say whether training is faster by the FFT than with W, whatever the rows.

        From scratch it stands against all three products with W. In an update, for which W0 + s W
        is one matrix, against that for dL/dW alone.
        """
        (m, n), passes = self.shape, of_device(PASSES, self.coef.device)
        free = 1.25 * (m + n) * math.log2(self.block) + self._mixing + passes * (m + n)
        return (3 * free if update else free) < m * n

    @property
    def _mixing(self) -> int:
        """Multiply-adds a row of x that take its spectrum to that of y."""
        b = self.block
        return 4 * (b // 2 + 1) * (self.out_features // b) * (self.in_features // b)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, by the FFT where that pays."""
        if self._builds(x, update=False):
            return super().forward(x, bias)
        y = self._product(x)
        return y if bias is None else y + bias.to(y.dtype)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x (W0 + s W)^T + b, the same way."""
        if self._builds(x, update=True):
            return super().forward_update(x, base, bias, scale)
        return F.linear(x, base, bias) + scale * self._product(x)

    def _builds(self, x: Tensor, update: bool) -> bool:
        # MKL has no FFT of nothing, and an exported program serves any number of rows.
        whole = torch.compiler.is_exporting() or not torch.is_grad_enabled()
        return whole or x.numel() == 0 or not self._pays(update)

    def _product(self, x: Tensor) -> Tensor:
        dtype = x.dtype if x.dtype == torch.float64 else autocast_dtype(x.device) or x.dtype
        with without_autocast(x.device):
            y = circulant_product(x, self._rows(self.coef), dtype)
        return y.to(dtype).view(*x.shape[:-1], self.out_features)

    def building(self) -> tuple[int, int]:
        """Count none: W is copied from c, and its gradient summed."""
        return 0, 0

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what the FFT takes where it pays, and T mn, and 2 T mn backward, where W is built.

            forward   5/4 (T (m + n) + mn / b) log2(b) + T M,      M = 4 (b // 2 + 1) mn / b^2
            backward  5/4 (T (m + 2 n) + 2 mn / b) log2(b) + 2 T M
            read      mn                                           of a W that is kept

        A real transform's gradient is a complex one, which counts twice.
        """
        (m, n), b = self.shape, self.block
        if not self._pays(update):
            return cost_with_weight(self, rows)
        of_x, of_c, of_y = (
            fft_multiply_adds(b, count) for count in (rows * n // b, m * n // b**2, rows * m // b)
        )
        twice = fft_multiply_adds(b, 2 * rows * n // b) + fft_multiply_adds(b, 2 * m * n // b**2)
        base, mixing = m * n if update else 0, self._mixing
        return Cost(
            of_x + of_c + of_y + rows * (mixing + base),
            twice + of_y + rows * (2 * mixing + base),
            m * n,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block={self.block}"


def _block_of(
    m: int,
    n: int,
    block: int | None,
    ratio: float | None,
    coefficients: int | None,
    lora_rank: int | None,
) -> int:
    """Return b, as it is given or the smallest one that a budget holds."""
    most = math.gcd(m, n)
    budget = {"ratio": ratio, "coefficients": coefficients, "lora_rank": lora_rank}
    given = [name for name, value in budget.items() if value is not None]
    if (block is None) == (not given):
        values = "neither" if block is None else f"{block} and {budget[given[0]]}"
        names = " and ".join(["block", *(given or ["ratio"])])
        raise ValueError(f"needs a budget: give exactly one of {names}, got {values}")
    if block is not None:
        if block < 1 or most % block:
            works = " or ".join(map(str, nearest_divisors(most, max(block, 0))))
            raise ValueError(f"block must divide both sides of {(m, n)}: {works}, got {block}")
        return block
    count = layer_budget(m, n, ratio, coefficients, lora_rank, least=0)
    if count < m * n // most:
        raise ValueError(
            f"{given[0]} {budget[given[0]]} buys no circulant blocks for shape {(m, n)}: "
            f"the largest, {most} x {most}, need {needs(m * n // most, m, n)}"
        )
    return next(b for b in divisors(most) if m * n // b <= count)
