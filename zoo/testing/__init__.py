"""The conformance suite: every contract of `WeightParameterization`, as a test to inherit.

In a test file, for pytest:

    class TestMyBasis(OrthonormalTestCase):
        parameterization = MyBasis
        arguments = {"ratio": 0.5}

or without one: `zoo check my_basis.MyBasis`. What holds of every map is in
`ParameterizationTestCase`, of maps of a frozen W0 in `OfBaseTestCase`, what holds of isometries
besides in `IsometryTestCase`, of orthonormal subspaces in `OrthonormalTestCase`, and of those with
one matrix a side in `SeparableTestCase`: take the furthest that applies. Algebra is checked in
float64. No test needs pytest itself.
"""

from zoo.testing.case import TOLERANCE, Case, Shape, agree
from zoo.testing.layers import ParameterizationTestCase
from zoo.testing.of_base import OfBaseTestCase
from zoo.testing.orthonormal import IsometryTestCase, OrthonormalTestCase, SeparableTestCase
from zoo.testing.running import case_for, conformance

__all__ = [
    "TOLERANCE",
    "Case",
    "IsometryTestCase",
    "OfBaseTestCase",
    "OrthonormalTestCase",
    "ParameterizationTestCase",
    "SeparableTestCase",
    "Shape",
    "agree",
    "case_for",
    "conformance",
]
