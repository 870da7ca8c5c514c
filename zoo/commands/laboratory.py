"""What `zoo analyze` and `zoo mask` share: their lists, folder, progress bar and the facts on top of a report."""

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files import check_new

WRITTEN = ("analysis.json", "analysis.html", "mask.json", "mask.html", "figures", "masked", "evaluations.jsonl")
"""What the two commands write into a folder, and --force replaces."""
SHARED: dict[str, dict[str, Any]] = {
    "--transform": {"default": "dct", "metavar": "NAMES", "help": "some of dct,fourier,hadamard,haar; by default dct"},
    "--backbone": {"default": None, "metavar": "FOLDER", "help": "where the pretrained network is now, if moved"},
    "--force": {"action": "store_true", "help": "replace an earlier report in --out"},
}
"""Options of both."""
JOURNAL = "evaluations.jsonl"


def words(option: str, text: str, known: Sequence[str]) -> list[str]:
    """A list with commas, of words that are known, each once.

    Raises:
        UserError: naming one that is not, or if there is none.
    """
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if wrong := [word for word in found if word not in known] or ([] if found else [text]):
        raise UserError(f"{option} takes some of {','.join(known)}, got {wrong[0]!r}")
    return found


def need_extra() -> None:
    """Raises UserError naming the extra, if a library of it is not installed."""
    for name in ("scipy", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f'the laboratory needs {name}, which is not installed: pip install -e ".[lab]"')


def check_out(out: str | None, force: bool) -> Path | None:
    """The folder of a report, if one is wanted; an interrupted one is gone on with.

    Raises:
        UserError: if it holds a report and --force is not given, or anything else, or it cannot be made.
    """
    if out is None:
        if force:
            raise UserError("--force replaces an earlier report, and goes with --out")
        return None
    folder = Path(out)
    interrupted = folder.is_dir() and [entry.name for entry in folder.iterdir()] == [JOURNAL]
    check_new(folder, "--out", WRITTEN, force or interrupted)
    return folder


class Bar:
    """A progress bar on stderr, from two seconds on, where that is a terminal.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=what, unit="", leave=False, delay=2, dynamic_ncols=True, disable=None, file=sys.stderr)

    def expect(self, total: int) -> Callable[[], object]:
        """Say how many there are; what is returned counts one."""
        self.bar.reset(total=total)
        return self.bar.update

    def close(self) -> None:
        """Remove it."""
        self.bar.close()


def columns(rows: list[tuple[str, ...]], left: int) -> list[str]:
    """Rows of cells, aligned: the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{cell:{'<' if i < left else '>'}{w}}" for i, (cell, w) in enumerate(cells)).rstrip())
    return lines


def facts(command: str, argv: Sequence[str], start: float) -> dict[str, Any]:
    """Version, date, command line, device and seconds since `start`, a time of `time.perf_counter`."""
    import torch

    from zoo import __version__
    from zoo.callbacks.summary import device_name

    return {
        "zoo": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["zoo", command, *argv]), "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - start, 1),
    }
