"""What watches or steers a run: ranks, spectrum, checkpoints, progress, signals, its summary."""

from zoo.training.callbacks.adalora import RankAllocator
from zoo.training.callbacks.checkpoint import Checkpoint
from zoo.training.callbacks.predictions import Predictions
from zoo.training.callbacks.progress import Progress
from zoo.training.callbacks.relora import ReLoRA
from zoo.training.callbacks.spectra import SpectralEnergy, StableRank
from zoo.training.callbacks.stop import Stop, Stopped
from zoo.training.callbacks.summary import RunSummary

__all__ = [
    "Checkpoint",
    "Predictions",
    "Progress",
    "RankAllocator",
    "ReLoRA",
    "RunSummary",
    "SpectralEnergy",
    "StableRank",
    "Stop",
    "Stopped",
]
