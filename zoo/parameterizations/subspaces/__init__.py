"""Subspaces: K members of an orthonormal basis of the (m, n) matrices, which are trained."""
