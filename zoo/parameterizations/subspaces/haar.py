"""K coefficients of the Haar wavelets of both sides, W = L^T S R: coarse and wide to fine."""

from zoo.bases.wavelets import Haar as HaarWavelets
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class Haar(SeparableSubspace):
    """K coefficients of the Haar wavelets of both sides.

    Orthonormal, as in `pywt.fswavedecn(W, "haar")` of powers of two, unbalanced wavelets of other
    sizes; K parameters.

        >>> zoo.Haar(8, 8, ratio=0.25).num_trainable
        16
    """

    basis = HaarWavelets()
