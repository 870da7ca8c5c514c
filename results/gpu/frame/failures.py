"""What becomes of a case that fails: a note in its row, so that the next one is measured."""

import torch

from results.gpu.frame.rows import Last


def note(error: Exception, device: str) -> str:
    """Write an error in one line, and let go of what was allocated.

    It is the process' last one if the error has poisoned the device, or left a graph unfinished:
    nothing could be measured after it.
    """
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return Last(line(error))
    return line(error)


def line(error: Exception) -> str:
    """Write an error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]
