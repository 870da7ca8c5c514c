"""K coefficients of the two-dimensional cosine transform, W = C_m^T S C_n (arXiv 2604.04440)."""

from zoo.bases.cosine import Cosine
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class DCT(SeparableSubspace):
    """K coefficients of the 2-D cosine transform (DCT-II).

    Orthonormal, as in `scipy.fft.idctn(S, norm="ortho")`; K parameters.

        >>> zoo.DCT(8, 8, ratio=0.25).num_trainable
        16
    """

    basis = Cosine()
