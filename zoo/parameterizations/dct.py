"""K coefficients of the two-dimensional cosine transform, W = C_m^T S C_n (arXiv 2604.04440); K parameters."""

from torch import Tensor

from zoo.bases.seeds import dct_matrix
from zoo.parameterizations.orthonormal import SeparableSubspace


class DCT(SeparableSubspace):
    """K coefficients of the 2-D cosine transform (DCT-II).

    Orthonormal, as in `scipy.fft.idctn(S, norm="ortho")`; K parameters.
    """

    cosine = True

    def side(self, n: int, axis: int) -> Tensor:
        return dct_matrix(n)
