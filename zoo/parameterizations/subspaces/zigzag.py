"""The first K coefficients in JPEG's zigzag order, of the DCT or of a random basis; K parameters.

Anti-diagonals of S bound the rank: with d of them, rank W <= d. arXiv 2604.04440 finds that such
subspaces collapse onto the loss of low-rank factors where random positions do not; on the random
basis the order has no meaning but the shape of the support is the same, which tells the effect of
the shape from that of the frequencies.
"""

from typing import Literal

from torch import Tensor

from zoo.bases.basis import Separable
from zoo.bases.cosine import Cosine
from zoo.bases.seeds import haar_matrix
from zoo.parameterizations.subspaces.separable import SeparableSubspace

COSINE = Cosine()


class Zigzag(SeparableSubspace):
    """The first K coefficients in zigzag order, either basis.

        >>> zoo.Zigzag(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: the share of the mn coefficients that is trained, in (0, 1]; or
        coefficients: their number, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three.
        basis: `dct`, or `random` for Haar-distributed sides.
        seed: of the random basis.

    Raises:
        ValueError: for a budget out of range, given twice or not at all; for a basis that does not
            exist.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        basis: Literal["dct", "random"] = "dct",
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        if basis not in ("dct", "random"):
            raise ValueError(f"basis must be dct or random, got {basis!r}")
        self.basis_name = basis  # before super(), which builds the buffers
        super().__init__(out_features, in_features, ratio, coefficients, "zigzag", seed, lora_rank)

    @property
    def basis(self) -> Separable | None:  # type: ignore[override]
        """The cosines, if it is these."""
        return COSINE if self.basis_name == "dct" else None

    def side(self, n: int, axis: int) -> Tensor | None:
        return haar_matrix(n, self.seed, axis) if self.basis is None else self.basis.side(n, axis)
