"""A process that is run within its time, and of which nothing stays, whatever ends it."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGKILL
from typing import IO, NamedTuple

KEPT = 1 << 16
"""Bytes of what a process says that are kept, the last ones."""
LOOK = 0.05
"""Seconds between looks at whether it has ended."""


class Ended(NamedTuple):
    """How a process ended."""

    status: int | None  # negative for a signal; None if it was killed here, its time being over
    said: str  # on stdout and stderr


def run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> Ended:
    """Run a process within its time, and kill what is left of it and of those that it started.

    They are a session of their own, beside which a shell waits for the end of this process: it
    kills them if this process is killed. What they say is read all the time, so that no one waits
    for a reader, and by a thread that nobody waits for, should one of them live on with its end of
    the pipe.
    """
    # The guard is there first: nothing runs for which no one waits.
    guard = subprocess.Popen(
        ["sh", "-c", 'read -r number; read -r line; kill -s KILL -- "-$number"'],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    part, over, kept = None, False, bytearray()
    try:
        part = subprocess.Popen(
            command,
            env=dict(environment, PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert guard.stdin is not None and part.stdout is not None
        guard.stdin.write(b"%d\n" % part.pid)
        guard.stdin.flush()
        reader = threading.Thread(target=_read, args=(part.stdout, kept), daemon=True)
        reader.start()
        end = time.monotonic() + seconds
        # Its number stays its own until it is waited for: nobody else is killed in its place.
        while not os.waitid(os.P_PID, part.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if over := time.monotonic() > end:
                break
            time.sleep(LOOK)
    finally:
        guard.kill()
        guard.communicate()
        if part is not None:
            with suppress(ProcessLookupError):
                os.killpg(part.pid, SIGKILL)
            part.wait()
    reader.join(1.0)
    return Ended(None if over else part.returncode, bytes(kept).decode(errors="replace"))


def _read(pipe: IO[bytes], kept: bytearray) -> None:
    """Keep the last of what comes through a pipe, until its end."""
    with pipe:
        while some := os.read(pipe.fileno(), KEPT):
            kept += some
            del kept[:-KEPT]
