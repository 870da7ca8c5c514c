"""K coefficients of a random orthonormal basis, W = L^T S R with L and R Haar-distributed.

The control for DCT in arXiv 2604.04440: the same number of directions and the same isometry, no
frequencies.
"""

from torch import Tensor

from zoo.bases.seeds import haar_matrix
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class RandomOrthonormal(SeparableSubspace):
    """K coefficients of a random orthonormal basis.

    Separable, Haar-distributed sides, from `seed`; K parameters.

        >>> zoo.RandomOrthonormal(8, 8, ratio=0.25).num_trainable
        16
    """

    def side(self, n: int, axis: int) -> Tensor:
        return haar_matrix(n, self.seed, axis)
