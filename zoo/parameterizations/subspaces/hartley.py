"""K coefficients of the separable Hartley transform, W = H_m^T S H_n: a real Fourier basis."""

from zoo.bases.fourier import Hartley as HartleyBasis
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class Hartley(SeparableSubspace):
    """K coefficients of the cas-cas Hartley transform.

    Orthonormal and separable, Re F - Im F of `numpy.fft.fft(norm="ortho")` of each side, lowest
    frequency first (Bracewell, J. Opt. Soc. Am. 73, 1983); K parameters.

        >>> zoo.Hartley(8, 8, ratio=0.25).num_trainable
        16
    """

    basis = HartleyBasis()
