"""A box of cosine coefficients of any aspect, to vary the rank of W at one count and one basis.

    zoo fit --config char_lm.yaml --model.parameterization results.boxes.Box

with `--model.parameterization.ratio 0.1 --model.parameterization.height 16`, for example.
"""

import torch
from torch import Tensor

from zoo.parameterizations import DCT


class Box(DCT):
    """Cosine coefficients of the lowest `height` rows.

    The K coefficients fill `height` rows of the plane from the left, and part of one column more;
    the rank of W is at most `height`, or the number of columns that K takes.

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        height: rows of the box; the least that K needs if it is less, and at most m.
        ratio: the share of the mn coefficients that is trained.
        coefficients: their number.
        seed: unused, nothing is drawn.
        lora_rank: as many as LoRA of this rank has.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        height: int = 64,
        ratio: float | None = None,
        coefficients: int | None = None,
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        self.height = height  # before super(), which asks for the support
        super().__init__(out_features, in_features, ratio, coefficients, "lowpass", seed, lora_rank)

    @property
    def support(self) -> Tensor:
        m, n, k = self.out_features, self.in_features, len(self.coef)
        height = min(max(self.height, -(-k // n)), m)
        i, j = torch.arange(k) % height, torch.arange(k) // height
        order = self.storage_order()
        places = i * n + j
        return places.sort().values if order is None else places[order.flatten()[places].argsort()]
