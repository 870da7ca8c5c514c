"""The folder of the tables: held by one run, with rows of one commit and one device."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from results.gpu import PARTS
from results.gpu.frame.options import Mistake
from results.gpu.frame.rows import SOURCE, read
from results.gpu.frame.wheels import ROOT

ROOM = 1 << 21
"""Bytes that must be free where the tables are: more than all of them take."""


def source_of(small: bool) -> dict[str, str]:
    """Return the columns that tell where a row comes from."""
    import torch

    from zoo.provenance import device_name

    device = device_name(
        torch.device("cpu" if small else "cuda" if torch.cuda.is_available() else "cpu")
    )
    command = "bash results/gpu.sh" + " --small" * small
    return {
        "command": command,
        "commit": _commit(),
        "device": f"{device}, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str:
    """Name the code that is measured: its commit, or a hash where that does not say it all.

    The code of a tree that has changed, or that was copied without its repository, is told from
    another's by the hash.
    """
    from zoo.provenance import commit

    known = commit()
    if known is not None and not known.endswith("+"):
        return known
    digest = hashlib.sha256()
    for folder, pattern in (
        ("zoo", "*.py"),
        ("tasks", "*.py"),
        ("results/gpu", "*.py"),
        ("configs", "*.yaml"),
    ):
        for path in sorted((ROOT / folder).rglob(pattern)):
            digest.update(path.read_bytes())
    return f"{known or ''} sources {digest.hexdigest()[:7]}".lstrip()


@contextmanager
def held(out: Path, source: dict[str, str]) -> Iterator[None]:
    """Hold the folder of the tables for this run.

    Rows that it has already must be of this commit and device.
    """
    for name, part in PARTS.items():
        try:
            rows = read(out / f"{name}.csv", [*part.case, *part.measured, *SOURCE])
        except ValueError as error:
            raise Mistake(f"--out: {error}: move it away, or give another folder") from None
        for row in rows:
            for column in ("command", "commit", "device"):
                if row[column] != source[column]:
                    raise Mistake(
                        f"--out '{out}' has rows of another {column}, '{row[column]}': "
                        "give another folder"
                    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        number = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Mistake(f"--out '{out}': {error.strerror}") from None
    try:
        if not os.access(out, os.W_OK | os.X_OK):
            raise Mistake(f"--out '{out}' cannot be written: give another folder")
        if shutil.disk_usage(out).free < ROOM:
            raise Mistake(f"--out '{out}' is on a full disk: give another folder")
        try:
            # The folder is locked, since no file of it is more than a table.
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(
                f"--out '{out}' is being written by another run: give another folder"
            ) from None
        except OSError:
            pass  # no locks on this file system
        yield
    finally:
        os.close(number)
