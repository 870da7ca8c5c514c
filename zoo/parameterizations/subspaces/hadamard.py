"""K coefficients of the Walsh-Hadamard basis, W = H_m^T S H_n with entries of one size."""

from zoo.bases.hadamard import BlockHadamard
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class Hadamard(SeparableSubspace):
    """K coefficients of the Walsh-Hadamard basis.

    Orthonormal, as in `scipy.linalg.hadamard` by sequency, over the root of its size. A size that
    has no Hadamard matrix is cut into the largest that have one (100 = 96 + 4), each transformed by
    itself; K parameters.

        >>> zoo.Hadamard(8, 8, ratio=0.25).num_trainable
        16
    """

    basis = BlockHadamard()
