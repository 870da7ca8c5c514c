"""Becomes `zoo`, and dies with its parent: `python -m zoo.sweep.child PARENT fit ...`."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Replace this process; Linux keeps its promise across that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(argv[0]):  # it died before the promise
        raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "zoo", *argv[1:]])


if __name__ == "__main__":
    main(sys.argv[1:])
