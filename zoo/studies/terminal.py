"""What commands that write a report share: lists, folder, progress bar and the facts on top."""

import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError, did_you_mean
from zoo.files.access import check_new, read_json, remove_left

if TYPE_CHECKING:
    from zoo.runs.updates import Source

SMALL = 8
LAB = ("scipy", "matplotlib", "pandas", "jinja2")
"""Packages of the extra `lab`."""
JOURNAL = "evaluations.jsonl"
MORE = {
    "mask": (JOURNAL,),
    "report": ("report.md", "report.csv"),
    "coordinates": ("coordinates.csv", "rebuild.csv"),
}
"""Files of a report besides its data, its page and its figures."""
INSIDE = {"figures": (".png", ".svg"), "masked": (".safetensors",)}
"""Folders in a report, and what files in them end with."""


def words(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the words of a list with commas, all of them known, each once.

    Raises:
        UserError: naming one that is not, or if there is none.
    """
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if wrong := [word for word in found if word not in known] or ([] if found else [text]):
        raise UserError(f"{option} takes some of {','.join(known)}, got {wrong[0]!r}")
    return found


def split(argv: Sequence[str], prefixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Set options with a prefix apart, as `--data.key=value`: they are those of `zoo fit`."""
    own, passed = [], []
    arguments = iter(argv)
    for word in arguments:
        if not word.startswith(prefixes):
            own.append(word)
        else:
            passed.append(word if "=" in word else f"{word}={next(arguments, '')}")
    return own, passed


def need_extra(*more: str) -> None:
    """Make sure that the packages of `lab`, and `more`, are installed.

    Raises:
        UserError: naming the extra.
    """
    for name in (*LAB, *more):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f'this command needs {name}, which is not installed: pip install -e ".[lab]"'
            )


def is_ours(folder: Path, name: str) -> Callable[[Path], bool]:
    """Return what says of a file whether it is of an earlier report, whole or interrupted.

    Those that the report's JSON file lists, as it is now; of one that lists none, as reports of
    older versions, what lies at its top. A name alone proves nothing: figures/mine.png may be
    anybody's.
    """
    from zoo.studies.journal import is_journal

    top = (f"{name}.json", f"{name}.html", *MORE.get(name, ()))
    known = {JOURNAL} if JOURNAL in top and is_journal(folder / JOURNAL) else set()
    try:
        listed = read_json(folder / f"{name}.json").get(
            "files", [each for each in top if each != JOURNAL]
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


def check_out(out: str | None, name: str, force: bool) -> Path | None:
    """Return the folder of a report, if one is wanted; an interrupted `zoo mask` is gone on with.

    Args:
        out: the folder, or None.
        name: of the report, as its files have it.
        force: replace an earlier one.

    Raises:
        UserError: if it holds a report and --force is not given, or anything else, or it cannot be
            made.
    """
    if out is None:
        if force:
            raise UserError("--force replaces an earlier report, and goes with --out")
        return None
    folder = Path(out)
    if folder.parent.is_dir():
        remove_left(folder.absolute())  # before it is asked what is in it
    interrupted = (
        name == "mask"
        and folder.is_dir()
        and [entry.name for entry in folder.iterdir()] == [JOURNAL]
    )
    check_new(folder, "--out", is_ours(folder, name), force or interrupted)
    return folder


def read_all(runs: Sequence[str], **options: Any) -> list["Source"]:
    """Read the updates of runs, each once, with names, groups and notes.

    Args:
        runs: their folders or files.
        options: of `zoo.runs.updates.read`.
    """
    from zoo.runs.names import label
    from zoo.runs.run import repeated
    from zoo.runs.updates import read

    sources = label([read(run, **options) for run in dict.fromkeys(map(os.path.normpath, runs))])
    for source in sources:
        source.notes.extend(note for name, note in repeated(sources).items() if name == source.name)
        if any(min(update.shape) < SMALL for update in source.updates.values()):
            source.notes.append(
                f"has matrices with fewer than {SMALL} rows or columns, too small to say much"
            )
    return sources


class Bar:
    """Show a progress bar on stderr, from two seconds on, where that is a terminal.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            desc=what,
            unit="",
            leave=False,
            delay=2,
            dynamic_ncols=True,
            disable=None,
            file=sys.stderr,
        )

    def expect(self, total: int) -> Callable[[], object]:
        """Say how many there are; what is returned counts one."""
        self.bar.reset(total=total)
        return self.bar.update

    def close(self) -> None:
        """Remove it."""
        self.bar.close()


def facts(command: str, argv: Sequence[str], start: float) -> dict[str, Any]:
    """Return how a report came about: version, date, command line, device and seconds.

    Args:
        command: of zoo.
        argv: its arguments.
        start: when it began, a time of `time.perf_counter`.
    """
    import torch

    from zoo import __version__
    from zoo.provenance import device_name

    return {
        "zoo": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["zoo", command, *argv]),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """Return whole numbers, ascending, each once.

    Raises:
        UserError: naming one that is none or too small.
    """
    found = set()
    for word in text.split(","):
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise UserError(
                f"{option} takes whole numbers from {least} on, as in 64,128, got {word.strip()!r}"
            )
        found.add(value)
    return sorted(found)


def parameterizations(text: str) -> dict[str, type]:
    """Return classes by the names that are given, shipped ones or paths.

    Raises:
        UserError: naming one that is none, and the nearest.
    """
    import zoo.parameterizations as zoo
    from zoo.cli.check import find

    known = [name for name in zoo.__all__ if not inspect.isabstract(getattr(zoo, name))]
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    if unknown := [name for name in names if "." not in name and name not in known]:
        hint = did_you_mean(unknown[0], known, f"there are {', '.join(known)}")
        raise UserError(f"--parameterization: {unknown[0]!r} is none{hint}")
    return {name: find(name) for name in names}
