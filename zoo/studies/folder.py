"""The folder of a report: which files in it are ours, and the facts that stand on top of them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, overload

from zoo.errors import UserError, option
from zoo.files.access import check_new, read_json, remove_left
from zoo.studies.journal import ADAPTERS, JOURNAL, is_journal

JOURNALS = {"mask": JOURNAL, "census": ADAPTERS}
"""Files of results as they come, with which an interrupted command goes on."""
MORE = {
    "mask": (JOURNAL,),
    "census": (ADAPTERS, "census.csv", "adapters.csv"),
    "report": ("report.md", "report.csv"),
    "coordinates": ("coordinates.csv", "rebuild.csv"),
}
"""Files of a report besides its data, its page and its figures."""
INSIDE = {"figures": (".png", ".svg"), "masked": (".safetensors",)}
"""Folders in a report, and what files in them end with."""


def is_ours(folder: Path, name: str) -> Callable[[Path], bool]:
    """Return what says of a file whether it is of an earlier report, whole or interrupted.

    Those that the report's JSON file lists, as it is now; of one that lists none, as reports of
    older versions, what lies at its top. A name alone proves nothing: figures/mine.png may be
    anybody's.
    """
    top = (f"{name}.json", f"{name}.html", *MORE.get(name, ()))
    journal = JOURNALS.get(name)
    known = {journal} if journal and is_journal(folder / journal) else set()
    try:
        listed = read_json(folder / f"{name}.json").get(
            "files", [each for each in top if each != journal]
        )
        known |= (
            {each for each in listed if isinstance(each, str)}
            if isinstance(listed, list)
            else set()
        )
    except UserError:  # no report
        pass

    def ours(file: Path) -> bool:
        inside = (
            file.name in top
            if file.parent == Path()
            else file.suffix in INSIDE.get(str(file.parent), ())
        )
        return inside and file.as_posix() in known

    return ours


@overload
def check_out(out: str | PathLike[str], name: str, force: bool) -> Path: ...


@overload
def check_out(out: str | PathLike[str] | None, name: str, force: bool) -> Path | None: ...


def check_out(out: str | PathLike[str] | None, name: str, force: bool) -> Path | None:
    """Return the folder of a report, if one is wanted; an interrupted study with a journal goes on.

    Args:
        out: the folder, or None.
        name: of the report, as its files have it.
        force: replace an earlier one.

    Raises:
        UserError: if it holds a report and `force` is not given, or anything else, or it cannot be
            made.
    """
    if out is None:
        if force:
            raise UserError(
                f"{option('force')} replaces an earlier report, and goes with {option('out')}"
            )
        return None
    folder = Path(out)
    if folder.parent.is_dir():
        remove_left(folder.absolute())  # before it is asked what is in it
    interrupted = (
        name in JOURNALS
        and folder.is_dir()
        and [entry.name for entry in folder.iterdir()] == [JOURNALS[name]]
    )
    check_new(folder, option("out"), is_ours(folder, name), force or interrupted)
    return folder


def written(out: str | PathLike[str] | None, name: str) -> str:
    """Say where a report was written, after what a command prints; nothing without a folder."""
    folder = None if out is None else Path(out)
    return "" if folder is None else (f"\n\nwritten to  {folder}\nlook        {folder / name}.html")


def facts(command: str, start: float) -> dict[str, Any]:
    """Return how a report came about: version, date, command line, device and seconds.

    Args:
        command: the whole command line, or a call.
        start: when it began, a time of `time.perf_counter`.
    """
    import torch

    from zoo import __version__
    from zoo.provenance import device_name

    return {
        "zoo": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 1),
    }
