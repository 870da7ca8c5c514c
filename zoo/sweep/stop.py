"""How a sweep is stopped: by Ctrl-C or SIGTERM, which it passes on to its trials wherever they run.

A trial may run on another node, and Ctrl-C does not reach it on this one. What all nodes see is the sweep's folder: a
file in it says that the sweep is stopping, and whoever runs a trial looks for that.
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from zoo.errors import UserError
from zoo.files import write_text
from zoo.locks import hold

NAME = "sweep.stop"
SECONDS = 20.0
"""That trials get to write their last checkpoint; clusters often kill after 30."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def status(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that was stopped, as shells count it."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)


def listen() -> None:
    """Have SIGTERM raise `Terminated`, if this is the thread that gets it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def listening() -> Iterator[None]:
    """Have SIGTERM raise `Terminated` meanwhile."""
    before = signal.getsignal(signal.SIGTERM)
    listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def clear(out: Path) -> None:
    """Let trials run, whatever became of the sweep before.

    Raises:
        UserError: if something else than a file is in the way.
    """
    try:
        (out / NAME).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove '{out / NAME}': {error.strerror}; move it away") from None


def asked(out: Path) -> bool:
    """Whether the sweep in a folder is stopping."""
    return os.path.lexists(out / NAME)


def tell(out: Path, logs: Iterable[Path]) -> None:
    """Have running trials stop, and wait for that, a while.

    Args:
        out: the sweep's folder.
        logs: of the trials, each locked while its trial runs.
    """
    try:
        write_text(out / NAME, "")
    except OSError:  # a full disk: they will be killed, and go on from the checkpoint before
        return
    end, left = time.monotonic() + SECONDS, list(logs)
    while (left := [path for path in left if _is_locked(path)]) and time.monotonic() < end:
        time.sleep(0.1)


def _is_locked(path: Path) -> bool:
    number = hold(path)
    if number is not None:
        os.close(number)
    return number is None and path.is_file()
