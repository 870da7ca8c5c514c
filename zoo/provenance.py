"""Where something comes from: the machine in words, the commit of the source."""

import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parent
"""The folder that zoo lies in; `tasks` lies beside it."""
CODE = ("zoo", "tasks", "configs", "results/*.py")
"""What a measurement depends on, as git's paths; the tables that measurements fill are left out."""


def device_name(device: "torch.device") -> str:
    """Name the accelerator, or the processor, in words."""
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
    """Name the commit of this source tree, with a + if code has changed since.

    None without git, and where zoo does not lie in a repository of its own: one that is installed
    may lie within somebody else's.
    """
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *CODE)
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
