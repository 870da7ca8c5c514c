"""A Hadamard product of W0 with low-rank factors (HiRA, ICLR 2025); r (m + n) parameters."""

from torch import Tensor

from zoo.parameterizations.of_base.factors import FactorsOfBase


class HiRA(FactorsOfBase):
    """W0 times low-rank factors, entry by entry.

    W' = W0 + s W0 o (B A); B (m, r) and A (r, n), both trained; r (m + n) parameters. dW = s W0 o
    (B A) has up to rank(W0) times r, and is 0 wherever W0 is. B = 0 at the start. W' is built, for
    r mn.

        >>> zoo.HiRA(8, 8, rank=2).num_trainable
        32

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: r by the name that it has elsewhere. Exactly one of the four.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int | None = None,
        ratio: float | None = None,
        coefficients: int | None = None,
        lora_rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(out_features, in_features, rank, ratio, coefficients, lora_rank, seed)
        self.reset_parameters(0.0)

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        update = self.product() if scale == 1 else scale * self.product()
        return base + base * update

    def building(self) -> tuple[int, int]:
        """Count r mn to build B A, and twice as many for dB and dA."""
        products = self.rank * self.out_features * self.in_features
        return products, 2 * products

    @property
    def lr_mult(self) -> float:
        """1 / (rms(W0) sqrt(r / n)): dW = W0 o (dB A), with entries of +-lr in dB.

        For a W0 of 0.02 it is fifty times LoRA's; published rates are twenty to fifty times.
        """
        return 1 / (self.base_rms * self.factor_step)
