"""K coefficients of the cosine transform of each row, W = S C_n.

Between DCT and Sparse: a row of W, the weights of one output, is a sum of cosines over all inputs,
and outputs are not mixed. Adam's step, which knows coordinates, then still knows each output; at a
half, a tenth and a twentieth of the coefficients this trains better than mixing both sides
(results/README.md).

x W^T = (S (C_n x^T))^T needs no W: on GPUs, a kernel multiplies few tokens so, where few
coefficients make it pay.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases import kernels
from zoo.bases.cosine import RowCosine
from zoo.bases.kernels import floors
from zoo.bases.seeds import autocast_dtype
from zoo.bases.vmapped import transforming
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.subspaces.orthonormal import BUILT_FROM
from zoo.parameterizations.subspaces.separable import SeparableSubspace

WHOLE = (*BUILT_FROM, "side", "support", "layout", "storage_order", "basis")
"""What makes W = S C_n, row by row."""


class RowDCT(SeparableSubspace):
    """K coefficients of the 1-D cosine transform of each row.

    Orthonormal, as in `scipy.fft.idct(S, axis=1, norm="ortho")`; K parameters.

        >>> zoo.RowDCT(8, 8, ratio=0.25).num_trainable
        16
    """

    shortcuts = {**SeparableSubspace.shortcuts, "needs_no_weight": (*WHOLE, "forward")}
    basis = RowCosine()
    # Kept, though `reset_buffers` is redefined: what it adds is of the kernel, and W is as it was.
    batch_key, spread, collect = (
        SeparableSubspace.batch_key,
        SeparableSubspace.spread,
        SeparableSubspace.collect,
    )

    def reset_buffers(self) -> None:
        self._kernel_tables: dict[torch.device, Any] = {}
        super().reset_buffers()

    @property
    def builds_weight(self) -> bool:
        """W is built for products, but those of few tokens by a kernel."""
        return True

    def needs_no_weight(self, x: Tensor) -> bool:
        """Say whether a kernel serves, for 1 to 16 tokens on a GPU, and should be faster.

        What it should take is in `zoo.bases.kernels.floors`.
        """
        # A graph takes any tokens.
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or transforming():
            return False
        tokens = x.shape[:-1].numel()
        if (
            tokens > floors.ROW_TOKENS
            or x.dtype == torch.float64
            or not kernels.available(x.device)
        ):
            return False
        return floors.rows_pay(*self.shape, len(self.coef), tokens)

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what W takes that is built: the kernel serves few tokens without gradients."""
        return cost_with_weight(self, rows)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W where that is faster."""
        if not self.needs_no_weight(x):
            return F.linear(x, self.weight(), bias)
        from zoo.bases.kernels import row_linear  # triton, only where it is used

        if x.device not in self._kernel_tables:
            self._kernel_tables[x.device] = row_linear.row_tables(
                self.support, *self.shape, x.device
            )
        dtype = autocast_dtype(x.device) or x.dtype
        return row_linear.row_linear(x.to(dtype), self.coef, self._kernel_tables[x.device], bias)
