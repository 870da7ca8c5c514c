"""Low-rank factors in the direction of W0's rows, and their lengths (DoRA, arXiv 2402.09353)."""

import torch
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.parameterizations.cost import Cost
from zoo.parameterizations.low_rank.products import add_product
from zoo.parameterizations.of_base.factors import FactorsOfBase


class DoRA(FactorsOfBase):
    """LoRA of the direction of W0's rows, and their lengths.

    Row i of W' is (1 + d_i) |w_i| v_i / |v_i|; w_i is a row of W0, v_i one of W0 + s B A; B (m, r),
    A (r, n) and d (m,) are trained; r (m + n) + m parameters. |v_i| counts as a constant in the
    gradient, as in the paper (4.3). Its magnitude m_i is (1 + d_i) |w_i|: kept as d, the start is
    W0 exactly in every dtype, and weight decay leaves the length of W0's rows. A row of W0 that is
    0 stays so.

    In training x W'^T is x W0^T and LoRA's product, times a number for each row. The norms take r
    mn + r^2 (m + n), |v_i|^2 = |w_i|^2 + 2 s w_i A^T b_i + s^2 b_i A A^T b_i. Without gradients a
    layer keeps W'.

        >>> zoo.DoRA(8, 8, rank=2).num_trainable
        40

    Args:
        out_features: rows m of W0.
        in_features: columns n of W0.
        rank: r, in [1, min(m, n)]; or
        ratio: of the mn weights, the largest r that fits; or
        coefficients: at most as many; or
        lora_rank: at most as many as LoRA of this rank. Exactly one of the four; a budget has room
            for d too.
        seed: unused, nothing is fixed.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or that buys no rank.
    """

    detaches = True

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
        super().__init__(
            out_features,
            in_features,
            rank,
            ratio,
            coefficients,
            lora_rank,
            seed,
            fixed=out_features,
        )
        self.lora_magnitude = nn.Parameter(torch.empty(out_features))
        self.reset_parameters(0.0)

    def reset_coefficients(self) -> None:
        """Draw A ~ N(0, 1 / n), and set B = 0 and d = 0."""
        super().reset_coefficients()
        self.lora_magnitude.zero_()

    def effective(self, base: Tensor, scale: float = 1.0) -> Tensor:
        update = self.product() if scale == 1 else scale * self.product()
        w = (base + update) * self._lengths(base, scale).unsqueeze(1)
        return w.to(torch.promote_types(base.dtype, self.lora_B.dtype))

    def _lengths(self, base: Tensor, scale: float) -> Tensor:
        """Return (1 + d_i) |w_i| / |v_i|, (m,)."""
        with without_autocast(base.device):
            ratio = self._ratio(base, scale)
            return (1 + self.lora_magnitude.to(ratio.dtype)) * ratio

    @torch.no_grad()
    def _ratio(self, base: Tensor, scale: float) -> Tensor:
        """Return |w_i| / |v_i|, exactly 1 where B is 0, and where both are."""
        wide = torch.promote_types(
            torch.promote_types(base.dtype, self.lora_A.dtype), torch.float32
        )
        w, a, b = base.to(wide), self.lora_A.to(wide), self.lora_B.to(wide)
        before = w.square().sum(1)
        added = 2 * scale * ((w @ a.mT) * b).sum(1) + scale**2 * ((b @ (a @ a.mT)) * b).sum(1)
        after = (before + added).clamp(min=torch.finfo(wide).tiny)
        return torch.where(added == 0, 1.0, (before / after).sqrt())

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W'^T + b: LoRA's product, times the lengths."""
        y = add_product(x, base, None, self.lora_B, self.lora_A, scale)
        lengths = self._lengths(base, scale)
        scaled = y * lengths.to(torch.promote_types(y.dtype, lengths.dtype))
        return (scaled if bias is None else scaled + bias).to(y.dtype)

    @property
    def builds_weight(self) -> bool:
        """Whether a layer keeps W' where no gradient is asked for; then it is built."""
        return True

    @property
    def _norms(self) -> int:
        """Multiply-adds of |v_i|."""
        (m, n), r = self.shape, self.rank
        return r * m * n + r * r * (m + n)

    def building(self) -> tuple[int, int]:
        """Count r mn to build B A, and the norms; 2 r mn for dB and dA."""
        products = self.rank * self.out_features * self.in_features
        return products + self._norms, 2 * products

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State T (mn + r (m + n)) and norms forward, T (mn + 2 r (m + n)) backward, mn read."""
        (m, n), factors = self.shape, self.rank * (self.out_features + self.in_features)
        forward, backward = rows * (m * n + factors), rows * (m * n + 2 * factors)
        return Cost(forward + self._norms, backward, m * n)

    @property
    def lr_mult(self) -> dict[str, float]:
        """LoRA's for the factors, 1 / sqrt(r / n); 1 / |w| for d, |w| = sqrt(n) rms(W0).

        By a dense step of independent signs the length of a row moves by lr, and so it does by d.
        The published rate of the magnitude, which is that of A and B before their factor, is the
        same.
        """
        factors = 1 / self.factor_step
        length = self.base_rms * self.in_features**0.5
        return {"lora_A": factors, "lora_B": factors, "lora_magnitude": 1 / length}
