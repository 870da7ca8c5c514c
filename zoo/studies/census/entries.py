"""What a census is of: adapters named in a list, or all that lie in a folder."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.api.hub import is_id
from zoo.errors import UserError
from zoo.files.access import read_text
from zoo.files.paths import ADAPTER
from zoo.pages.texts import printable
from zoo.runs.adapter_config import CONFIG as OURS
from zoo.runs.peft.adapter import BINARY, CONFIG, TENSORS

OWN_COLUMNS = ("adapter", "name", "before", "alpha", "enable_lora", "cluster", "status")
"""Columns of a list that say how an adapter is read; others are kept beside its numbers."""
LORALIB = (".bin", ".pt", ".pth")
"""What a file of loralib's ends with."""


@dataclass(frozen=True)
class Entry:
    """An adapter that was asked for.

    Args:
        what: a folder, a file or a hub's `user/name`; with `before` any checkpoint. Empty where
            there is none to be had, for the reason in `status`.
        name: what it is called.
        before: the checkpoint that training started from, of a pair.
        alpha: what a file of loralib's was trained with; no measure depends on it, but the norm.
        enable_lora: which parts of loralib's merged layers were trained.
        cluster: adapters that are not independent, as those of one author, share it.
        status: why there is none.
        about: what else the list says: repository, commit, licence, base, task.
    """

    what: str
    name: str
    before: str | None = None
    alpha: float | None = None
    enable_lora: tuple[bool, ...] | None = None
    cluster: str = ""
    status: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, of which `Entry(**data)` is it again."""
        return asdict(self)


def read_list(path: str) -> list[Entry]:
    """Return the adapters that a list names, or that lie in a folder at any depth.

    A list is a `.csv` with a column `adapter` (and any of `OWN_COLUMNS` and others), or a text with
    one adapter a line, where `#` begins a comment. Paths in it are relative to its own folder. What
    is named twice is there once, with the status `duplicate` the second time.

    Raises:
        UserError: if it is not there, damaged, or names nothing.
    """
    place = Path(path)
    if path and place.is_dir():  # an empty word is no folder, though `Path` takes it for this one
        entries = list(_inside(place, place))
        if not entries:
            raise UserError(f"no adapter lies in '{path}': give a folder with some, or a list")
        return entries
    if not path or not place.exists():
        raise UserError(f"no list '{path}': give a text or a .csv that names adapters, or a folder")
    text = read_text(place)
    rows = _rows(path, text) if place.suffix == ".csv" else _lines(text)
    entries = list(_expanded(_entry(path, number, row, place.parent) for number, row in rows))
    if not entries:
        raise UserError(f"'{path}' names no adapter: give one a line")
    return list(_once(entries))


def _lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if word := line.partition("#")[0].strip():
            yield number, {"adapter": word}


def _rows(path: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "adapter" not in (reader.fieldnames or ()):
            raise UserError(f"'{path}' has no column adapter: name it in the first line")
        for row in reader:
            known = {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}
            yield reader.line_num, {key: value.strip() for key, value in known.items()}
    except csv.Error as error:
        raise UserError(f"'{path}' is no CSV file ({error}): use another one") from None


def _entry(path: str, number: int, row: Mapping[str, str], folder: Path) -> Entry:
    where = f"'{path}', line {number}"
    what, before = (_place(row.get(key, ""), folder) for key in ("adapter", "before"))
    if not what and not row.get("status"):
        raise UserError(
            f"{where} names no adapter: give one, or say under status why there is none"
        )
    about = {k: printable(v) for k, v in row.items() if k not in OWN_COLUMNS and v}
    name = printable(row.get("name") or row.get("adapter") or about.get("repository") or "unnamed")
    owner = (about.get("repository") or (row["adapter"] if is_id(what) else "")).partition("/")[0]
    return Entry(
        what=what,
        name=name,
        before=before or None,
        alpha=_number(where, row.get("alpha")),
        enable_lora=_flags(where, row.get("enable_lora")),
        cluster=printable(row.get("cluster") or owner or name),
        status=printable(row.get("status", "")) if not what else "",
        about=about,
    )


def _place(word: str, folder: Path) -> str:
    """Return a path from where we are, or a hub's name as it is."""
    if not word or (is_id(word) and not os.path.exists(folder / word)):
        return word
    path = os.path.normpath(folder / os.path.expanduser(word))
    # What is not there, and was no hub's name in the list, is none for the folder before it.
    return os.path.join(os.curdir, path) if is_id(path) and not os.path.exists(path) else path


def _number(where: str, text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise UserError(f"{where}: alpha must be a number, got {text!r}") from None


def _flags(where: str, text: str | None) -> tuple[bool, ...] | None:
    words = text.lower().replace(",", " ").split() if text else []
    if wrong := [word for word in words if word not in ("true", "false")]:
        raise UserError(f"{where}: enable_lora takes true and false, got {wrong[0]!r}")
    return tuple(word == "true" for word in words) or None


# ---- Folders -------------------------------------------------------------------------------------


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter of peft's or zoo's itself, or is a run of zoo's."""
    names = (CONFIG, OURS, ADAPTER, TENSORS, BINARY)
    return any(os.path.isfile(folder / name) for name in names) or is_run(folder)


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run of zoo's."""
    return any((folder / "checkpoints").glob("*.ckpt"))


def _expanded(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Replace folders that only hold folders with adapters by these."""
    for entry in entries:
        folder = Path(entry.what)
        inside = []
        if entry.what and entry.before is None and os.path.isdir(folder) and not is_adapter(folder):
            inside = list(_inside(folder, folder.parent))
        for each in inside:
            yield Entry(each.what, each.name, cluster=entry.cluster, about=entry.about)
        if not inside:
            yield entry


def _inside(folder: Path, above: Path) -> Iterator[Entry]:
    """Find adapters at any depth, by name; links are not followed, and nothing is read.

    Those below another, as those of its checkpoints, are of its cluster; of files of loralib's
    there are none: they are an optimizer's.
    """
    clusters: dict[str, str] = {}  # of folders below an adapter
    for place, folders, files in os.walk(folder):
        here, cluster = Path(place), clusters.get(os.path.dirname(place))
        folders.sort()
        if is_run(here):
            folders.clear()
        if is_adapter(here):
            found = [here]
        else:
            found = [here / name for name in sorted(files) if name.endswith(LORALIB)]
            found = [] if cluster else found
        for path in found:
            name = printable(path.relative_to(above))
            name = printable(path.absolute().name) if name == "." else name
            yield Entry(os.path.normpath(path), name, cluster=cluster or name)
        if cluster or is_adapter(here):
            clusters[place] = cluster or name


def _once(entries: Iterable[Entry]) -> Iterator[Entry]:
    seen: set[tuple[str | None, ...]] = set()
    for entry in entries:
        here = os.path.exists(entry.what)
        key = (
            os.path.abspath(entry.what) if here else entry.what,
            entry.before,
            None if here else entry.about.get("commit"),
        )
        if entry.what and key in seen:
            yield Entry(
                "", entry.name, cluster=entry.cluster, status="duplicate", about=entry.about
            )
        else:
            yield entry
        seen.add(key)
