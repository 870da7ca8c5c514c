"""Where something comes from: the machine in words, the commit of the source."""

import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parent
"""The folder that zoo lies in; `tasks` lies beside it."""


def device_name(device: "torch.device") -> str:
    """The accelerator, or the processor, in words."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name") and line.partition(":")[2].strip():
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of zoo's own source, with a + if it has changed since; None outside of a repository."""
    commands = (
        ["git", "rev-parse", "--short", "HEAD"],
        ["git", "status", "--porcelain", "--", "."],
    )
    try:
        found = [
            subprocess.run(
                words, cwd=PACKAGE, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in commands
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[0] + ("+" if found[1] else "")
