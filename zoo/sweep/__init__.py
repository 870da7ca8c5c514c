"""Sweeps: a grid of fits, planned, tuned and run, each an ordinary run in a folder of its own."""
