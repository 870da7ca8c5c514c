"""Locks that a killed process does not leave behind: `flock`, given up when its holder dies."""

import fcntl
import os
from pathlib import Path


def hold(path: Path) -> int | None:
    """Lock a file or folder that is there, without waiting.

    Args:
        path: of the file or folder; a folder that lies on a file system without such locks cannot
            be locked.

    Returns:
        A file descriptor that holds the lock until it is closed, also by the death of this process.
        None if somebody else holds it, if it is gone, or if it cannot be locked there.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(number), os.stat(path)):  # else it was replaced in between
            return number
    except OSError:
        pass
    os.close(number)
    return None


class Lock:
    """Hold a lock file that names its holder.

    Args:
        path: the file, in a folder that is there; it is gone again after `release`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number: int | None = None

    def acquire(self) -> bool:
        """Take the lock, if nobody has it; says whether that worked.

        Where the file system has no locks, whoever asks gets it.

        Raises:
            OSError: if the file cannot be made.
        """
        while self._number is None:
            number = os.open(
                self.path,
                os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
                0o666,
            )
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
                return False
            except OSError:  # no locks on this file system
                self._number = number
                break
            try:
                if os.path.samestat(os.fstat(number), os.lstat(self.path)):
                    self._number = number
                    break
            except FileNotFoundError:
                pass
            os.close(number)  # its last holder has just removed it
        assert self._number is not None
        os.ftruncate(self._number, 0)
        os.pwrite(self._number, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        return True

    def holder(self) -> str:
        """Say who has it: `<process> on <machine>`, or `another process` if unknown."""
        try:
            number = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return "another process"
        with os.fdopen(number, "rb") as file:
            said = file.read(200).decode(errors="replace").strip()
        return said if said.isprintable() and said else "another process"

    def release(self) -> None:
        """Give it up, and remove the file."""
        if self._number is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._number)
            self._number = None
