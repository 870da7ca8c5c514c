"""Layers whose weight is parameterized, and how a network gets them."""
