"""Weights of low-rank factors: a product of two, or a sum of such products."""

from zoo import say_where_names_are

say_where_names_are(__name__)
