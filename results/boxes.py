"""A box of cosine coefficients of any aspect, to vary the rank of W at one count and one basis.

    zoo fit --config char_lm.yaml --model.parameterization results.boxes.Box

with `--model.parameterization.ratio 0.1 --model.parameterization.narrow 16`, for example.
"""

import torch
from torch import Tensor

from zoo.parameterizations import DCT


class Box(DCT):
    """A box of the lowest cosine coefficients, as narrow as one likes.

    The K coefficients fill `narrow` lines of the plane that run along the longer side of W, and
    part of one across; the rank of W is at most `narrow`.

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        narrow: lines of the box; the least that K needs if it is less, and at most min(m, n).
        ratio: the share of the mn coefficients that is trained.
        coefficients: their number.
        seed: unused, nothing is drawn.
        lora_rank: as many as LoRA of this rank has.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        narrow: int = 16,
        ratio: float | None = None,
        coefficients: int | None = None,
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        self.narrow = narrow  # before super(), which asks for the support
        super().__init__(out_features, in_features, ratio, coefficients, "lowpass", seed, lora_rank)

    @property
    def support(self) -> Tensor:
        k, long, short = len(self.coef), max(self.shape), min(self.shape)
        lines = min(max(self.narrow, -(-k // long)), short)
        line, along = torch.arange(k) % lines, torch.arange(k) // lines
        i, j = (along, line) if self.out_features >= self.in_features else (line, along)
        places = (i * self.in_features + j).sort().values
        order = self.storage_order()
        return places if order is None else places[order.flatten()[places].argsort()]
