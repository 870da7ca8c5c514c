"""What watches a run: rank, spectrum, checkpoints, progress, signals, and what it leaves at its end."""

from zoo.callbacks.checkpoint import Checkpoint
from zoo.callbacks.predictions import Predictions
from zoo.callbacks.progress import Progress
from zoo.callbacks.spectra import SpectralEnergy, StableRank
from zoo.callbacks.stop import Stop, Stopped
from zoo.callbacks.summary import RunSummary

__all__ = ["Checkpoint", "Predictions", "Progress", "RunSummary", "SpectralEnergy", "StableRank", "Stop", "Stopped"]
