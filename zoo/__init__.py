"""zoo: train any network in any parameterization of its weights."""

__version__ = "0.1.0"
