"""Orthonormal bases, the order of their coefficients, which K of them, and fast ways to multiply.

It needs torch alone.
"""

from collections.abc import Mapping

from zoo.bases.basis import Basis, Random
from zoo.bases.cosine import Cosine
from zoo.bases.fourier import Fourier, Hartley
from zoo.bases.hadamard import PaddedHadamard
from zoo.bases.wavelets import Haar

TRANSFORMS: Mapping[str, Basis] = {
    basis.name: basis
    for basis in (Cosine(), Fourier(), PaddedHadamard(), Haar(), Random(), Hartley())
}
"""The bases that analyses and masks know, by name."""


def transform(name: str) -> Basis:
    """Return the basis of this name.

    Raises:
        ValueError: for a name that is not in `TRANSFORMS`.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"transform must be {', '.join(TRANSFORMS)}, got {name!r}")
    return TRANSFORMS[name]
