"""What is said on stderr, once for all ranks, and what Lightning is kept from saying."""

import errno
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from zoo.pages.texts import printable


def complain(what: object) -> None:
    """Print a line on stderr, once: what is wrong on one rank is wrong on all."""
    if is_first():
        print(f"zoo: {printable(what)}", file=sys.stderr)


def quiet() -> None:
    """Turn off what Lightning says on every run and no user can act on."""
    for message in (
        ".*LeafSpec.*",
        ".*LightningCLI's args parameter.*",
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = lambda message, *_, **__: complain(message)
    threading.excepthook = _of_a_thread
    for name in (
        "utilities.rank_zero",
        "accelerators.cuda",
        "trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    for name in ("seed", "distributed"):
        logging.getLogger(f"lightning.fabric.utilities.{name}").setLevel(logging.WARNING)


def _of_a_thread(failed: threading.ExceptHookArgs) -> None:
    """Say nothing of a file that TensorBoard's thread cannot write: the next event says it, too."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def file_error(error: OSError, folder: str | None = None) -> str:
    """Say in one line that a file cannot be read or written, with the remedy where a run broke off.

    Args:
        error: what the system said.
        folder: folder of the run that was training, if one was.
    """
    what = (
        f"{error.strerror or error}: {os.fsdecode(error.filename) if error.filename else 'no file'}"
    )
    try:
        os.getcwd()
    except OSError:
        return f"{what}: the current folder was deleted meanwhile; go to another one"
    if folder is None:
        return what
    if not Path(folder).is_dir():
        return (
            f"{what}: the run's folder was removed or moved while it trained; start the run again"
        )
    if not (Path(folder) / "checkpoints" / "last.ckpt").is_file():
        return what
    cause = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}.get(
        error.errno or 0, "mend that"
    )
    return f"{what}: {cause}, then go on with zoo fit --ckpt_path {folder}"


def is_first() -> bool:
    """Say whether this process is the first rank's, as far as is known before any was started."""
    return getattr(rank_zero_only, "rank", 0) == 0
