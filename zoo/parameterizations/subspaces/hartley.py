"""K coefficients of the separable Hartley transform, W = H_m^T S H_n: Fourier's frequencies in real numbers."""

from zoo.bases.fourier import Hartley as HartleyBasis
from zoo.parameterizations.subspaces.separable import SeparableSubspace


class Hartley(SeparableSubspace):
    """K coefficients of the separable (cas-cas) Hartley transform.

    Orthonormal, Re F - Im F of `numpy.fft.fft(norm="ortho")` of each side, lowest frequency first
    (Bracewell, J. Opt. Soc. Am. 73, 1983); K parameters.
    """

    basis = HartleyBasis()
