"""Weights of structured factors: grids, sums and products of smaller maps."""
