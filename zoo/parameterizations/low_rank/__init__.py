"""Weights of low-rank factors: a product of two, or a sum of such products."""
