"""K weights at fixed places, all others zero, W = S: the standard basis, in which Adam is at home.

What DCT and RandomOrthonormal are compared with when the question is what a transform adds to
trained places alone; known as sparse training with a fixed random mask (arXiv 2202.02643).
"""

from zoo.parameterizations.subspaces.separable import SeparableSubspace


class Sparse(SeparableSubspace):
    """K weights at fixed places, the others 0.

    No transform; K parameters.

        >>> zoo.Sparse(8, 8, ratio=0.25).num_trainable
        16
    """

    def side(self, n: int, axis: int) -> None:
        return None
