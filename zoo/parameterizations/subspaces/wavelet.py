"""K coefficients of one level of Haar's wavelets, W = L^T S R: averages and details of neighbours.

It is WaveFT (arXiv 2505.12532) with its default wavelet, db1; K parameters.
"""

from torch import Tensor

from zoo.bases.wavelets import haar_step, haar_unstep
from zoo.parameterizations.subspaces.orthonormal import OrthonormalSubspace


class Wavelet(OrthonormalSubspace):
    """K coefficients of one level of Haar's wavelets.

    Orthonormal, as in `pywt.dwt2(W, "haar")`, so that a coefficient moves four weights that stand
    together, where those of `Haar`, decomposed to the end, move up to all; K parameters. Averages
    stand above and to the left, and W is built of sums, without a multiply-add.

    It is peft's `WaveFT` of even sizes, up to its factor of 25 and its order: there the details of
    rows stand to the right and those of columns below. Of an odd size peft cuts the last pair in
    two, so that its matrices are not orthonormal: here the last weight has no partner. Longer
    wavelets, which peft cuts at the edges of W, are no basis either, and are not here.

        >>> zoo.Wavelet(8, 8, ratio=0.25).num_trainable
        16
    """

    def synthesize(self, plane: Tensor) -> Tensor:
        return haar_unstep(haar_unstep(plane, 0), 1)

    def analyze(self, weight: Tensor) -> Tensor:
        return haar_step(haar_step(weight, 0), 1)

    def building(self) -> tuple[int, int]:
        """Count nothing: neighbours are added and scaled."""
        return 0, 0
