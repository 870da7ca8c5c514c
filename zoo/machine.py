"""The machine in words. Needs torch alone."""

import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """The accelerator, or the processor, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name") and line.partition(":")[2].strip():
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
