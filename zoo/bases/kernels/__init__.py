"""Kernels for GPUs, which come with `pip install -e ".[kernels]"`.

Nothing here is imported, nor is triton, until it is asked for.
"""

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

MAX_TOKENS, MAX_BLOCK = 64, 64
"""The most tokens, and the longest side of a block, that `block_linear` takes."""
TOKENS = {"cpu": 64, "cuda": 64}
"""Most tokens for which the kernel is taken where products without W are, by type of device.

"cpu" is Triton's interpreter; "cuda" is all that the kernel takes, unmeasured: `python -m
results.gpu.thresholds`.
"""


@lru_cache(maxsize=1)
def _installed() -> bool:
    return find_spec("triton") is not None


def available(device: torch.device | str) -> bool:
    """Say whether kernels run on a device, given triton.

    They do on NVIDIA GPUs of capability 8.0 on, and on the CPU with TRITON_INTERPRET=1.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return (
            _installed()
            and torch.version.cuda is not None
            and torch.cuda.get_device_capability(device) >= (8, 0)
        )
    return device.type == "cpu" and _installed() and os.environ.get("TRITON_INTERPRET") == "1"
