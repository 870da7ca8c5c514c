"""K coefficients of the cosine transform of each row, W = S C_n; K parameters.

Between DCT and Sparse: a row of W, the weights of one output, is a sum of cosines over all inputs, and outputs are not
mixed. Adam's step, which knows coordinates, then still knows each output; at a half, a tenth and a twentieth of the
coefficients this trains better than mixing both sides (README, "Character model").
"""

from torch import Tensor

from zoo.bases import dct_matrix
from zoo.parameterizations.orthonormal import SeparableSubspace


class RowDCT(SeparableSubspace):
    """K coefficients of the 1-D cosine transform of each row.

    Orthonormal, as in `scipy.fft.idct(S, axis=1, norm="ortho")`; K parameters.
    """

    cosine = rows_only = True

    def side(self, n: int, axis: int) -> Tensor | None:
        return dct_matrix(n) if axis == 1 else None
