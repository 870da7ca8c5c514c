"""How a sweep is stopped: by Ctrl-C or SIGTERM, which it passes on to its trials wherever they run.

A trial may run on another node, and Ctrl-C does not reach it on this one. What all nodes see is the
sweep's folder: a file in it says that the sweep is stopping, and whoever runs a trial looks for
that.
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from zoo.errors import UserError
from zoo.files.access import write_text
from zoo.files.locks import hold

NAME = "sweep.stop"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS = 20.0
"""How long trials get to write their last checkpoint; clusters often kill after 30."""


class Stop:
    """Hear the signals that stop this command.

    Attributes:
        number: the number of the signal, if one has come.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def status(self) -> int:
        """Return the exit status of the command, as shells count it."""
        return 128 + (self.number or signal.SIGINT)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have Ctrl-C and SIGTERM come here, and raise KeyboardInterrupt."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        _set({number: self._remember for number in SIGNALS})
        try:
            yield
        finally:
            _set(before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt again, if a signal has come: something may have swallowed it."""
        if self.number is not None:
            raise KeyboardInterrupt


def _set(handlers: Mapping[int, Any]) -> None:
    # Only the main thread may set handlers, and gets signals.
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, for which Ray sets its own: that raises SystemExit."""
    before: dict[int, Any] = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        _set(before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        _set(before)


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
    """Say whether the sweep in a folder is stopping."""
    return os.path.lexists(out / NAME)


def tell(out: Path, logs: Iterable[Path]) -> None:
    """Have running trials stop, and wait for that, a while.

    Args:
        out: the sweep's folder.
        logs: the trials' logs, each locked while its trial runs.
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
