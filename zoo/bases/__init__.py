"""Orthonormal bases, the order of their coefficients, which K of them, and fast ways to multiply.

Needs torch alone.
"""
